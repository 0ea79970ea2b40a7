"""Releases into a plan that runs: fifty in a row under load, and those that must not get through.

Real node processes on loopback, a stage on each of three, a closed loop of four requests at a time.
Every answer is compared bit by bit with the whole model of the version that gave it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np

from benchmarks.figures import Figure
from collab.assembly import build_cluster
from collab.cli.files import read_plan, write_plan
from collab.cli.replanning import keep_successor, successor_path
from collab.client.follow import Follower
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.coordinator.plan_update import Outcome, Progress, Rules, update_plan
from collab.coordinator.plan_versions import PlanVersions
from collab.coordinator.retarget import retarget
from collab.coordinator.update_source import Offer
from collab.core.plan import Plan
from collab.errors import CollabError
from collab.graph import parse_model
from collab.runtime.litert import LiteRT
from collab.updates.health.gate import Bounds
from collab.updates.health.sequential import Rates
from tests.integration.deployments import endpoints
from tests.integration.edited_models import DIGITS, sharper, shuffled
from tests.integration.models import Reference
from tests.integration.moody_backend import NAME, install
from tests.integration.processes import NodeProcess, running

NODES = ("a", "b", "c")
CUTS = (10, 20)
CONCURRENCY = 4
UPDATES, QUICK_UPDATES = 50, 2
STRETCH = 2
"""Stages are that many times slower than this machine, so that their time is most of an answer's."""
ANSWERS, TIMES = Rates(fine=0.02, worse=0.5, error=0.02), Rates(fine=0.2, worse=0.7, error=0.02)
BOUNDS = Bounds(disagreement=ANSWERS, slowness=TIMES, copies=1.0, canaries=5, probation=100)
"""As they are by default, but that bad ones have to be worse to be told apart, by fewer comparisons."""
TOUCHED = 0.05
"""Share of requests for canaries of good releases, in place of 0.01: trials end sooner."""
SLOW_FACTOR = 4.0
"""Of good releases, in place of 1.5: what else the machine does is not to decide."""
LOOK_S = 0.5
"""How often requesters look for a trial here, in place of every 2 s."""
ALONE, QUICK_ALONE = 1500, 400
"""Answers without any update, before and after them, for comparison."""


@dataclass
class Answers:
    """What requesters got."""

    asked: int = 0
    errors: list[str] = field(default_factory=list)
    got: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """By what answered (candidate or plan, and epoch), the request, and the answer's digest."""
    took_ms: array[float] = field(default_factory=lambda: array("d"))

    @property
    def lost(self) -> int:
        """Neither answered nor failed."""
        return self.asked - len(self.took_ms) - len(self.errors)


