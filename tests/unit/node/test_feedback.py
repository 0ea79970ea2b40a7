"""What is noted of requests at a stage, and what a node makes of it and of what is said of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import REQUESTER, Digest, Epoch, NodeName, PlanName, RequestId, StageId
from collab.core.plan import Edge, ModelRef, NodeRef, Plan, ReleaseRef, StageSpec
from collab.core.tensor import TensorSpec
from collab.errors import InputError, Refused
from collab.node.config import NodeConfig
from collab.node.feedback import NodeFeedback
from collab.node.observing import MAX_WAITING, UNKNOWN, Observer, agreement_of, entering, sureness
from collab.node.verbs import Caller
from collab.updates.policies.condition import decode_condition
from collab.updates.policies.drift import psi
from collab.updates.policies.reference import ReferenceFile, reference_features

X, Y = TensorSpec("x", (1, 3), "float32"), TensorSpec("y", (1, 4), "float32")
RELEASE = ReleaseRef(family="digits", version=7, sha256=Digest("b" * 64))
MODEL = ModelRef(sha256=Digest("a" * 64), ops=2, release=RELEASE)
SEEN = np.random.default_rng(2).normal(size=(500, 3)).astype(np.float32)
REFERENCE = ReferenceFile(
    examples=500,
    features=tuple(reference_features("x", SEEN, X.shape, 64)),
    accuracy=0.9,
    confidence=0.7,
)
OPERATOR = Caller(NodeName("op"), "operator")


def plan(*stages: tuple[TensorSpec, TensorSpec], name: str = "p") -> Plan:
    """A chain; each stage by what it takes and makes."""
    made = [
        StageSpec(id=StageId(f"s{i}"), nodes=(NodeName("a"),), inputs=(given,), outputs=(out,))
        for i, (given, out) in enumerate(stages)
    ]
    ends = [REQUESTER, *(stage.id for stage in made), REQUESTER]
    tensors = [stages[0][0], *(out for _, out in stages)]
    return Plan(
        name=PlanName(name),
        models=(MODEL,),
        inputs=(stages[0][0],),
        outputs=(stages[-1][1],),
        stages=tuple(made),
        edges=tuple(
            Edge(source=ends[i], target=ends[i + 1], tensors=(tensors[i].name,)) for i in range(len(ends) - 1)
        ),
        nodes=(NodeRef(name=NodeName("a")),),
    )


ONE = plan((X, Y))


def observer(samples_s: float = 1_000.0, made: Plan = ONE, index: int = 0) -> tuple[Observer, list[int]]:
    now = [0]
    return Observer(made, made.stages[index], REFERENCE, samples_s, lambda: now[0]), now


def scores(pick: int, sure: float = 0.7) -> np.ndarray:
    row = np.full((1, 4), (1 - sure) / 3, np.float32)
    row[0, pick] = sure
    return row


def answered(one: Observer, number: int, pick: int, requester: str = "c") -> RequestId:
    request = RequestId(number.to_bytes(16, "big"))
    one.note(request, NodeName(requester), {1}, {"y": scores(pick)})
    return request


def test_few_requests_a_second_are_looked_at_and_all_answers_are_noted():
    one, now = observer(samples_s=10)
    looked = 0
    for number in range(100):
        now[0] += 10_000
        answered(one, number, 2)
        if one.due():
            looked += 1
            one.take(1_500, {"x": SEEN[number : number + 1]}, (), {"y": scores(2)})
    noted = one.drain()
    assert (looked, len(noted.samples), noted.answers) == (10, 10, 100)
    assert noted.samples[0].confidence == pytest.approx(0.7)
    assert noted.samples[0].margin == pytest.approx(0.6)
    assert noted.samples[0].features == tuple(SEEN[0].tolist())
    assert noted.given[0].pick == 2
    assert one.drain() == ([], [], 0, 0)


def test_nothing_is_looked_at_where_the_settings_say_so():
    assert not observer(samples_s=0)[0].due()


def test_what_waits_is_bounded_and_counts_are_not():
    one, _ = observer()
    for number in range(MAX_WAITING + 10):
        answered(one, number, 1)
    noted = one.drain()
    assert (len(noted.given), noted.answers) == (MAX_WAITING, MAX_WAITING + 10)


def test_inputs_are_looked_at_where_they_enter_and_answers_where_they_leave():
    middle = TensorSpec("m", (1, 5), "float32")
    two = plan((X, middle), (middle, Y))
    assert [spec.name for spec in entering(two, two.stages[0])] == ["x"]
    assert entering(two, two.stages[1]) == []
    first, last = observer(made=two)[0], observer(made=two, index=1)[0]
    assert first.features
    assert not last.features
    first.note(RequestId(bytes(16)), NodeName("c"), {1}, {"m": SEEN})
    last.note(RequestId(bytes(16)), NodeName("c"), {2}, {"y": scores(3)})
    assert (first.drain().answers, last.drain().answers) == (0, 1)


def test_an_answer_that_a_guard_kept_back_is_none():
    one, _ = observer()
    one.note(RequestId(bytes(16)), NodeName("c"), set(), {"y": scores(3)})
    assert one.drain().answers == 0


def test_outputs_without_classes_have_no_confidence_and_no_class():
    boxes = TensorSpec("y", (1, 10, 4), "float32")
    one, _ = observer(made=plan((X, boxes)))
    made = {"y": np.zeros(boxes.shape, np.float32)}
    one.note(RequestId(bytes(16)), NodeName("c"), {1}, made)
    one.take(10, {"x": SEEN[:1]}, (), made)
    noted = one.drain()
    assert noted.given[0].pick == UNKNOWN
    assert (noted.samples[0].confidence, noted.samples[0].margin) == (None, None)


def test_sureness_of_scores_that_are_not_finite_is_unknown_and_integers_count():
    assert sureness(np.array([[np.nan, 1]], np.float32)) == (None, None)
    best, margin = sureness(np.array([[-128, 127, -128]], np.int8))
    assert (best, margin) == (1, 1)


def test_agreement_is_the_share_of_members_that_pick_the_answers_class():
    members = [{"y": scores(2)}, None, {"y": scores(1)}, {"y": scores(2)}, {}]
    assert agreement_of(members, {"y": scores(2)}) == pytest.approx(2 / 3)
    assert agreement_of([{"y": scores(2)}], {"y": scores(2)}) is None


# --- the node ----------------------------------------------------------------------


class Node:
    """A node's feedback over observers that a test feeds; one start of the node each."""

    def __init__(self, folder: Path, *plans: Plan) -> None:
        self.loaded: list[tuple[Plan, Epoch, Mapping[int, Observer]]] = [
            (one, Epoch(3), {0: observer(made=one)[0]}) for one in plans
        ]
        stages = SimpleNamespace(
            store=SimpleNamespace(feedback=folder / "feedback.json"),
            off_loop=asyncio.to_thread,
            observed=lambda: self.loaded,
        )
        self.feedback = NodeFeedback(NodeName("a"), NodeConfig(name="a"), stages, list)

    @property
    def observer(self) -> Observer:
        return self.loaded[0][2][0]

    async def say(self, request: RequestId, caller: Caller = OPERATOR, **said: Any) -> pb.FeedbackReply:
        return await self.feedback.feedback(caller, pb.FeedbackRequest(plan="p", request=request, **said))


