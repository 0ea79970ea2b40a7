"""A requester in a trial: what users get, what is asked of the candidate, what nodes hear of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from collab.client import participant as acting
from collab.client.follow import Follower
from collab.client.participant import Participant
from collab.client.runner import PRIMARY, Result
from collab.codec.pb import control_pb2 as pb
from collab.codec.verbs import VERBS
from collab.core.ids import NodeName, PlanName
from collab.core.plan import Plan
from collab.core.token import Hop, Priority
from collab.core.validate import convert_plan
from collab.errors import CollabError, NodeLost, NotLoaded, Overloaded, ProtocolError, StageFailed
from collab.link.suspicion import Health
from collab.node.trials import Trials
from collab.node.verbs import Caller
from collab.updates.health.gate import Bounds, Compared
from collab.updates.health.trial import Counts, Trial, TrialPhase
from collab.updates.health.trial_messages import counts_of, trial_message
from tests.unit.core.trees import chain

RUNNING = convert_plan(chain())
CANDIDATE = convert_plan(
    {**chain(), "models": [{**chain()["models"][0], "sha256": "e" * 64, "origin": RUNNING.models[0].sha256}]}
).replace(name=PlanName("chain-beside"))
COMMITTED = CANDIDATE.replace(name=RUNNING.name)
ME, OPERATOR = Caller(NodeName("me"), "client"), Caller(NodeName("op"), "operator")
WITHIN_S = 10.0


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Client:
    """One plan as it answers: a number that says which."""

    def __init__(self, plan: Plan, answer: float) -> None:
        self.plan, self.epoch, self.granted = plan, 1, 4
        self.answer = np.float32([answer])
        self.error: CollabError | None = None
        self.hold: asyncio.Event | None = None
        self.total_ms = 1.0
        self.given: list[float] = []
        self.cancelled = 0

    async def run(self, inputs: Any, deadline_s: float, priority: Priority = Priority.NORMAL) -> Result:
        try:
            await asyncio.sleep(0)
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.given += [float(array[0]) for array in inputs.values()]
        if self.error is not None:
            raise self.error
        return Result({"y": self.answer}, self.total_ms, (), (), epoch=1)


class Site:
    """A follower with one node that serves the verbs of trials, and no network between them."""

    def __init__(self) -> None:
        self.trials = Trials(lambda name: True, lambda: 0.0)
        self.plans = {RUNNING.digest: Client(RUNNING, 1.0), COMMITTED.digest: Client(COMMITTED, 2.0)}
        self.old = self.plans[RUNNING.digest]
        self.new = Client(CANDIDATE, 1.0)
        self.refuse: list[CollabError] = []
        self.opened, self.released, self.live, self.looks = 0, 0, 0, 0
        self.unknown = False
        self.follower: Follower
        self._number = 0

    async def start(self) -> Site:
        link = SimpleNamespace(health=Health.ALIVE, call=self._call, peer=SimpleNamespace(name="a"))
        links: Any = SimpleNamespace(identity=SimpleNamespace(name=ME.name), get=lambda _: link)
        participant = Participant(links, self._open, self._release)
        follower = Follower(self._open_plan, self._drop, self._successor, participant=participant)
        self.follower = await follower.start(RUNNING)
        return self

    async def _open_plan(self, plan: Plan) -> Client:
        return self.plans[plan.digest]

    async def _drop(self, _: Any) -> None:
        pass

    async def _successor(self, _: Plan) -> Plan:
        return COMMITTED

    async def _call(self, verb: str, body: bytes, **_: Any) -> bytes:
        self.looks += 1
        if self.unknown:
            raise ProtocolError("verb 'Observe' is not known here")
        reply = await self.trials.observe(ME, VERBS[verb].request.FromString(body))
        return reply.SerializeToString()

    async def _open(self, plan: Plan) -> Client:
        assert plan == CANDIDATE
        self.opened += 1
        if self.refuse:
            raise self.refuse.pop()
        self.live += 1
        return self.new

    async def _release(self, _: Any) -> None:
        self.released += 1
        self.live -= 1

    async def announce(self, phase: TrialPhase, **bounds: float) -> None:
        """And wait until the requester has heard of it, for the next request is part of it then."""
        self._number += phase != ""
        trial = Trial(
            plan=RUNNING.name,
            number=self._number,
            phase=phase,
            candidate=CANDIDATE if phase else None,
            bounds=Bounds(**bounds),
        )
        await self.trials.put(OPERATOR, pb.PutTrialRequest(trial=trial_message(trial)))
        heard = self.looks
        while self.looks < heard + 2:
            await self.follower.run({"x": np.float32([0])})
            await asyncio.sleep(0.001)

    async def counts(self) -> Counts:
        reply = await self.trials.get(OPERATOR, pb.GetTrialRequest(plan=RUNNING.name))
        (one,) = reply.counts
        return counts_of(one.counts)

    async def reported(self, true: Callable[[Counts], bool]) -> Counts:
        deadline = time.monotonic() + WITHIN_S
        while True:
            reply = await self.trials.get(OPERATOR, pb.GetTrialRequest(plan=RUNNING.name))
            for one in reply.counts:
                if true(counts_of(one.counts)):
                    return counts_of(one.counts)
            assert time.monotonic() < deadline, reply
            await asyncio.sleep(0.001)


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(acting, "LOOK_S", 0.005)
    monkeypatch.setattr(acting, "_FIRST_LOOK_S", 0.0)
    monkeypatch.setattr(acting, "_AT_LEAST_S", 0.05)
    made = await Site().start()
    yield made
    await made.follower.close()
    assert made.live == 0


async def run(site: Site, value: float = 7.0) -> Result:
    return await site.follower.run({"x": np.float32([value])})


def said(result: Result) -> tuple[str, float]:
    return result.via, float(result.outputs["y"][0])


BY_CANDIDATE = ("candidate:chain-beside", 1.0)


async def opened(site: Site, phase: TrialPhase, **bounds: float) -> None:
    """In a phase, with a candidate that is open and not busy."""
    before = len(site.new.given)
    await site.announce(phase, **bounds)
    await run(site, 0.0)
    await until(lambda: len(site.new.given) >= before + 2)
    await turns()


async def test_without_a_trial_nodes_are_asked_once_in_a_while_and_requests_go_as_ever(site: Site):
    begun = time.monotonic()
    results = [await run(site) for _ in range(300)]
    assert {said(result) for result in results} == {(PRIMARY, 1.0)}
    assert site.looks <= 2 + (time.monotonic() - begun) / acting.LOOK_S
    assert site.opened == 0


async def test_a_node_that_does_not_know_of_trials_is_left_alone(site: Site):
    site.unknown = True
    for _ in range(20):
        await run(site)
        await asyncio.sleep(0.002)
    assert site.looks == len(RUNNING.nodes), "each once"


async def test_a_copy_is_made_behind_the_answer_of_what_was_asked(site: Site):
    await opened(site, "shadow", copies=1.0)
    site.new.given.clear()
    site.new.hold = asyncio.Event()
    inputs = {"x": np.float32([7])}
    first = await site.follower.run(inputs)
    inputs["x"][0] = 8
    others = [await run(site, 9.0) for _ in range(5)]
    assert {said(result) for result in (first, *others)} == {(PRIMARY, 1.0)}
    site.new.hold.set()
    await until(lambda: bool(site.new.given))
    await turns()
    assert site.new.given[0] == 7
    assert len(site.new.given) == 1, "what came meanwhile was dropped"


async def test_the_candidates_answer_is_taken_and_waits_for_the_plans_credit(site: Site):
    await opened(site, "canary", touched=1.0)
    site.old.hold = asyncio.Event()
    request = asyncio.ensure_future(run(site))
    await turns()
    assert site.new.given[-1] == 7
    assert not request.done(), "the plan's own answer is under way, and holds a credit"
    site.old.hold.set()
    assert said(await request) == BY_CANDIDATE
    counts = await site.reported(lambda counts: counts.compared >= 1)
    assert (counts.disagreed, counts.failed) == (0, 0)


async def test_the_candidate_answers_where_the_plan_cannot(site: Site):
    await opened(site, "canary", touched=1.0)
    site.old.error = NodeLost("node a is gone")
    assert said(await run(site)) == BY_CANDIDATE


async def test_a_late_candidate_costs_its_users_no_more_than_the_factor(site: Site):
    await opened(site, "canary", touched=1.0)
    site.new.hold = asyncio.Event()
    assert said(await run(site)) == (PRIMARY, 1.0)
    assert said(await run(site)) == (PRIMARY, 1.0), "it is busy still"
    counts = await site.reported(lambda counts: counts.slow >= 1)
    assert counts.disagreed == 1, "an answer that does not come is another one"
    await until(lambda: site.new.cancelled == 1)


@pytest.mark.parametrize("fault", ["stage", "nan", "not loaded"])
async def test_a_fault_never_reaches_the_user_and_ends_the_candidates_part(site: Site, fault: str):
    await opened(site, "canary", touched=1.0)
    site.new.error = {"stage": StageFailed("s1: broken"), "not loaded": NotLoaded("gone")}.get(fault)
    if fault == "nan":
        site.new.answer = np.float32([np.nan])
    results = [await run(site) for _ in range(10)]
    assert {said(result) for result in results} == {(PRIMARY, 1.0)}
    counts = await site.reported(lambda counts: counts.failed + counts.not_finite > 0)
    assert counts.failed + counts.not_finite == 1
    assert counts.reason == {"stage": "s1: broken", "not loaded": "gone", "nan": ""}[fault]
    await until(lambda: site.released == 1)


async def test_a_lost_node_is_not_the_candidates_fault(site: Site):
    await opened(site, "canary", touched=1.0)
    site.new.error = NodeLost("node b is gone")
    results = [await run(site) for _ in range(10)]
    assert {said(result) for result in results} == {(PRIMARY, 1.0)}
    counts = await site.reported(lambda counts: counts.requests >= 10)
    assert (counts.failed, counts.not_finite, counts.disagreed) == (0, 0, 0)


@pytest.mark.parametrize("error", [Overloaded("all credits are taken"), NotLoaded("not deployed")])
async def test_opening_fails_by_the_candidates_fault_or_is_tried_later(site: Site, error: CollabError):
    site.refuse.append(error)
    await site.announce("shadow", copies=1.0)
    for _ in range(3):
        await run(site)
    counts = await site.reported(lambda counts: counts.requests > 3)
    assert counts.failed == isinstance(error, NotLoaded)
    assert (site.opened, counts.compared) == (1, 0)


async def test_a_candidate_with_other_tensors_is_not_asked(site: Site):
    site.old.plan = RUNNING.replace(outputs=())
    await site.announce("shadow", copies=1.0)
    counts = await site.reported(lambda counts: counts.failed > 0)
    assert "inputs or outputs" in counts.reason
    assert site.opened == 0


async def test_a_user_who_gives_up_ends_both_and_frees_the_way(site: Site):
    await opened(site, "canary", touched=1.0)
    holds = site.old.hold, site.new.hold = asyncio.Event(), asyncio.Event()
    request = asyncio.ensure_future(run(site))
    await turns()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (site.old.cancelled, site.new.cancelled) == (1, 1)
    for hold in holds:
        hold.set()
    assert said(await run(site)) == BY_CANDIDATE


async def test_the_plans_own_errors_are_those_without_a_trial(site: Site):
    await opened(site, "canary", touched=1.0)
    site.old.error, site.new.hold = StageFailed("old and broken"), asyncio.Event()
    with pytest.raises(StageFailed, match="old and broken"):
        await run(site)


async def test_after_the_commit_the_new_plans_answers_are_counted(site: Site):
    await site.announce("probation")
    before = await site.counts()
    assert before.served == 0, "the former plan answered"
    site.old.error = NotLoaded("retired")
    assert said(await run(site)) == (PRIMARY, 2.0)
    await run(site)
    new = site.plans[COMMITTED.digest]
    new.error = StageFailed("new and broken")
    with pytest.raises(StageFailed):
        await run(site)
    counts = await site.reported(lambda counts: counts.failed > 0)
    assert (counts.served, counts.failed, counts.reason) == (2, 1, "new and broken")
    new.error, new.answer = None, np.float32([np.inf])
    await run(site)
    await site.reported(lambda counts: counts.not_finite == 1)


async def test_the_candidate_is_let_go_when_the_trial_ends_and_when_the_client_closes(site: Site):
    await opened(site, "shadow", copies=1.0)
    await site.announce("")
    await until(lambda: site.released == 1)
    await opened(site, "shadow", copies=1.0)
    site.new.hold = asyncio.Event()
    await run(site)
    await site.follower.close()
    assert site.released == site.opened == 2
    await site.reported(lambda counts: counts.requests > 0)


async def test_the_time_that_requests_wait_for_each_other_is_not_the_models():
    waited = Hop(stage=0, node=NodeName("a"), queue_us=8_000, compute_us=1_500)
    old, new = (
        Result({"y": np.float32([1])}, total_ms, hops, ())
        for total_ms, hops in ((10.0, (waited,)), (5.0, ()))
    )
    seen = await acting._compared(old, new)
    assert isinstance(seen, Compared)
    assert (seen.old_ms, seen.new_ms) == (2.0, 5.0)