class Load:
    """A closed loop of workers."""

    def __init__(self, client: Follower, requests: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.answers = Answers()
        self.stopping = False
        self._client, self._requests = client, requests

    async def worker(self) -> None:
        """One request after the other."""
        now, answers = asyncio.get_running_loop().time, self.answers
        while not self.stopping:
            index, begun = answers.asked % len(self._requests), now()
            answers.asked += 1
            try:
                result = await self._client.run(self._requests[index], 30.0)
            except CollabError as error:
                answers.errors.append(f"{error.code}: {error}")
                await asyncio.sleep(0.001)
                continue
            answers.took_ms.append(1000 * (now() - begun))
            (output,) = result.outputs.values()
            who = f"{result.via.partition(':')[0]} {result.epoch}"
            answers.got[who, index, _digest(output)] += 1

    async def more(self, count: int) -> None:
        """Wait for so many answers more."""
        wanted = len(self.answers.took_ms) + count
        while len(self.answers.took_ms) < wanted:  # noqa: ASYNC110 - counted by others
            await asyncio.sleep(0.01)


def _digest(output: np.ndarray) -> str:
    return hashlib.sha256(output.tobytes()).hexdigest()


@dataclass
class Site:
    """Three nodes, a plan on them, and a requester that follows it."""

    folder: Path
    cluster: Cluster
    versions: PlanVersions
    plan: Plan
    reference: Reference
    moods: Path
    load: Load
    said: dict[str, list[str]] = field(default_factory=dict)
    """What the whole model of a version answers to each request, by what answered."""

    def knows(self, who: str, model: bytes) -> None:
        """That answers of one are a model's."""
        stage = LiteRT().load(model)
        self.said[who] = [_digest(stage.run(list(given.values()))[0]) for given in self.reference.requests]
        stage.close()

    def mixed(self) -> int:
        """Answers that are not those of the version that they are said to be of."""
        found = self.load.answers.got
        return sum(n for (who, at, digest), n in found.items() if self.said[who][at] != digest)

    async def update(self, model: bytes, bounds: Bounds, mood: str = "") -> tuple[Outcome, float]:
        """Offer a model, whose stages may be in a mood; with the seconds until it was committed."""
        if mood:
            plan, _ = retarget(self.plan, self.reference.graph, parse_model(model), "")
            self.moods.write_text(json.dumps({stage.sha256: mood for stage in plan.stages}))
        path = self.folder / "offered.tflite"
        path.write_bytes(model)
        before = Counter(self.load.answers.got)
        begun, committed = time.monotonic(), list[float]()

        def tell(progress: Progress) -> None:
            if progress.phase == "probation":
                committed.append(time.monotonic())

        outcome = await update_plan(self.cluster, self.versions, Offer(path), Rules(bounds), tell)
        for who in {who for who, _, _ in self.load.answers.got - before} - set(self.said):
            self.knows(who, model)
        return outcome, (committed or [begun])[0] - begun

    def back_to(self, model: bytes, outcome: Outcome) -> None:
        """That a model came back as a new epoch."""
        self.knows(f"primary {outcome.epoch}", model)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """Nodes with the digits model, under load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = install(folder / "moody")
        nodes = [NodeProcess(each, folder, "--stretch", str(STRETCH), env=env) for each in NODES]
        with running(nodes):
            reference = Reference.of("digits")
            plan, blobs = reference.chain(CUTS, NODES, endpoints(nodes))
            stages = tuple(msgspec.structs.replace(each, backend=NAME) for each in plan.stages)
            plan = plan.replace(stages=stages)
            path = folder / "digits.yaml"
            write_plan(path, plan)
            versions = PlanVersions(
                path, successor_path(path), read_plan, lambda newer: keep_successor(path, newer)
            )
            async with build_cluster() as operator, build_cluster(role="client") as asking:
                deployed = await deploy(operator, plan, blobs)
                client = await asking.follow(plan, credits=CONCURRENCY)
                load = Load(client, reference.requests)
                workers = [asyncio.ensure_future(load.worker()) for _ in range(CONCURRENCY)]
                found = Site(folder, operator, versions, plan, reference, Path(env["MOODS"]), load)
                found.knows(f"primary {deployed.epoch}", DIGITS.read_bytes())
                try:
                    await load.more(50)
                    yield found
                finally:
                    load.stopping = True
                    await asyncio.gather(*workers)
                    await asking.unfollow(client)


async def rollouts(count: int, alone: int) -> list[Figure]:
    """One release after the other into a plan under load."""
    bounds = msgspec.structs.replace(BOUNDS, touched=TOUCHED, slow_factor=SLOW_FACTOR)
    async with site() as there:
        load, answers = there.load, there.load.answers
        before = len(answers.took_ms)
        await load.more(alone)
        first, times, committed, healthy = len(answers.took_ms), list[float](), list[float](), 0
        for number in range(count):
            outcome, until_s = await there.update(sharper(1 + (number + 1) / 1000), bounds)
            healthy += outcome.result == "healthy"
            times.append(outcome.seconds)
            committed += [until_s] if outcome.result != "dropped" else []
            _say(f"update {number + 1} of {count}", outcome)
        last = len(answers.took_ms)
        await load.more(alone)
    without_ms = np.quantile([*answers.took_ms[before:first], *answers.took_ms[last:]], 0.95)
    touched = sum(n for (who, _, _), n in answers.got.items() if who.startswith("candidate"))
    how = f"{count} updates, {answers.asked} requests, {CONCURRENCY} at a time; {_said(bounds)}"
    name = "updates in a row"
    return [
        Figure(f"{name}: not healthy in the end", count - healthy, "", "<= 0", None, how),
        Figure(f"{name}: requests that failed", len(answers.errors), "", "<= 0", None, _first(answers)),
        Figure(f"{name}: requests that were lost", answers.lost, "", "<= 0", None, "nor failed"),
        Figure(f"{name}: answers of no version alone", there.mixed(), "", "<= 0", None, "bit by bit"),
        Figure(
            f"{name}: share of requests touched before a commit",
            touched / answers.asked,
            "",
            f"<= {TOUCHED}",
            None,
            f"{touched} answered by a candidate",
        ),
        Figure(
            f"{name}: p95 of requests",
            float(np.quantile(answers.took_ms[first:last], 0.95)),
            "ms",
            "",
            float(without_ms),
            "yardstick: before and after them",
        ),
        Figure(f"{name}: until committed", float(np.median(committed)), "s", "", None, _range(committed)),
        Figure(f"{name}: until healthy", float(np.median(times)), "s", "", None, _range(times)),
    ]


CASES: Sequence[tuple[str, Callable[[], bytes], str]] = (
    ("labels shuffled", shuffled, ""),
    ("twice as slow", lambda: sharper(1.003), "slow"),
    ("native crash", lambda: sharper(1.004), "abort"),
    ("fails after its examples", lambda: sharper(1.005), "raise:8"),
    ("NaN after its examples", lambda: sharper(1.006), "nan:8"),
)
LATE = ("fails once it is committed", lambda: sharper(1.007), "raise:150")


async def refused() -> list[Figure]:
    """Releases that have to be stopped."""
    figures = []
    async with site() as there:
        answers = there.load.answers
        for name, make, mood in (*CASES, LATE):
            asked, failed, got = answers.asked, len(answers.errors), Counter(answers.got)
            outcome, _ = await there.update(make(), BOUNDS, mood)
            there.back_to(DIGITS.read_bytes(), outcome)
            await there.load.more(50)
            _say(name, outcome)
            asked, failed = answers.asked - asked, len(answers.errors) - failed
            touched = sum(n for (who, _, _), n in (answers.got - got).items() if who.startswith("candidate"))
            how = f"{outcome.result}: {outcome.reason[:120]}; {outcome.seconds:.3g} s, {asked} requests"
            stopped, is_late = outcome.result in ("dropped", "rolled back"), name == LATE[0]
            figures += [
                Figure(f"{name}: stopped", int(stopped), "", ">= 1", None, how),
                Figure(f"{name}: share touched before a commit", touched / asked, "", "<= 0.01", None, ""),
                Figure(
                    f"{name}: requests that failed",
                    failed,
                    "",
                    "" if is_late else "<= 0",
                    None,
                    "until it was gone back from" if is_late else _first(answers),
                ),
            ]
    how = _said(BOUNDS)
    name = "stopped releases: answers of no version alone"
    return [*figures, Figure(name, there.mixed(), "", "<= 0", None, f"bit by bit; {how}")]


def _said(bounds: Bounds) -> str:
    names = ("copies", "touched", "canaries", "probation", "slow_factor")
    figures = ", ".join(f"{name} {getattr(bounds, name)}" for name in names)
    rates = f"wrong {ANSWERS.fine} to {ANSWERS.worse}, slow {TIMES.fine} to {TIMES.worse}"
    return f"{figures}, {rates}, looks every {LOOK_S} s"


def _range(times: Sequence[float]) -> str:
    return f"median; {min(times):.3g} to {max(times):.3g} s"


def _first(answers: Answers) -> str:
    return answers.errors[0][:200] if answers.errors else "none"


def _say(what: str, outcome: Outcome) -> None:
    counts = {phase: each.requests for phase, each in outcome.counts.items()}
    text = f"{what}: {outcome.result} after {outcome.seconds:.3g} s, {counts} {outcome.reason}"
    print(text, file=sys.stderr, flush=True)


async def measure_rollouts(quick: bool) -> list[Figure]:
    """Both."""
    with patch("collab.client.participant.LOOK_S", LOOK_S):
        count, alone = (QUICK_UPDATES, QUICK_ALONE) if quick else (UPDATES, ALONE)
        return [*await rollouts(count, alone), *await refused()]
