"""The best chain is the best of all chains, and what cannot be planned is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.profile import CodecAt, CodecSpeed, CutProfile, DeviceProfile, LinkEntry, Profile
from collab.errors import PlanError
from collab.planner import exact, replicas
from collab.planner import solve as solving
from collab.planner.chains import Solution, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.solve import solve
from tests.unit.planner import brute
from tests.unit.planner.instances import Instance, instance


def solution(made: Instance) -> Solution | None:
    try:
        return solve(made.profile, made.wants)
    except PlanError:
        return None


def agree(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def checked(seed: int, kind: str) -> tuple[Solution | None, tuple[float, float, int] | None]:
    """What the solver and trying everything found, after checks that hold for every solution."""
    made = instance(seed, kind)
    found, best = solution(made), brute.best(made.profile, made.wants)
    assert (found is None) == (best is None), f"seed {seed}, kind {kind}: {found} and {best}"
    if found is None or best is None:
        return None, None
    objective, costs = made.wants.objective, Evaluator(made.profile)
    for option in (found.best, *found.runners_up):
        assert costs.evaluate(option.chain).costs == option.costs, f"seed {seed}, kind {kind}"
        assert option.costs.of(objective) >= best[0] * (1 - 1e-9) - 1e-9, f"seed {seed}, kind {kind}"
    assert found.bound <= best[0] * (1 + 1e-9) + 1e-9, f"seed {seed}, kind {kind}: bound {found.bound}"
    return found, best


@pytest.mark.parametrize("kind", ["any", "plain"])
@pytest.mark.parametrize("block", range(6))
def test_the_best_chain_is_the_best_of_all_with_ties_by_latency_and_stages(kind, block):
    for seed in range(20 * block, 20 * block + 20):
        found, best = checked(seed, kind)
        if found is None or best is None:
            continue
        costs = found.best.costs
        value, objective = (
            costs.of(instance(seed, kind).wants.objective),
            instance(seed, kind).wants.objective,
        )
        assert agree(value, best[0]), f"seed {seed}, kind {kind}: {value} for {best[0]}"
        assert agree(costs.latency_ms, best[1]), f"seed {seed}, kind {kind}: {costs.latency_ms} for {best[1]}"
        assert len(found.best.chain.stages) == best[2], f"seed {seed}, kind {kind}"
        assert found.gap(objective) == 0


@pytest.mark.parametrize("kind", ["revisit", "replicas", "assign"])
@pytest.mark.parametrize("block", range(3))
def test_with_revisits_replicas_or_given_nodes_it_is_the_best_or_says_by_how_much_it_may_not_be(kind, block):
    exactly = 0
    for seed in range(15 * block, 15 * block + 15):
        found, best = checked(seed, kind)
        if found is None or best is None:
            continue
        value = found.best.costs.of(instance(seed, kind).wants.objective)
        if found.method.startswith("exact"):
            exactly += 1
            assert agree(value, best[0]), f"seed {seed}, kind {kind}: {value} for {best[0]}"
    assert exactly >= 2


@pytest.mark.parametrize("seed", [2052, 2161, 3099, 3284])
def test_replicas_within_a_deadline_are_exact_only_where_they_say_so(seed):
    found, best = checked(seed, "replicas")
    assert found is not None
    assert best is not None
    if found.method.startswith("exact"):
        assert agree(found.best.costs.bottleneck_ms, best[0])


@pytest.mark.parametrize("block", range(3))
def test_a_search_without_room_for_exactness_keeps_its_bound(block, monkeypatch):
    monkeypatch.setattr(solving, "_ELEMENTS", 0)
    monkeypatch.setattr(solving, "_SETS", 0)
    for seed in range(15 * block, 15 * block + 15):
        found, best = checked(seed, "plain")
        if found is not None and best is not None and found.method.startswith("exact"):
            assert agree(found.best.costs.of(instance(seed, "plain").wants.objective), best[0]), (
                f"seed {seed}"
            )


def test_replicas_that_branch_and_bound_did_not_finish_have_a_bound_below_the_best(monkeypatch):
    monkeypatch.setattr(replicas, "_VISITS", 1)
    for seed in range(20):
        checked(seed, "replicas")


def test_a_first_look_at_thresholds_changes_nothing(monkeypatch):
    made = [instance(seed, "plain") for seed in range(30)]
    made = [
        Instance(i.seed, i.profile, replace(i.wants, codecs=("raw",), objective="throughput")) for i in made
    ]
    plain = [solution(i) for i in made]
    monkeypatch.setattr(exact, "_MANY", 0)
    for i, before in zip(made, plain, strict=True):
        after = solution(i)
        assert (before and before.best.costs) == (after and after.best.costs), f"seed {i.seed}"


# --- properties ----------------------------------------------------------------------


def value(profile: Profile, wants: Wants) -> float:
    try:
        return solve(profile, wants, runners_up=0).best.costs.of(wants.objective)
    except PlanError:
        return math.inf


def no_worse(after: float, before: float) -> bool:
    return after <= before * (1 + 1e-9) + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 4))
def test_more_memory_never_makes_the_best_worse(seed, factor):
    made = instance(seed)
    devices = tuple(
        msgspec.structs.replace(d, memory_bytes=int(d.memory_bytes * factor)) for d in made.profile.devices
    )
    richer = msgspec.structs.replace(made.profile, devices=devices)
    assert no_worse(value(richer, made.wants), value(made.profile, made.wants))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50), st.floats(1, 10))
def test_a_faster_link_never_makes_the_best_worse(seed, which, factor):
    made = instance(seed)
    links = list(made.profile.links)
    if links:
        link = links[which % len(links)]
        links[which % len(links)] = msgspec.structs.replace(
            link, mbit_s=link.mbit_s * factor, latency_ms=link.latency_ms / factor
        )
    faster = msgspec.structs.replace(made.profile, links=tuple(links))
    assert no_worse(value(faster, made.wants), value(made.profile, made.wants))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_another_device_never_makes_the_best_worse(seed):
    made = instance(seed, "plain")
    last = made.profile.devices[-1].name
    if len(made.profile.devices) == 1 or made.profile.requester == last:
        return
    fewer = replace(made.wants, forbidden=frozenset([last]))
    assert no_worse(value(made.profile, made.wants), value(made.profile, fewer))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_best_is_never_worse_than_the_best_one_device(seed):
    made = instance(seed)
    wants = replace(made.wants, at=None, assign=None, deadline_ms=None)
    found = solution(Instance(seed, made.profile, wants))
    if found is not None and found.best_single is not None:
        assert len(found.best_single.chain.stages) == 1
        alone = found.best_single.costs.of(wants.objective)
        assert no_worse(found.best.costs.of(wants.objective), alone)


# --- cases by hand -------------------------------------------------------------------


def device(name: str, ms: float = 1.0, *, ops: int = 4, size: int = 10, memory: int = 1000) -> DeviceProfile:
    return DeviceProfile(name=name, memory_bytes=memory, op_ms=(ms,) * ops, op_bytes=(size,) * ops)


def profile(
    devices: list[DeviceProfile], pairs: list[tuple[str, str]] | None = None, requester: str | None = None
) -> Profile:
    ops, names = len(devices[0].op_ms), [d.name for d in devices]
    ends = [*names, *([requester] if requester not in (None, *names) else [])]
    every = [(a, b) for a in ends for b in ends if a != b]
    return Profile(
        model_sha256="0" * 64,
        input_bytes=1000,
        output_bytes=1000,
        cuts=tuple(CutProfile(at=at, bytes=1000) for at in range(1, ops)),
        devices=tuple(devices),
        links=tuple(
            LinkEntry(source=a, target=b, latency_ms=0.1, mbit_s=100.0)
            for a, b in (every if pairs is None else pairs)
        ),
        requester=requester,
    )


def test_a_pipeline_over_equal_devices_is_even():
    found = solve(profile([device(name) for name in "abcd"]), Wants(objective="throughput"))
    assert found.best.costs.bottleneck_ms == 1.0
    assert found.best.chain.cuts == (1, 2, 3)
    assert found.best_single is not None
    assert found.best_single.costs.bottleneck_ms == 4.0


def test_other_plans_use_other_devices_first_and_are_ranked():
    found = solve(profile([device(n, ms) for n, ms in zip("abc", (1, 2, 3), strict=True)]), Wants())
    assert [stage.nodes for stage in found.best.chain.stages] == [("a",)]
    assert len(found.runners_up) == 5
    plans = [tuple((s.nodes, s.start, s.stop) for s in option.chain.stages) for option in found.runners_up]
    assert len(set(plans)) == 5
    latencies = [option.costs.latency_ms for option in found.runners_up]
    assert latencies == sorted(latencies)


def test_replicas_raise_the_rate_of_a_piece_that_cannot_be_cut():
    made = msgspec.structs.replace(profile([device(n) for n in "abc"]), cuts=())
    assert solve(made, Wants(objective="throughput")).best.costs.bottleneck_ms == 4.0
    found = solve(made, Wants(objective="throughput", max_replicas=3))
    assert found.best.costs.bottleneck_ms == pytest.approx(4 / 3)


def test_a_codec_is_chosen_where_the_link_is_slow_and_not_where_it_is_fast():
    cuts = (CutProfile(at=2, bytes=100_000, codecs=(CodecAt(codec="int8", ratio=4, error=0.01),)),)
    speeds = (CodecSpeed(codec="int8", encode_mb_s=100, decode_mb_s=100),)
    devices = tuple(msgspec.structs.replace(device(n, size=300), codecs=speeds) for n in "ab")
    for rate, codec in ((10.0, "int8"), (10_000.0, "raw")):
        links = tuple(
            LinkEntry(source=a, target=b, latency_ms=0.1, mbit_s=rate) for a, b in (("a", "b"), ("b", "a"))
        )
        made = msgspec.structs.replace(profile(list(devices)), cuts=cuts, links=links)
        found = solve(made, Wants(codecs=("raw", "int8"), codec_error=0.02))
        assert found.best.chain.moves[1].codec == codec
        exactly = solve(made, Wants(codecs=("raw", "int8")))
        assert exactly.best.chain.moves[1].codec == "raw"


def test_sixteen_devices_of_two_types_are_planned_exactly():
    fast, slow = (
        [device(f"f{i}", 1, ops=24) for i in range(8)],
        [device(f"s{i}", 2, ops=24) for i in range(8)],
    )
    found = solve(profile([*fast, *slow]), Wants(objective="throughput"))
    assert found.best.costs.bottleneck_ms == 2.0
    assert found.gap("throughput") == 0


def test_many_different_devices_get_a_plan_and_a_bound():
    many = [device(f"d{i}", 1 + i / 10, ops=30) for i in range(18)]
    made = profile(many, requester="out")
    for objective in ("latency", "throughput"):
        found = solve(made, Wants(objective=objective))
        assert found.bound <= found.best.costs.of(objective)
        assert found.gap(objective) < 0.25
        assert len(found.runners_up) == 5
    assert solve(made, Wants()).best.chain.stages[0].nodes == ("d0",)


# --- refusals ------------------------------------------------------------------------

AB = profile([device("a"), device("b")], requester="out")
BIG = profile([device("a", size=400), device("b", size=400, memory=700)])


@pytest.mark.parametrize(
    ("made", "wants", "message"),
    [
        (AB, Wants(forbidden=frozenset(["c"])), "forbidden: the profile has no device 'c'; it has a, b"),
        (AB, Wants(first_on="c"), "first_on: the profile has no device 'c'"),
        (AB, Wants(assign=(("a",), ("c",))), r"assign\[1\]: the profile has no device 'c'"),
        (AB, Wants(forbidden=frozenset(["a", "b"])), "forbidden: no device is left"),
        (AB, Wants(first_on="a", forbidden=frozenset(["a"])), "first_on: 'a' is forbidden too"),
        (AB, Wants(assign=(("a",),), forbidden=frozenset(["a"])), r"assign\[0\]: 'a' is forbidden too"),
        (AB, Wants(assign=(("a",), ("a",))), r"assign\[1\]: 'a' has an earlier stage; allow revisit"),
        (AB, Wants(assign=(("a", "a"),)), r"assign\[0\]: a device is named twice"),
        (AB, Wants(assign=()), "assign: a stage has no device"),
        (AB, Wants(assign=(("a",), ("b",)), first_on="b"), r"assign\[0\]: first_on is 'b'"),
        (AB, Wants(at=(9,)), "at: 9 is no cut that can be made; the nearest are 2 and 3"),
        (AB, Wants(at=(1, 1)), "at: a cut is named twice"),
        (AB, Wants(at=(1,), assign=(("a",),)), "assign: 1 stages, but the cuts of at make 2"),
        (AB, Wants(at=(1, 2)), "at: 3 stages, but 2 devices may be used"),
        (AB, Wants(at=(1,), first_ops=2), "at: the first cut is 1, before first_ops 2"),
        (AB, Wants(at=(1,), max_stages=1), "max_stages: 1, but at or assign ask for 2 stages"),
        (AB, Wants(max_stages=0), "max_stages: give 1 or more"),
        (AB, Wants(first_ops=5), "first_ops: 5 operators, but the model has 4"),
        (AB, Wants(max_replicas=0), "max_replicas: 0; give 1 or more"),
        (AB, Wants(deadline_ms=0), "deadline_ms: 0 is no time"),
        (AB, Wants(deadline_ms=1), r"deadline_ms: 1 ms cannot be met; the best possible latency is 4\.36 ms"),
        (
            AB,
            Wants(objective="throughput", deadline_ms=1),
            r"deadline_ms: 1 ms cannot be met; the best possible latency is 4\.36 ms",
        ),
        (AB, Wants(codecs=()), "codecs: none may be chosen"),
        (AB, Wants(codecs=("zip",)), "codec 'zip' is not known"),
        (AB, Wants(codecs=("int8",)), "codecs: int8"),
        (
            AB,
            Wants(transports=("mqtt",)),
            "transports: no link of the profile is by 'mqtt'; allow one of grpc",
        ),
        (
            msgspec.structs.replace(BIG, cuts=()),
            Wants(),
            "memory_bytes: operators \\[0, 4\\) cannot be cut and .*; 'a' comes nearest and lacks 600",
        ),
        (
            profile([device("a", size=400), device("b", size=400, memory=700)]),
            Wants(),
            "memory_bytes: the model fits nowhere, even split; 'b' comes nearest and lacks 100 bytes",
        ),
        (
            profile([device("a"), device("b")], [("a", "out"), ("b", "out"), ("a", "b")], "out"),
            Wants(),
            "links: requester 'out' cannot reach a, b",
        ),
        (
            profile([device("a"), device("b")], [("out", "a"), ("a", "b")], "out"),
            Wants(),
            "links: none of a, b can reach requester 'out'",
        ),
        (
            profile([device("a"), device("b")], [("out", "a"), ("b", "out")], "out"),
            Wants(),
            "links: the devices that are needed cannot reach each other: no link from 'a' to 'b'",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_field_and_the_remedy(made, wants, message):
    with pytest.raises(PlanError, match=message) as caught:
        solve(made, wants)
    assert "\n" not in str(caught.value)


def test_what_is_assigned_by_hand_allows_the_replicas_and_repeats_that_it_has():
    wants = Wants().assigned((("a",), ("b", "c"), ("a",)))
    assert (wants.assign, wants.revisit, wants.max_replicas) == ((("a",), ("b", "c"), ("a",)), True, 2)
    once = Wants(max_replicas=3).assigned((("a",), ("b",)))
    assert (once.revisit, once.max_replicas) == (False, 3)
