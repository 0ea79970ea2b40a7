"""How true the simulator is: scenarios run by real nodes over emulated links, then simulated.

Each scenario of ``benchmarks/assets/simulator`` is emulated (needs root and TUN), which measures
the model on the emulated hosts; the simulator gets that profile, and the same file.  Figures are
differences of latency for each plan.  A run that the machine was too busy for is done again, twice
at most.  Then how long 100,000 requests over 1,000 nodes take.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from benchmarks.figures import Figure, run
from collab.cli.scenarios import read_inputs, read_material, read_scenario
from collab.core.profile import Profile
from collab.emulation.ability import machine_lacks
from collab.emulation.results import Results
from collab.emulation.runner import Emulation
from collab.emulation.scenario import Scenario, convert_scenario
from collab.emulation.simulator import Inputs, prepare, simulate, simulate_plan
from collab.emulation.summary import plan_figures

SCENARIOS = Path(__file__).parent / "assets" / "simulator"
QUICK = ("lte-poisson", "midband-mqtt", "lowband-coap")
THOUSAND = Path(__file__).parents[1] / "simulations" / "thousand.yaml"
TRIES = 3
TARGETS = {"p50": 0.10, "p95": 0.20}
NAMES = {"p50": "median", "p95": "95th percentile"}
SIMULATED = 4
"""Repetitions of the simulator for one of the emulator: chance shall come from one side only."""
QUICKLY = 0.3
"""Share of a scenario's requests with ``--quick``."""


@dataclass(frozen=True)
class Pair:
    """One scenario, both ways."""

    name: str
    emulated: Results
    simulated: Results
    tries: int
    flags: tuple[str, ...]
    """Why the last try is not to be trusted."""

    def figures(self) -> Iterator[Figure]:
        """Differences of each plan."""
        for plan in self.emulated.plans:
            real, made = (
                plan_figures(results.of(plan.name), results.deadline_ms)
                for results in (self.emulated, self.simulated)
            )
            how = f"{real['requests']} requests, {real['failed']} and {made['failed']} failed"
            if self.tries > 1:
                how += f", try {self.tries}"
            how += "".join(f"; FLAGGED: {flag}" for flag in self.flags)
            for key, most in TARGETS.items():
                emulated_ms, simulated_ms = real["latency_ms"][key], made["latency_ms"][key]
                yield Figure(
                    f"{self.name}, {plan.name}: difference of the {NAMES[key]}",
                    abs(simulated_ms / emulated_ms - 1),
                    "",
                    f"<= {most}",
                    emulated_ms,
                    f"simulated {simulated_ms:.1f} ms, emulated {emulated_ms:.1f}; {how}",
                )


def scenario_named(name: str, quick: bool) -> Scenario:
    """A scenario of the benchmark."""
    scenario = convert_scenario(read_scenario(SCENARIOS / f"{name}.yaml"))
    load = scenario.workload
    if quick and load.requests is not None:
        scenario = replace(scenario, workload=replace(load, requests=round(load.requests * QUICKLY)))
    return scenario


async def emulated(scenario: Scenario) -> tuple[Results, Profile, tuple[str, ...], int]:
    """Results, what was measured on the hosts, what speaks against them, and which try it was."""
    material = read_material(scenario, SCENARIOS)
    for tries in range(1, TRIES + 1):
        emulation = Emulation(scenario, material)
        results = await emulation.run(asyncio.Event())
        flags = tuple(note for note in results.notes if note.startswith("Not to be trusted"))
        if not flags:
            break
        print(f"{scenario.name}, try {tries}: {'; '.join(flags)}", file=sys.stderr)
    assert emulation.measured is not None
    return results, emulation.measured, flags, tries


def simulated(scenario: Scenario, profile: Profile) -> Results:
    """The same, with the profile of the emulated hosts, which has what slows them in it."""
    hosts = {name: replace(host, stretch=1.0, cpu=None) for name, host in scenario.hosts.items()}
    again = replace(scenario, hosts=hosts, repetitions=SIMULATED * scenario.repetitions)
    return simulate(again, Inputs(profile))


async def pair(name: str, quick: bool) -> Pair:
    """One scenario by both."""
    scenario = scenario_named(name, quick)
    results, profile, flags, tries = await emulated(scenario)
    return Pair(name, results, await asyncio.to_thread(simulated, scenario, profile), tries, flags)


def thousand(requests: int) -> list[Figure]:
    """How long requests over 1,000 nodes take, for each plan."""
    scenario = convert_scenario(read_scenario(THOUSAND))
    scenario = replace(scenario, workload=replace(scenario.workload, requests=requests))
    known, plans = prepare(scenario, read_inputs(scenario, THOUSAND.parent))
    figures = []
    for placed in plans:
        begun, cpu = time.perf_counter(), time.process_time()
        done = simulate_plan(known, placed, 0, {})
        took_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        answered = sum(asking.answered for asking in done.askings)
        stages = len(placed.plan.stages)
        figures.append(
            Figure(
                f"{requests:,} requests over {len(scenario.machines):,} nodes, {stages} stages",
                took_s,
                "s",
                f"<= {60 * requests / 100_000:g}",
                None,
                f"{answered:,} answered, {cpu_s:.1f} s of CPU time, {took_s / requests * 1e3:.2f} ms each",
            )
        )
    return figures


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures, or those of the parts that were named."""
    parts = options.parts or (*(QUICK if options.quick else scenarios()), "thousand")
    figures: list[Figure] = []
    for name in parts:
        if name == "thousand":
            figures += await asyncio.to_thread(thousand, 10_000 if options.quick else 100_000)
        elif missing := machine_lacks():
            print(f"{name}: not emulated: {missing}", file=sys.stderr)
        else:
            figures += (await pair(name, options.quick)).figures()
    return figures


def scenarios() -> tuple[str, ...]:
    """All there are."""
    return tuple(sorted(path.stem for path in SCENARIOS.glob("*.yaml")))


if __name__ == "__main__":
    run(measure, __doc__, parts=(*scenarios(), "thousand"))
