"""The simulator: a scenario's plans in virtual time, by the state machines of real nodes and clients."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product

from collab.client.actions import Answer
from collab.core.plan import Plan
from collab.core.profile import Profile
from collab.emulation.arrivals import arrival_times
from collab.emulation.askers import Asker
from collab.emulation.base import stream
from collab.emulation.faults import Faults
from collab.emulation.layout import changes_of
from collab.emulation.plans import Field, Placed, placed_plans
from collab.emulation.results import Asking, Carried, HopTime, Mark, PlanRun, Results
from collab.emulation.scenario import Closed, FaultSpec, Poisson, Scenario
from collab.emulation.scenario_check import check_profile, check_scenario
from collab.emulation.traces import Trace
from collab.emulation.world import World

_TOLD = 500
"""Requests between two calls of it."""
_YOUNG = 200_000
"""Objects between two looks of the garbage collector."""


@dataclass(frozen=True)
class Inputs:
    """The files that a scenario names, read."""

    profile: Profile
    plans: Mapping[str, Plan] = field(default_factory=dict)
    traces: Mapping[str, Trace] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One plan in one repetition: what processes and clusters of machines get to do."""

    askings: tuple[Asking, ...]
    carried: tuple[Carried, ...]
    partial: bool = False
    """Whether it was interrupted; what was under way then is left out."""


def prepare(scenario: Scenario, inputs: Inputs) -> tuple[Field, tuple[Placed, ...]]:
    """Check a scenario and make its plans; raises `ConfigError`."""
    network = check_scenario(scenario)
    check_profile(scenario, inputs.profile)
    known = Field(scenario, network, inputs.profile, traces=inputs.traces)
    return known, placed_plans(known, inputs.plans)


def simulate(scenario: Scenario, inputs: Inputs) -> Results:
    """Every plan and repetition, one after another; the same seed gives the same results.

    An interrupt ends it, and what there is until then is marked as partial.

    Raises:
        ConfigError: the scenario is impossible.
    """
    known, placed = prepare(scenario, inputs)
    runs: list[Run] = []
    for repetition, plan in product(range(scenario.repetitions), placed):
        runs.append(simulate_plan(known, plan, repetition, inputs.traces))
        if runs[-1].partial:
            break
    return gathered(scenario, placed, runs)


def gathered(scenario: Scenario, placed: Sequence[Placed], runs: Sequence[Run]) -> Results:
    """The results of the runs of a scenario; partial where some are missing."""
    missing = len(runs) < scenario.repetitions * len(placed)
    return Results(
        scenario=scenario.name,
        kind="simulated",
        seed=scenario.seed,
        plans=tuple(map(plan_run, placed)),
        deadline_ms=scenario.workload.deadline_ms,
        askings=tuple(asking for run in runs for asking in run.askings),
        carried=tuple(entry for run in runs for entry in run.carried),
        marks=marks_of(scenario),
        partial=missing or any(run.partial for run in runs),
    )


def plan_run(placed: Placed) -> PlanRun:
    """A plan as results keep it."""
    plan, predicted = placed.plan, placed.predicted
    return PlanRun(
        name=plan.name,
        stages=tuple(stage.id for stage in plan.stages),
        nodes=tuple(stage.nodes for stage in plan.stages),
        predicted_ms=predicted.latency_ms if predicted else None,
        bottleneck_ms=predicted.bottleneck_ms if predicted else None,
        predicted_stages_ms=tuple(stage.ms for stage in predicted.stages) if predicted else (),
    )


def marks_of(scenario: Scenario) -> tuple[Mark, ...]:
    """Faults and changes of links by time."""
    network = check_scenario(scenario)
    marks = [Mark(change.at_s * 1e3, change.text, "link") for change in changes_of(scenario, network)]
    for fault in scenario.faults:
        marks += _fault_marks(fault)
    return tuple(sorted(marks, key=lambda mark: mark.at_ms))


def _fault_marks(fault: FaultSpec) -> Iterator[Mark]:
    verb = "kill" if fault.kill else "stop" if fault.stop else "cut"
    what = fault.kill or fault.stop or " – ".join(fault.cut or ())
    yield Mark(fault.at_s * 1e3, f"{verb} {what}", "fault")
    if fault.for_s is not None:
        yield Mark((fault.at_s + fault.for_s) * 1e3, f"{verb} {what} ends", "fault")


def simulate_plan(
    known: Field,
    placed: Placed,
    repetition: int,
    traces: Mapping[str, Trace],
    progress: Callable[[int], None] = lambda requests: None,
) -> Run:
    """One plan in one repetition; ``progress`` is told of requests that are done.

    An interrupt, also one that ``progress`` raises, ends the run and is not passed on: see `Run.partial`.
    """
    return _Runner(known, placed, repetition, traces, progress).run()


