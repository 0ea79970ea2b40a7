"""What a node keeps of trials: the newest announcement, bounded counts, nothing of plans that are gone."""

from __future__ import annotations

import pytest

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import NodeName, PlanName
from collab.core.validate import convert_plan
from collab.errors import Conflict, InputError, LimitExceeded, NotLoaded, PlanError, ProtocolError
from collab.node.trials import MAX_REQUESTERS, MAX_TRIALS, SILENT_S, Trials
from collab.node.verbs import ROLES, Caller
from collab.updates.health.gate import Bounds
from collab.updates.health.trial import Counts, Trial
from collab.updates.health.trial_messages import counts_message, counts_of, trial_message, trial_of
from tests.unit.core.trees import chain

CANDIDATE = convert_plan(chain()).replace(name=PlanName("chain-shadow"))
OPERATOR = Caller(NodeName("op"), "operator")
BOUNDS = Bounds(copies=0.5)


def announced(number: int = 1, phase: str = "shadow", plan: str = "chain") -> pb.PutTrialRequest:
    candidate = CANDIDATE if phase else None
    trial = Trial(plan=PlanName(plan), number=number, phase=phase, candidate=candidate, bounds=BOUNDS)
    return pb.PutTrialRequest(trial=trial_message(trial))


def counts(number: int = 1, phase: str = "shadow", **figures: int) -> Counts:
    return Counts(number=number, phase=phase, **figures)


class Node:
    """The trials of one node at a time that a test sets."""

    def __init__(self) -> None:
        self.now, self.gone = 0.0, set[str]()
        self.trials = Trials(lambda name: name not in self.gone, lambda: self.now)

    async def put(self, *args: object) -> None:
        await self.trials.put(OPERATOR, announced(*args))

    async def observe(self, requester: str, seen: Counts | None, known: int = 0, phase: str = "") -> pb.Trial:
        sent = counts_message(seen) if seen is not None else None
        request = pb.ObserveRequest(plan="chain", known_number=known, known_phase=phase, counts=sent)
        return (await self.trials.observe(Caller(NodeName(requester), "client"), request)).trial

    async def get(self, role: str = "operator") -> tuple[Trial | None, dict[str, Counts]]:
        caller = Caller(NodeName("x"), role)
        reply = await self.trials.get(caller, pb.GetTrialRequest(plan="chain"))
        return trial_of(reply.trial), {one.requester: counts_of(one.counts) for one in reply.counts}


async def test_a_requester_gets_candidate_and_bounds_once():
    node = Node()
    assert (await node.observe("a", None)).number == 0
    await node.put()
    first = trial_of(await node.observe("a", None))
    assert first == Trial(
        plan=PlanName("chain"), number=1, phase="shadow", candidate=CANDIDATE, bounds=BOUNDS
    )
    again = await node.observe("a", None, 1, "shadow")
    assert (again.number, again.phase, again.candidate, again.bounds) == (1, "shadow", b"", b"")
    await node.put(1, "canary")
    assert (await node.observe("a", None, 1, "shadow")).candidate


async def test_the_largest_figures_of_each_requester_are_kept_for_the_phase_at_hand():
    node = Node()
    await node.put()
    for requests in (3, 7, 5):
        await node.observe("a", counts(requests=requests, compared=1), 1, "shadow")
    await node.observe("b", counts(requests=2, failed=1), 1, "shadow")
    await node.observe("c", counts(phase="canary", requests=9))
    await node.observe("d", counts(number=2, requests=9))
    trial, seen = await node.get()
    assert trial is not None
    assert (trial.number, trial.phase, trial.candidate) == (1, "shadow", None)
    assert seen == {"a": counts(requests=7, compared=1), "b": counts(requests=2, failed=1)}
    await node.put(1, "canary")
    assert (await node.get())[1] == {}


async def test_an_older_announcement_is_a_conflict_and_the_same_again_keeps_the_counts():
    node = Node()
    await node.put(2, "canary")
    await node.observe("a", counts(2, "canary", requests=1))
    for number, phase in ((1, "probation"), (2, "shadow")):
        with pytest.raises(Conflict, match="comes before"):
            await node.put(number, phase)
    await node.put(2, "canary")
    assert (await node.get())[1] == {"a": counts(2, "canary", requests=1)}
    await node.put(2, "")
    with pytest.raises(Conflict, match="take a number above 2"):
        await node.put(2, "probation")
    over = await node.observe("a", None, 2, "canary")
    assert (over.number, over.phase, over.candidate) == (2, "", b"")
    await node.put(3)


async def test_a_trial_whose_coordinator_is_silent_ends():
    node = Node()
    await node.put()
    node.now = SILENT_S - 1
    await node.get()
    node.now = 2 * SILENT_S - 2
    assert (await node.get("client"))[0] is not None, "a client that looks is not who decides"
    assert node.trials.phase(PlanName("chain")) == "shadow"
    node.now = 2 * SILENT_S
    assert (await node.observe("a", None)).number == 0
    assert node.trials.phase(PlanName("chain")) == ""


async def test_what_cannot_be_used_is_refused():
    node = Node()
    node.gone.add("gone")
    with pytest.raises(NotLoaded, match="no plan 'gone'"):
        await node.put(1, "shadow", "gone")
    for change, error in (
        ({"number": 0}, InputError),
        ({"candidate": b""}, InputError),
        ({"candidate": b"{}"}, PlanError),
        ({"candidate": bytes(2 << 20)}, LimitExceeded),
        ({"bounds": b"[]"}, ProtocolError),
        ({"bounds": bytes(5000)}, LimitExceeded),
        ({"phase": "golden"}, ProtocolError),
        ({"plan": "no/name"}, InputError),
    ):
        request = announced()
        for name, value in change.items():
            setattr(request.trial, name, value)
        with pytest.raises(error):
            await node.trials.put(OPERATOR, request)
    await node.put()
    strange = pb.ObserveRequest(plan="chain", counts=pb.TrialCounts(number=1, phase="x" * 99))
    with pytest.raises(ProtocolError, match="phase"):
        await node.trials.observe(Caller(NodeName("a"), "client"), strange)


async def test_trials_requesters_and_reasons_are_bounded():
    node = Node()
    for index in range(MAX_TRIALS - 1):
        await node.put(1, "shadow", f"p{index}")
    await node.put()
    with pytest.raises(LimitExceeded, match="end one first"):
        await node.put(1, "shadow", "more")
    await node.put(1, "", "p3")
    await node.put(1, "shadow", "more")
    for index in range(MAX_REQUESTERS + 5):
        message = counts_message(counts(requests=1, failed=1))
        message.reason = "x" * 5000
        request = pb.ObserveRequest(plan="chain", counts=message)
        await node.trials.observe(Caller(NodeName(f"r{index}"), "client"), request)
    seen = (await node.get())[1]
    assert (len(seen), max(len(one.reason) for one in seen.values())) == (MAX_REQUESTERS, 200)
    node.trials.forget(PlanName("chain"))
    assert await node.get() == (None, {})


def test_bounds_of_a_newer_release_may_say_more():
    message = announced().trial
    message.bounds = message.bounds[:-1] + b', "newer": 1}'
    made = trial_of(message)
    assert made is not None
    assert made.bounds == BOUNDS


def test_requesters_report_and_those_who_deploy_announce():
    assert ROLES["Observe"] == {"client", "operator"}
    assert "PutTrial" not in ROLES, "what is not listed is the operator's"