async def test_labels_count_once_and_corrections_are_no_labels(tmp_path):
    node = Node(tmp_path, ONE)
    first, second = answered(node.observer, 1, 2), answered(node.observer, 2, 3)
    reply = await node.say(first, label=2)
    assert (reply.counted, reply.correct) == (True, True)
    again = await node.say(first, correct=False)
    assert (again.counted, again.reason) == (False, "somebody has said already whether it was right")
    assert (await node.say(second, label=0, corrected=True)).correct is False
    assert (await node.say(first, corrected=True)).counted
    assert not (await node.say(first, corrected=True)).counted
    assert not (await node.say(RequestId(b"?" * 16), correct=True)).counted
    (model,) = node.feedback.models()
    assert [(day.labelled, day.correct) for day in model.days] == [(2, 1)]
    assert (model.answers, model.corrections, model.accuracy) == (2, 2, 0.9)
    assert (model.family, model.release, model.model) == ("digits", 7, MODEL.sha256)


async def test_a_client_judges_its_own_answers_only_and_an_operator_any(tmp_path):
    node = Node(tmp_path, ONE)
    request = answered(node.observer, 1, 2, requester="c")
    with pytest.raises(Refused, match="only its requester judges it"):
        await node.say(request, Caller(NodeName("d"), "client"), correct=True)
    assert (await node.say(request, Caller(NodeName("c"), "client"), correct=True)).counted


