"""A new model beside a running plan: requesters copy, try, count and report, and no user notices."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from collab.assembly import build_cluster
from collab.client import participant
from collab.client.follow import Follower
from collab.client.runner import CANDIDATE, PRIMARY, Result
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy, undeploy
from collab.coordinator.planning import build_chain
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.graph import parse_model
from collab.planner.chain import Assignment
from collab.updates.health.gate import Bounds
from collab.updates.health.sequential import Rates
from collab.updates.health.trial import Counts, Trial, TrialPhase, merge
from tests.integration.processes import NodeProcess
from tests.tflite_builder import ModelBuilder, load

WITHIN_S = 30.0
REQUESTERS = 2
PATIENT = Rates(fine=0.9, worse=0.99)
"""On a busy machine any answer may be late."""
BOUNDS = Bounds(copies=0.5, slowness=PATIENT, slow_factor=3.0)
INPUTS = np.random.default_rng(5).normal(size=(20, 1, 32, 32, 2)).astype(np.float32)


def model(kind: str) -> bytes:
    """Small, of three stages; a kind says what is different about it."""
    builder, rng = ModelBuilder(), np.random.default_rng(3)
    main = builder.main
    made = main.conv(main.input("x", [1, 32, 32, 2]), rng.normal(size=(8, 3, 3, 2)).astype(np.float32))
    if kind == "slow":
        for channels in ((64, 8), *[(64, 64)] * 12, (8, 64)):
            weights = np.full((channels[0], 3, 3, channels[1]), 1e-3, np.float32)
            made = main.conv(made, weights)
    shape = main.const("shape", [1, 8192], "int32")
    made = main.op(
        "RESHAPE",
        [made, shape],
        shape=[1, 8192],
        options="ReshapeOptions",
        fields={"newShape": [1, 8192]},
    )
    if kind == "raises":
        outside = main.const("index", [99], "int32")
        options = {"options": "GatherOptions", "fields": {"axis": 0}}
        made = main.op("GATHER", [made, outside], shape=[1, 8192], **options)
    weights = np.random.default_rng(4).normal(size=(10, 8192)).astype(np.float32)
    if kind == "other":
        weights = -weights
    if kind == "not finite":
        weights[3, 5] = np.nan
    main.output(main.dense(made, weights, name="y"))
    return builder.build()


class Made(NamedTuple):
    """A plan of one kind of model, and what that answers."""

    plan: Plan
    blobs: Blobs
    answers: list[bytes]


def made(folder: Path, kind: str, name: str, nodes: list[NodeProcess]) -> Made:
    data, path = model(kind), folder / f"{kind}.tflite"
    path.write_bytes(data)
    plan, blobs = build_chain(
        PlanName(name),
        path,
        parse_model(data),
        [1, 2],
        Assignment(tuple((NodeName(node.name),) for node in nodes)),
        [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes],
        credits=8,
    )
    run = load(data)
    return Made(plan, blobs, [] if kind == "raises" else [run([x])[0].tobytes() for x in INPUTS])


class Site:
    """A running plan with requesters, and whoever holds the trials."""

    def __init__(self, operator: Cluster, plan: Plan, folder: Path, nodes: list[NodeProcess]) -> None:
        self.operator, self.plan, self.folder, self.nodes = operator, plan, folder, nodes
        self.requesters: list[Follower] = []
        self.expected: dict[str, list[bytes]] = {}
        """Answers of the plan and of the candidate, by the index of the input."""
        self.number = 0

    @asynccontextmanager
    async def candidate(self, kind: str) -> AsyncIterator[Made]:
        """Deployed beside the plan, for the next trial."""
        self.number += 1
        found = await asyncio.to_thread(
            made, self.folder, kind, f"{kind.replace(' ', '-')}-beside", self.nodes
        )
        await deploy(self.operator, found.plan, found.blobs)
        try:
            yield found
            await self.announce("", found.plan)
        finally:
            await undeploy(self.operator, found.plan, 1.0)

    async def announce(self, phase: TrialPhase, candidate: Plan) -> None:
        trial = Trial(
            plan=self.plan.name,
            number=self.number,
            phase=phase,
            candidate=candidate if phase else None,
            bounds=BOUNDS,
        )
        for ref in self.plan.nodes:
            await self.operator.control(ref.name).put_trial(trial)

    async def counts(self, phase: TrialPhase) -> Counts:
        told = [await self.operator.control(ref.name).get_trial(self.plan.name) for ref in self.plan.nodes]
        return merge(self.number, phase, [seen for _, seen in told])

    async def ask(self, phase: TrialPhase, until: Callable[[Counts], bool]) -> tuple[Counts, list[Result]]:
        """Requests of every requester until what they have reported is enough; every one is answered."""
        answers: list[Result] = []
        enough = asyncio.Event()

        async def requester(follower: Follower) -> None:
            index = 0
            while not enough.is_set():
                index = (index + 1) % len(INPUTS)
                result = await follower.run({"x": INPUTS[index]}, 20.0)
                answers.append(result)
                self.check(index, result)

        async def look() -> Counts:
            deadline = time.monotonic() + WITHIN_S
            while not until(counts := await self.counts(phase)):
                assert time.monotonic() < deadline, counts
                await asyncio.sleep(0.02)
            return counts

        asking = [asyncio.ensure_future(requester(follower)) for follower in self.requesters]
        try:
            counts = await look()
        finally:
            enough.set()
            await asyncio.gather(*asking)
        return counts, answers

    def check(self, index: int, result: Result) -> None:
        """Each answer comes whole from the plan that it names."""
        expected = self.expected[PRIMARY if result.via == PRIMARY else CANDIDATE]
        (output,) = result.outputs.values()
        assert output.tobytes() == expected[index], result.via


@asynccontextmanager
async def site(folder: Path, nodes: list[NodeProcess]) -> AsyncIterator[Site]:
    running = await asyncio.to_thread(made, folder, "old", "model", nodes)
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(build_cluster())
        await deploy(operator, running.plan, running.blobs)
        found = Site(operator, running.plan, folder, nodes)
        found.expected = {PRIMARY: running.answers}
        for _ in range(REQUESTERS):
            cluster = await stack.enter_async_context(build_cluster(role="client"))
            found.requesters.append(await cluster.follow(running.plan, credits=2))
        try:
            yield found
        finally:
            await undeploy(operator, running.plan, 1.0)


async def test_candidates_are_tried_without_a_request_that_fails(
    trio: list[NodeProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(participant, "LOOK_S", 0.1)
    async with site(tmp_path, trio) as here:
        async with here.candidate("good") as good:
            here.expected[CANDIDATE] = good.answers
            await here.announce("shadow", good.plan)
            seen, answers = await here.ask("shadow", lambda counts: counts.compared >= 20)
            assert {result.via for result in answers} == {PRIMARY}
            assert (seen.disagreed, seen.not_finite, seen.failed, seen.touched) == (0, 0, 0, 0)
            assert seen.compared <= math.ceil(seen.requests * BOUNDS.copies)
            await here.announce("canary", good.plan)
            seen, answers = await here.ask("canary", lambda counts: counts.compared >= 3)
            assert seen.touched <= seen.requests * BOUNDS.touched
            assert (seen.disagreed, seen.not_finite, seen.failed) == (0, 0, 0)
            by_candidate = [result for result in answers if result.via == f"{CANDIDATE}{good.plan.name}"]
            assert 0 < len(by_candidate) <= seen.touched + REQUESTERS

        for kind in ("raises", "not finite", "slow"):
            async with here.candidate(kind) as bad:
                here.expected[CANDIDATE] = bad.answers
                await here.announce("canary", bad.plan)

                def noticed(counts: Counts, kind: str = kind) -> bool:
                    if kind == "slow":
                        return counts.slow > 0
                    return counts.failed + counts.not_finite > 0

                seen, answers = await here.ask("canary", noticed)
                assert seen.touched <= seen.requests * BOUNDS.touched, (kind, seen)
                if kind == "slow":
                    assert (seen.failed, seen.not_finite) == (0, 0)
                else:
                    assert {result.via for result in answers} == {PRIMARY}, kind
                    assert seen.failed + seen.not_finite <= REQUESTERS, "each stops by itself"
                if kind == "raises":
                    assert "gather index" in seen.reason

        async with here.candidate("other") as other:
            await here.announce("shadow", other.plan)
            seen, answers = await here.ask("shadow", lambda counts: counts.disagreed > 2)
            assert seen.disagreed == seen.compared
            assert {result.via for result in answers} == {PRIMARY}
