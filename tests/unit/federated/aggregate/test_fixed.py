"""Sums in fixed point: the same bits in any order and grouping, and the mean of float64."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from collab.errors import LimitExceeded, ProtocolError, TensorError
from collab.federated.aggregate import fixed
from collab.federated.aggregate.fixed import MAX_VALUE, MAX_WEIGHT, FixedSum, weight_units
from collab.federated.aggregate.partial import decode_partial, encode_partial

SHAPES = {"w": (3, 2), "b": (2,), "s": ()}

values = st.floats(-MAX_VALUE, MAX_VALUE, width=32)
terms = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {name: hnp.arrays(np.float32, shape, elements=values) for name, shape in SHAPES.items()}
        ),
        st.floats(1e-6, 1e6),
    ),
    min_size=1,
    max_size=6,
)


def summed(parts):
    total = FixedSum(SHAPES)
    for arrays, weight in parts:
        total.add(arrays, weight_units(weight))
    return total


def bits(total: FixedSum):
    return [limb.tobytes() for limb in total.limbs()], total.terms, total.weight


@given(terms, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_a_bit(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert bits(summed(parts)) == bits(summed(shuffled))
    one, other = summed(parts).mean(), summed(shuffled).mean()
    assert all(one[name].tobytes() == other[name].tobytes() for name in SHAPES)


@given(terms, terms, st.booleans())
def test_sums_of_gateways_have_the_bits_of_the_sum_of_all(left, right, swapped):
    total = FixedSum(SHAPES)
    for part in [right, left] if swapped else [left, right]:
        (sent,) = decode_partial(encode_partial([summed(part)]), SHAPES)
        total.merge(sent)
    assert bits(total) == bits(summed([*left, *right]))


@given(terms)
def test_it_is_the_mean_of_float64(parts):
    weights = [weight_units(weight) / fixed.WEIGHT_UNIT for _, weight in parts]
    mean = summed(parts).mean()
    for name in SHAPES:
        stacked = np.stack([arrays[name].astype(np.float64) for arrays, _ in parts])
        plain = np.tensordot(weights, stacked, 1) / sum(weights)
        # What float64 itself loses to cancellation, and a step of the grid for each term.
        scale = np.tensordot(weights, abs(stacked), 1) / sum(weights)
        assert (
            abs(mean[name] - plain)
            <= 1e-7 * abs(plain) + 1e-14 * scale + 2.0**-58 * len(parts) / sum(weights)
        ).all()


def test_a_mean_of_weights_like_those_of_models_is_within_1e_7_of_float64():
    rng = np.random.default_rng(1)
    arrays = [{"w": rng.normal(0, 0.01, 10_000).astype(np.float32)} for _ in range(50)]
    weights = rng.integers(1, 5000, 50)
    total = FixedSum({"w": (10_000,)})
    for update, weight in zip(arrays, weights, strict=True):
        total.add(update, weight_units(int(weight)))
    plain = np.average([update["w"].astype(np.float64) for update in arrays], axis=0, weights=weights)
    np.testing.assert_allclose(total.mean()["w"], plain, rtol=1e-7, atol=0)


def test_small_terms_cancel_exactly():
    total = FixedSum({"w": (2,)})
    big = {"w": np.float32([MAX_VALUE, -MAX_VALUE])}
    total.add({"w": np.float32([1e-12, -1e-12])}, weight_units(1))
    total.add(big, weight_units(1000))
    total.add({"w": -big["w"]}, weight_units(1000))
    assert total.mean(by=1)["w"] == pytest.approx([1e-12, -1e-12], rel=1e-5)


def test_many_terms_carry_before_low_parts_overflow(monkeypatch):
    monkeypatch.setattr(fixed, "_CARRY_AFTER", 3)
    total, plain = FixedSum({"w": (1,)}), FixedSum({"w": (1,)})
    for number in range(20):
        total.add({"w": np.float32([0.999 * (-1) ** number])}, weight_units(number + 1))
    monkeypatch.undo()
    for number in range(20):
        plain.add({"w": np.float32([0.999 * (-1) ** number])}, weight_units(number + 1))
    assert bits(total) == bits(plain)


def test_the_largest_values_under_the_largest_weight_do_not_overflow():
    total = FixedSum({"w": (2,)})
    half = weight_units(MAX_WEIGHT // 2)
    for _ in range(2):
        total.add({"w": np.float32([MAX_VALUE, -MAX_VALUE])}, half)
    assert total.mean()["w"].tolist() == [MAX_VALUE, -MAX_VALUE]
    with pytest.raises(LimitExceeded, match="weight"):
        total.add({"w": np.float32([0, 0])}, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2 * MAX_VALUE])
def test_what_cannot_be_summed_is_refused_and_changes_nothing(value):
    total = FixedSum({"w": (2,)})
    total.add({"w": np.float32([1, 2])}, weight_units(1))
    before = bits(total)
    with pytest.raises(LimitExceeded, match="'w'"):
        total.add({"w": np.float32([0, value])}, weight_units(1))
    with pytest.raises(TensorError, match="shape"):
        total.add({"w": np.float32([0])}, weight_units(1))
    with pytest.raises(TensorError, match="'v'"):
        total.add({"v": np.float32([0, 0])}, weight_units(1))
    assert bits(total) == before


def test_nothing_has_no_mean():
    with pytest.raises(TensorError, match="quorum"):
        FixedSum({"w": (2,)}).mean()


def test_memory_does_not_grow_with_the_number_of_clients():
    size, clients = 20_000, 200
    rng = np.random.default_rng(1)
    total = FixedSum({"w": (size,)})
    tracemalloc.start()
    try:
        total.add({"w": rng.random(size, np.float32)}, 1)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(clients):
            total.add({"w": rng.random(size, np.float32)}, 1)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4 * size
    assert peak - before < 8 * size + (1 << 20)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_foreign_bytes_give_our_errors_alone(garbage, at, byte):
    good = bytearray(encode_partial([summed([({n: np.ones(s, np.float32) for n, s in SHAPES.items()}, 2)])]))
    good[at % len(good)] = byte
    for data in (garbage, bytes(good), bytes(good[: at % len(good)])):
        try:
            (back,) = decode_partial(data, SHAPES)
        except (ProtocolError, TensorError, LimitExceeded):
            continue
        assert back.shapes == SHAPES


def test_sums_that_claim_too_much_are_refused():
    total = summed([({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, 2)])
    data = encode_partial([total])
    with pytest.raises(TensorError, match="not those of this model"):
        decode_partial(data, {"w": (3, 2)})
    with pytest.raises(ProtocolError, match="2 were expected"):
        decode_partial(data, SHAPES, controls=True)
    high, low = (limb.copy() for limb in total.limbs())
    high[0] = 1 << 40
    with pytest.raises(LimitExceeded, match="larger than"):
        FixedSum.from_limbs(SHAPES, high, low, total.terms, total.weight)
    with pytest.raises(TensorError, match="low parts"):
        FixedSum.from_limbs(SHAPES, low, low - 1, total.terms, total.weight)
