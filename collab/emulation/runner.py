"""Runs a scenario with real nodes over emulated links; the results are those of the simulator's kind."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from collab.client.wiring import entry
from collab.core.codecs import parse_codec
from collab.core.plan import Plan, to_json
from collab.core.profile import Profile
from collab.emulation.ability import BackendName, machine_lacks
from collab.emulation.ceiling import measure_ceiling
from collab.emulation.counters import EmulatorCounts
from collab.emulation.layout import changes_of
from collab.emulation.orders import Ask, Close, Deploy, Measure, Open, Undeploy
from collab.emulation.overload import HostTimes, overloaded
from collab.emulation.placing import distrusted, limits_of, real_plan
from collab.emulation.plans import Field, Placed, placed_plans
from collab.emulation.results import Asking, Carried, Results
from collab.emulation.scenario import PlanChoice, Scenario
from collab.emulation.scenario_check import check_profile, check_scenario
from collab.emulation.seen import profile_as_seen
from collab.emulation.simulator import marks_of, plan_run
from collab.emulation.site import Site
from collab.emulation.timeline import timeline
from collab.emulation.traces import Trace
from collab.emulation.turns import deal, expected_requests
from collab.errors import BackendError, CollabError, ConfigError
from collab.graph import Graph
from collab.transport.aio import BaseExceptionGroup, TaskGroup

_SETTLE_S: Final = 0.3
"""After the links' start, so that what was lost then is repaired before the first request."""
_PATIENCE_S: Final = 30.0

Progress = Callable[[str, int, int], None]
"""What is under way, the requests that have ended, and all of them."""


@dataclass(frozen=True)
class Material:
    """The files that a scenario names, read."""

    model: Path
    graph: Graph
    folder: Path
    """From which plan files' models lead."""
    profile: Profile | None = None
    """None: it is measured on the emulated hosts."""
    plans: Mapping[str, Plan] = field(default_factory=dict)
    traces: Mapping[str, Trace] = field(default_factory=dict)


def check_emulated(scenario: Scenario, material: Material) -> None:
    """Refuse what can only be simulated, or is not of this model; raises `ConfigError`."""
    network = check_scenario(scenario)
    if len(network.behind_nat) == len(network.hosts):
        raise ConfigError(
            "nat: every host is behind one; leave one out, through which the others can be reached"
        )
    if material.profile is not None:
        check_profile(scenario, material.profile)
        if material.profile.model_sha256 != material.graph.sha256:
            raise ConfigError(
                f"profile: it is of model {material.profile.model_sha256[:12]}, the scenario's model is "
                f"{material.graph.sha256[:12]}; measure it with: collab profile, or leave it out"
            )