async def test_feedback_that_says_nothing_or_two_things_is_refused(tmp_path):
    node = Node(tmp_path, ONE)
    request = answered(node.observer, 1, 2)
    with pytest.raises(InputError, match="says nothing"):
        await node.say(request)
    with pytest.raises(InputError, match="one of them"):
        await node.say(request, correct=True, label=2)
    boxes = Node(tmp_path, plan((X, TensorSpec("y", (1, 10, 4), "float32"))))
    boxes.observer.note(request, NodeName("c"), {1}, {})
    with pytest.raises(InputError, match="give correct instead"):
        await boxes.say(request, label=2)


async def test_the_latest_answers_are_remembered_only(tmp_path):
    node = Node(tmp_path, ONE)
    first = answered(node.observer, 0, 2)
    node.feedback.models()
    for number in range(1, MAX_WAITING + 1):
        answered(node.observer, number, 2)
    assert not (await node.say(first, correct=True)).counted
    assert (await node.say(RequestId(MAX_WAITING.to_bytes(16, "big")), correct=True)).counted


async def test_a_condition_tells_drift_and_confidence_of_the_current_epoch(tmp_path):
    node = Node(tmp_path, ONE)
    node.loaded.append((ONE, Epoch(2), {0: observer()[0]}))
    for row in SEEN[:200] + 3:
        node.observer.take(2_000, {"x": row[None]}, (), {"y": scores(1, sure=0.4)})
    reply = await node.feedback.condition(OPERATOR, pb.ConditionRequest())
    found = decode_condition(reply.json, "a")
    (model,) = found.models
    assert (model.epoch, model.sampled) == (3, 200)
    assert all((psi(feature) or 0) > 0.2 for feature in model.inputs)
    assert (model.confidence.baseline, model.confidence.now) == (0.7, pytest.approx(0.4))
    assert model.latency.baseline_ms == 2.0
    assert found.free_disk_bytes


async def test_counts_survive_a_restart_and_belong_to_their_epoch_and_plan(tmp_path):
    node = Node(tmp_path, ONE)
    await node.feedback.open()
    await node.say(answered(node.observer, 1, 2), label=2)
    await node.feedback.close()

    again = Node(tmp_path, ONE)
    await again.feedback.open()
    assert again.feedback.models()[0].days[0].labelled == 1
    await again.feedback.close()

    other = Node(tmp_path, plan((X, Y)).replace(credits=2))
    await other.feedback.open()
    assert other.feedback.models()[0].days == ()
    await other.feedback.close()


async def test_a_broken_file_of_counts_is_left_out_with_a_warning(tmp_path, caplog):
    await asyncio.to_thread((tmp_path / "feedback.json").write_text, '[{"plan": 3}]')
    node = Node(tmp_path, ONE)
    await node.feedback.open()
    assert node.feedback.models()[0].answers == 0
    assert "what was counted of answers is lost" in caplog.text
    await node.feedback.close()


async def test_an_epoch_that_is_gone_is_forgotten(tmp_path):
    node = Node(tmp_path, ONE)
    request = answered(node.observer, 1, 2)
    assert node.feedback.models()
    node.loaded.clear()
    assert node.feedback.models() == []
    assert not (await node.say(request, correct=True)).counted