class _Runner:
    """Asks as the workload says, and notes what comes of it."""

    def __init__(
        self,
        known: Field,
        placed: Placed,
        repetition: int,
        traces: Mapping[str, Trace],
        progress: Callable[[int], None],
    ) -> None:
        self._scenario = known.scenario
        self._load = known.scenario.workload
        self._plan = placed.plan
        self._repetition = repetition
        self._progress = progress
        seed = known.scenario.seed + repetition
        self._world = World(known, placed, seed, self._resolved, traces)
        self._clock = self._world.clock
        self._budget_us = int(self._load.deadline_ms * 1e3)
        self._askings: list[Asking] = []
        self._asked = self._done = 0
        self._who = stream(seed, "who")
        self._times = None
        if not isinstance(self._load, Closed):
            self._times = arrival_times(self._load, stream(seed, "arrivals"))
        self._all_asked = False
        self._stages = [str(stage.id) for stage in placed.plan.stages]

    def run(self) -> Run:
        """Let it happen."""
        faults = Faults(self._world)
        for fault in self._scenario.faults:
            faults.add(fault)
        for change in changes_of(self._scenario, self._world.field.network):
            faults.change(change)
        for asker in self._world.askers:
            asker.open()
        if isinstance(self._load, Closed):
            for _ in range(self._load.concurrency):
                self._ask()
        else:
            self._next()
        partial = False
        try:
            with _seldom_collected():
                self._clock.run()
            self._progress(self._done)
        except KeyboardInterrupt:
            partial = True
        return Run(tuple(self._askings), tuple(self._carried()), partial)

    # --- asking ------------------------------------------------------------------------

    def _next(self) -> None:
        """Wait for the next arrival of an open workload."""
        assert self._times is not None
        at = next(self._times, None)
        if at is None:
            self._all_asked = True
            self._end()
        else:
            self._clock.at(at, self._arrive)

    def _arrive(self) -> None:
        self._ask()
        self._next()

    def _ask(self) -> None:
        load, number = self._load, self._asked
        over = load.duration_s is not None and self._clock.now_us >= load.duration_s * 1e6
        if isinstance(load, Closed) and (over or number == load.requests):
            self._all_asked = True
            self._end()
            return
        self._asked += 1
        askers = self._world.askers
        # Independent arrivals are independent at each client, too.
        asker = self._who.choice(askers) if isinstance(load, Poisson) else askers[number % len(askers)]
        asker.ask(number, self._budget_us)

    def _end(self) -> None:
        if self._all_asked and self._done == self._asked:
            self._clock.stop()

    # --- answers -----------------------------------------------------------------------

    def _resolved(self, asker: Asker, number: int, start_us: int, outcome: Answer | str) -> None:
        self._done += 1
        if number >= self._load.warmup:
            self._askings.append(self._noted(asker, number, start_us, outcome))
        if isinstance(self._load, Closed):
            think_us = self._load.think_ms * 1e3
            # A refused request must not ask again in the same instant, for ever.
            pause_us = think_us if not isinstance(outcome, str) else max(think_us, 1e3)
            self._clock.at(self._clock.now_us + pause_us, self._ask)
        else:
            self._end()
        if self._done % _TOLD == 0:
            self._progress(self._done)

    def _noted(self, asker: Asker, number: int, start_us: int, outcome: Answer | str) -> Asking:
        answer = None if isinstance(outcome, str) else outcome
        hops = answer.hops if answer is not None else ()
        return Asking(
            plan=self._plan.name,
            repetition=self._repetition,
            request=number,
            requester=asker.host,
            start_ms=start_us / 1e3,
            latency_ms=(self._clock.now_us - start_us) / 1e3,
            outcome=outcome if isinstance(outcome, str) else "ok" if outcome.absent is None else "absent",
            attempts=answer.attempts if answer is not None else 1,
            hedged=answer is not None and answer.hedged,
            path=answer.path if answer is not None else (),
            hops=tuple(
                HopTime(
                    self._stages[hop.stage],
                    hop.node,
                    hop.queue_us / 1e3,
                    hop.decode_us / 1e3,
                    hop.compute_us / 1e3,
                    hop.encode_us / 1e3,
                )
                for hop in hops
            ),
        )

    def _carried(self) -> Iterator[Carried]:
        for pipe in self._world.pipes.values():
            counters = pipe.counters
            if counters.packets:
                yield Carried(
                    self._plan.name,
                    self._repetition,
                    pipe.name,
                    counters.packets,
                    counters.bytes,
                    dict(counters.dropped),
                )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Millions of small objects come and go, hardly any in cycles."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_YOUNG, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