class Emulation:
    """One run of a scenario; `run` does it, and what it has found so far is in it."""

    def __init__(
        self,
        scenario: Scenario,
        material: Material,
        backend: BackendName = "auto",
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        check_emulated(scenario, material)
        self._scenario, self._material = scenario, material
        self._backend, self._progress = backend, progress
        self._network = check_scenario(scenario)
        self._placed: tuple[Placed, ...] = ()
        self._askings: list[Asking] = []
        self._carried: list[Carried] = []
        self._notes: list[str] = []
        self._late: list[EmulatorCounts] = []
        self._how = ""
        self.measured: Profile | None = None
        """What was measured on the hosts, where the scenario has no profile; in the end as the run saw it."""
        self._ended = self._total = 0

    async def run(self, stop: asyncio.Event) -> Results:
        """Everything, or what was done when ``stop`` is set, which is then marked as partial.

        Raises:
            BackendError: the machine cannot emulate.
            ConfigError: the scenario is impossible.
            PeerUnreachable: a process on an emulated host does not start.
        """
        missing = machine_lacks()
        if missing:
            raise BackendError(missing)
        work = asyncio.ensure_future(self._work())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            partial = not work.done()
            if partial:
                work.cancel()
                with suppress(asyncio.CancelledError, CollabError, BaseExceptionGroup):
                    await work
            else:
                work.result()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            stopped.cancel()
            work.cancel()
        results = self._results(partial)
        if self.measured is not None:
            self.measured = profile_as_seen(self.measured, [one.plan for one in self._placed], results)
        return results

    async def _work(self) -> None:
        with tempfile.TemporaryDirectory(prefix="collab-emulate-", ignore_cleanup_errors=True) as name:
            self._progress("starting nodes", 0, 0)
            site = Site(
                self._scenario,
                self._network,
                self._material.model,
                self._material.traces,
                self._backend,
                Path(name),
            )
            async with site:
                choice = site.net.choice
                assert choice is not None
                self._progress("measuring what the emulator can carry", 0, 0)
                ceiling = await asyncio.to_thread(measure_ceiling, choice.backend)
                self._how = (
                    f"Emulated by the {choice.backend} back end ({choice.why}); on this machine one TCP "
                    f"stream gets {ceiling:,.0f} Mbit/s through it at most."
                )
                await self._every_plan(site)

    async def _every_plan(self, site: Site) -> None:
        scenario = self._scenario
        known = await self._field(site)
        self._placed = placed_plans(known, self._material.plans)
        plans = [await asyncio.to_thread(self._write, site, *pair) for pair in self._pairs()]
        for one in self._placed:
            self._notes += distrusted(known, one, limits_of(scenario.machines))
        runs = [deal(scenario.workload, len(site.desks), self._seed(r)) for r in range(scenario.repetitions)]
        each = [expected_requests(scenario.workload, turns) for turns in runs]
        self._total = sum(count or 0 for count in each) * len(plans)
        for repetition in range(scenario.repetitions):
            for plan, file, folder in plans:
                await self._run(site, plan, file, folder, repetition)

    def _seed(self, repetition: int) -> int:
        return self._scenario.seed + repetition

    def _pairs(self) -> list[tuple[Placed, str | PlanChoice]]:
        return list(zip(self._placed, self._scenario.plans, strict=True))

    async def _field(self, site: Site) -> Field:
        """What the planner goes by: the scenario's profile, or times measured on the hosts."""
        if self._material.profile is not None:
            return Field(self._scenario, self._network, self._material.profile, traces=self._material.traces)
        self._progress("profiling", 0, 0)
        done = await site.desks[0].obey(Measure(self._codecs()))
        assert done.profile is not None
        self.measured = done.profile
        self._notes += done.warnings
        machines = self._scenario.machines
        measured = {
            device.name: device
            if machines[device.name].memory_mb is None
            else msgspec.structs.replace(
                device, memory_bytes=int((machines[device.name].memory_mb or 0) * 1e6)
            )
            for device in done.profile.devices
        }
        return Field(self._scenario, self._network, done.profile, measured, traces=self._material.traces)

    def _codecs(self) -> tuple[str, ...]:
        """All that plans may choose from."""
        named = (
            str(parse_codec(codec))
            for choice in self._scenario.plans
            if isinstance(choice, PlanChoice)
            for codec in choice.codecs
        )
        return tuple(codec for codec in dict.fromkeys(named) if codec != "raw")

    def _write(self, site: Site, placed: Placed, choice: str | PlanChoice) -> tuple[Plan, Path, Path]:
        """The plan, its file for the processes that ask, and where its models' paths begin."""
        material = self._material
        transport = self._scenario.cluster.transport
        plan = real_plan(placed, choice, material.model, material.graph, site.refs(), transport)
        file = site.folder / f"plan-{plan.name}.json"
        file.write_bytes(to_json(plan))
        where = choice.file if isinstance(choice, PlanChoice) and choice.file is not None else ""
        return plan, file, (material.folder / where).parent if where else material.folder

    # --- one plan in one repetition ----------------------------------------------------

    async def _run(self, site: Site, plan: Plan, file: Path, folder: Path, repetition: int) -> None:
        what = f"plan {plan.name}, repetition {repetition + 1}"
        self._progress(what, self._ended, self._total)
        await site.desks[0].obey(Deploy(str(file), str(folder)))
        await site.set_links()
        credits = self._credits(site, plan)
        for desk in site.desks:
            await desk.obey(Open(str(file), credits))
        await site.restart_links(self._seed(repetition))
        before = HostTimes.now()
        await self._ask(site, repetition, lambda asking: self._asked(asking, what))
        after, counts = HostTimes.now(), await site.counts()
        self._late.append(counts)
        self._notes += [f"Not to be trusted, {what}: {line}." for line in overloaded(counts, before, after)]
        self._carried += [
            Carried(plan.name, repetition, leg, seen.packets, seen.bytes, dict(seen.drops))
            for leg, seen in counts.directions.items()
            if seen.packets
        ]
        await site.open_links()
        self._notes += [f"{what}: {line}." for line in await site.repair()]
        for desk in site.desks:
            await desk.obey(Close())
        await site.desks[0].obey(Undeploy())

    def _credits(self, site: Site, plan: Plan) -> int:
        """Of one process that asks: every entry node has credits for all of them."""
        cluster, askers = self._scenario.cluster, len(site.desks)
        if askers == 1:
            return int(getattr(self._scenario.workload, "concurrency", cluster.credits))
        return max(1, cluster.credits // (askers * len(plan.stage(entry(plan)).nodes)))

    async def _ask(self, site: Site, repetition: int, asked: Callable[[Asking], None]) -> None:
        """Let the workload, and what goes wrong meanwhile, happen."""
        turns = deal(self._scenario.workload, len(site.desks), self._seed(repetition))
        begin_s = asyncio.get_running_loop().time() + _SETTLE_S
        async with TaskGroup() as group:
            happening = group.create_task(self._happen(site, begin_s))
            async with TaskGroup() as asking:
                for desk, mine in zip(site.desks, turns, strict=True):
                    if not mine.idle:
                        within_s = (
                            _PATIENCE_S + mine.longest_pause_s + self._scenario.workload.deadline_ms / 1e3
                        )
                        asking.create_task(desk.obey(Ask(mine, begin_s, repetition), asked, within_s))
            happening.cancel()

    async def _happen(self, site: Site, begin_s: float) -> None:
        changes = changes_of(self._scenario, self._network)
        for at_s, what in timeline(self._network, changes, self._scenario.faults):
            await asyncio.sleep(max(0.0, begin_s + at_s - asyncio.get_running_loop().time()))
            await site.let(what)

    def _asked(self, asking: Asking, what: str) -> None:
        self._ended += 1
        self._progress(what, self._ended, self._total)
        if asking.request >= self._scenario.workload.warmup:
            self._askings.append(asking)

    # --- what came of it ---------------------------------------------------------------

    def _results(self, partial: bool) -> Results:
        return Results(
            scenario=self._scenario.name,
            kind="emulated",
            seed=self._scenario.seed,
            plans=tuple(map(plan_run, self._placed)),
            deadline_ms=self._scenario.workload.deadline_ms,
            askings=tuple(self._askings),
            carried=tuple(self._carried),
            marks=marks_of(self._scenario),
            notes=tuple(filter(None, (self._how, lateness(self._late), *self._notes))),
            partial=partial,
        )


def lateness(runs: Sequence[EmulatorCounts]) -> str:
    """How late the emulator was at worst; empty without a run."""
    if not runs:
        return ""
    p50, p99, longest = (
        max(getattr(counts, name) for counts in runs)
        for name in ("late_p50_us", "late_p99_us", "late_longest_us")
    )
    return (
        f"Packets left the emulator {p50:.0f} µs late in the median, {p99:.0f} µs in 99 of 100 and "
        f"{longest:.0f} µs at most; it used {max(counts.busy for counts in runs):.0%} of a core."
    )


def _first(errors: BaseException) -> BaseException:
    """What really happened, of errors in groups of groups."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
