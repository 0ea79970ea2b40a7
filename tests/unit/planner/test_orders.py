"""Whether another order of operators is worth a second file, and what it costs then."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from collab.planner.chains import Chain, Costs, Move, Option, StageChoice, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.mincut import dag_cut
from collab.planner.orders import dag_order_helps, in_order
from tests.unit.planner.test_mincut import device, interleaved, link, profile_of, random_profile

GAIN = dag_cut(interleaved(), "a", "b")


def chain_of(ms: float) -> Option:
    """A chain of which the latency alone counts."""
    chain = Chain((StageChoice(0, 9, ("b",)),), (Move(), Move()))
    return Option(chain, Costs(ms, ms, 0, 0.0, 0.0))


def test_another_order_helps_from_one_percent_on():
    assert GAIN is not None
    assert dag_order_helps(interleaved(), Wants(), chain_of(GAIN.latency_ms * 1.02)) == GAIN
    assert dag_order_helps(interleaved(), Wants(), chain_of(GAIN.latency_ms * 1.005)) is None
    assert dag_order_helps(interleaved(), Wants(), None) == GAIN


@pytest.mark.parametrize(
    "wants",
    [
        Wants(objective="throughput"),
        Wants(at=(4,)),
        Wants(assign=(("a",), ("b",))),
        Wants(first_ops=2),
        Wants(max_stages=1),
        Wants(forbidden=frozenset({"a"})),
        Wants(transports=("mqtt",)),
    ],
    ids=str,
)
def test_what_another_order_cannot_give_is_not_offered(wants):
    assert dag_order_helps(interleaved(), wants, chain_of(1000.0)) is None


def test_the_raw_input_does_not_leave_the_device_that_has_to_be_first():
    profile = interleaved()
    assert GAIN is not None
    assert "image" in GAIN.crossing
    assert dag_order_helps(profile, Wants(first_on="a"), chain_of(1000.0)) is None
    begun = msgspec.structs.replace(profile.tensors[-4], readers=(0,))
    assert begun.name == "image"
    later = msgspec.structs.replace(profile.tensors[0], readers=(1, 2))
    tensors = (later, *profile.tensors[1:-4], begun, *profile.tensors[-3:])
    fresh = profile_of(tensors, profile.devices, profile.links, "a")
    found = dag_order_helps(fresh, Wants(first_on="a"), chain_of(1000.0))
    assert found is not None
    assert 0 in found.near
    assert "image" not in found.crossing


def test_the_order_of_the_file_is_no_other_order():
    tensors = interleaved().tensors
    devices = [device("a", [1.0] * 2 + [9.0] * 7), device("b", [9.0] * 2 + [1.0] * 7)]
    links = [link(s, t, 0.1, 1000) for s, t in ("ab", "ba")]
    profile = profile_of(tensors, devices, links, "a")
    found = dag_cut(profile, "a", "b")
    assert found is not None
    assert found.at == 2
    assert dag_order_helps(profile, Wants(), chain_of(1000.0)) is None


def test_of_many_alike_devices_few_pairs_are_tried(monkeypatch):
    tried = []

    def counted(profile, near, far, **more):
        tried.append((near, far))
        return dag_cut(profile, near, far, **more)

    monkeypatch.setattr("collab.planner.orders.dag_cut", counted)
    few = interleaved()
    names = [f"{kind}{i}" for i in range(8) for kind in "ab"]
    devices = [msgspec.structs.replace(few.devices["ab".index(name[0])], name=name) for name in names]
    links = [link(s, t, 1, 100) for s, t in itertools.permutations([*names, "me"], 2)]
    profile = msgspec.structs.replace(few, devices=tuple(devices), links=tuple(links), requester="me")
    found = dag_order_helps(profile, Wants(), None)
    assert found is not None
    assert found.near == {0, 2, 4, 6}
    assert len(tried) <= 4


def test_a_profile_in_another_order_costs_the_same_stage_by_stage():
    rng = random.Random(8)
    for _ in range(50):
        profile = random_profile(rng)
        ops = len(profile.devices[0].op_ms)
        again = in_order(profile, range(ops), model_sha256="x")
        assert msgspec.structs.replace(again, model_sha256=profile.model_sha256) == profile
    assert GAIN is not None
    moved = in_order(interleaved(), GAIN.order, model_sha256="0" * 64)
    assert moved.model_sha256 == "0" * 64
    assert moved.devices[0].op_ms == (2.0,) * 4 + (50.0,) * 4 + (5.0,)
    assert {cut.at: cut.bytes for cut in moved.cuts}[4] == 2000
    chain = Chain((StageChoice(0, 4, ("a",)), StageChoice(4, 9, ("b",))), (Move(), Move(), Move()))
    assert Evaluator(moved).evaluate(chain).costs.latency_ms == pytest.approx(GAIN.latency_ms)


def test_what_stays_together_is_not_cut_apart_in_another_order():
    moved = in_order(interleaved(), [0, 2, 4, 6, 1, 3, 5, 7, 8], model_sha256="", together=[(2, 3)])
    assert [cut.at for cut in moved.cuts] == [1, 6, 7, 8]
