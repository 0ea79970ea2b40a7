"""The distributed answer equals the whole model's, whatever the model, the cuts and the places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from collab.codec.tensors import Array
from collab.core.ids import REQUESTER, NodeName
from collab.core.plan import FireAny, Guard
from collab.core.token import Token
from collab.runtime.guards import measure
from tests.integration.deployments import assert_equal_answers, deployed_plan, endpoints
from tests.integration.ensembles import combiner, edge, twins, whole, written
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess

LAYOUTS = {
    "one node": ([], ["a"]),
    "two nodes": ([14], ["a", "b"]),
    "three nodes": ([10, 20], ["a", "b", "c"]),
    "over skip connections": ([2, 11, 24], ["a", "b", "c", "a"]),
    "two stages on one node": ([7, 15, 24], ["a", "a", "b", "b"]),
    "back and forth": ([5, 10, 15, 20, 25], ["a", "b", "a", "c", "b", "a"]),
}


@pytest.mark.parametrize("model", ["digits", "digits_int8", "digits_dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_every_layout_answers_what_the_whole_model_answers(
    trio: list[NodeProcess], references: dict[str, Reference], model: str, layout: str
):
    reference = references[model]
    at, places = LAYOUTS[layout]
    plan, blobs = reference.chain(at, places, endpoints(trio))
    async with deployed_plan(plan, blobs) as (_, client):
        answers = await assert_equal_answers(client, reference)
    assert {answer.path for answer in answers} == {tuple(places)}
    for answer in answers:
        assert [(hop.stage, hop.node) for hop in answer.hops] == list(enumerate(places))
        assert all(hop.compute_us > 0 for hop in answer.hops)
        assert answer.total_ms >= sum(hop.total_us for hop in answer.hops) / 1000


async def test_replicas_share_the_work_and_give_the_same_answers(trio: list[NodeProcess], digits: Reference):
    plan, blobs = digits.chain([10, 20], [["a"], ["a", "b", "c"], ["b", "c"]], endpoints(trio))
    async with deployed_plan(plan, blobs) as (_, client):
        answers = await assert_equal_answers(client, digits)
    paths = [answer.path for answer in answers]
    assert all(path[0] == "a" for path in paths)
    for place in (1, 2):
        for name in "bc":
            assert sum(path[place] == name for path in paths) > len(paths) // 6, paths


async def test_replicas_of_the_entry_share_the_credits(trio: list[NodeProcess], digits: Reference):
    plan, blobs = digits.chain([10], [["a", "b"], ["c"]], endpoints(trio), credits=6)
    async with deployed_plan(plan, blobs, credits=100) as (_, client):
        assert client.granted == 6
        answers = await assert_equal_answers(client, digits, concurrency=6)
    assert {answer.path for answer in answers} == {("a", "c"), ("b", "c")}


async def test_an_answer_goes_back_through_the_chain(trio: list[NodeProcess], digits: Reference):
    plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(trio), return_by_chain=True)
    assert plan.edges[-1].via == ("b", "a")
    heard: set[str] = set()
    async with deployed_plan(plan, blobs) as (_, client):
        receive = client.receive

        def listen(peer: NodeName, token: Token, now: int) -> None:
            heard.add(peer)
            receive(peer, token, now)

        client.receive = listen  # type: ignore[method-assign]
        await assert_equal_answers(client, digits)
    assert heard == {"a"}


# --- ensembles and cascades, written by hand -------------------------------------------


def answered(reference: Reference, expected: Sequence[Array]) -> Reference:
    return replace(reference, expected=[{"probabilities": array} for array in expected])


async def test_an_ensemble_answers_the_mean_of_its_members(
    trio: list[NodeProcess], references: dict[str, Reference]
):
    digits, other = references["digits"], references["digits_dynamic"]
    members = [whole(digits, "float", "m1", ["a"]), whole(other, "dynamic", "m2", ["b"])]
    edges = [
        edge(REQUESTER, "float", "image"),
        edge(REQUESTER, "dynamic", "image"),
        edge("float", "answer", "probabilities"),
        edge("dynamic", "answer", "probabilities"),
        edge("answer", REQUESTER, "probabilities"),
    ]
    plan, blobs = written(digits, "mean", members, combiner(digits, "c", combine="mean"), edges, trio)
    pairs = [
        (x["probabilities"], y["probabilities"]) for x, y in zip(digits.expected, other.expected, strict=True)
    ]
    assert any(x.tobytes() != y.tobytes() for x, y in pairs), "members must differ"
    means = [((x.astype(np.float64) + y.astype(np.float64)) / 2).astype(np.float32) for x, y in pairs]
    async with deployed_plan(plan, blobs) as (_, client):
        await assert_equal_answers(client, answered(digits, means))


async def test_one_model_may_be_a_member_twice(trio: list[NodeProcess], digits: Reference):
    plan, blobs = twins(digits, "ab", "a", trio[:2])
    assert len(blobs) == 1
    async with deployed_plan(plan, blobs) as (_, client):
        await assert_equal_answers(client, digits)


async def test_a_cascade_asks_the_second_model_only_when_the_first_is_unsure(
    trio: list[NodeProcess], references: dict[str, Reference]
):
    digits, first = references["digits"], references["digits_dynamic"]
    guard = Guard(tensor="probabilities", measure="margin", when="below", threshold=0.0)
    margins = [measure(guard, answer["probabilities"]) for answer in first.expected]
    threshold = float(np.median(margins))
    unsure = msgspec.structs.replace(guard, threshold=threshold)
    sure = msgspec.structs.replace(unsure, when="at_least")
    members = [whole(first, "small", "m1", ["a"]), whole(digits, "large", "m2", ["b"])]
    edges = [
        edge(REQUESTER, "small", "image"),
        edge("small", "large", "image", unsure),
        edge("small", "answer", "probabilities", sure),
        edge("large", "answer", "probabilities"),
        edge("answer", REQUESTER, "probabilities"),
    ]
    last = combiner(digits, "c", combine="first", fires=FireAny())
    plan, blobs = written(digits, "cascade", members, last, edges, trio)
    pairs = zip(margins, first.expected, digits.expected, strict=True)
    expected = [(y if margin < threshold else x)["probabilities"] for margin, x, y in pairs]
    asked = sum(margin < threshold for margin in margins)
    assert 0 < asked < len(margins)
    async with deployed_plan(plan, blobs) as (_, client):
        answers = await assert_equal_answers(client, answered(digits, expected))
    assert sum(any(hop.node == "b" for hop in answer.hops) for answer in answers) == asked
