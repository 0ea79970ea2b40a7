"""Updates as whole numbers in a ring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import ConfigError, ProtocolError, TensorError
from collab.federated.privacy.fixed_point import Encoding, decode_sum, encode, shapes_of, vector_length

SHAPES = {"kernel": (2, 2), "bias": (2,)}
SMALL = Encoding(fraction_bits=4, limit=2.0, max_samples=10)


def delta(*values: float) -> dict[str, np.ndarray]:
    flat = np.array(values, np.float32)
    return {"kernel": flat[:4].reshape(2, 2), "bias": flat[4:]}


def test_values_are_cut_towards_zero_and_multiplied_by_the_samples():
    vector = encode(SMALL, SHAPES, delta(1.0, -1.0, 0.99 / 16, -0.99 / 16, 2.0, -2.0), 3)
    assert vector.dtype == np.uint64
    assert vector.view(np.int64).tolist() == [48, -48, 0, 0, 96, -96, 3]
    assert len(vector) == vector_length(SHAPES)


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(32, 12, 4.0, 100)])
def test_sums_are_exact_in_any_order(encoding):
    encoding.check(7)
    rng = np.random.default_rng(1)
    updates = [(delta(*rng.uniform(-4, 4, 6)), int(rng.integers(1, 100))) for _ in range(7)]
    vectors = [encode(encoding, SHAPES, *update) for update in updates]
    total = decode_sum(encoding, SHAPES, np.add.reduce(vectors), 7)
    scale = 2**encoding.fraction_bits
    expected = [
        sum(int(float(one["bias"][place]) * scale) * samples for one, samples in updates) for place in (0, 1)
    ]
    assert total.numbers[4:].tolist() == expected
    assert total.samples == sum(samples for _, samples in updates)
    assert total.mean()["bias"].tolist() == [n / total.samples * encoding.step for n in expected]
    assert shapes_of(total.mean()) == SHAPES
    backwards = sum(reversed(vectors), np.zeros(7, encoding.type))
    assert (backwards == np.add.reduce(vectors)).all()


@given(st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6), st.integers(1, 10))
def test_one_update_comes_back_within_a_step(values, samples):
    back = decode_sum(SMALL, SHAPES, encode(SMALL, SHAPES, delta(*values), samples), 1).mean()
    for name, array in delta(*values).items():
        assert (np.abs(back[name] - array) < SMALL.step).all()
        assert (np.abs(back[name]) <= np.abs(array)).all()


@pytest.mark.parametrize(
    ("values", "samples", "why"),
    [
        ([0, 0, 0, 0, np.nan, 0], 1, "'bias' is not finite"),
        ([0, np.inf, 0, 0, 0, 0], 1, "'kernel' is not finite"),
        ([0, 0, 0, -2.001, 0, 0], 1, "'kernel' has a value of 2.001, over the encoding's limit of 2"),
        ([0] * 6, 0, "samples: 0"),
        ([0] * 6, -5, "samples: -5"),
        ([0] * 6, 11, "samples: 11 is not within 1 to 10"),
    ],
)
def test_what_is_out_of_range_is_refused_and_named(values, samples, why):
    with pytest.raises(TensorError, match=why):
        encode(SMALL, SHAPES, delta(*values), samples)


def test_other_parameters_and_shapes_are_refused_and_named():
    right = delta(*[0] * 6)
    with pytest.raises(TensorError, match="'bias' is missing"):
        encode(SMALL, SHAPES, {"kernel": right["kernel"]}, 1)
    with pytest.raises(TensorError, match=r"'bias' has shape \(3,\), the model's is \(2,\)"):
        encode(SMALL, SHAPES, {**right, "bias": np.zeros(3, np.float32)}, 1)


def test_what_could_wrap_around_is_refused():
    Encoding().check(512)
    Encoding(32, 20, 1.0, 1).check(2047)
    for encoding, clients in [(Encoding(32, 20, 1.0, 1), 2048), (Encoding(max_samples=1 << 28), 2)]:
        with pytest.raises(ConfigError, match="take ring_bits 64"):
            encoding.check(clients)


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ([0] * 6 + [1], "counts 1 samples"),
        ([0] * 6 + [-3], "counts -3 samples"),
        ([0] * 6 + [21], "possible are 2 to 20"),
        ([0] * 5 + [5 * 32 + 1, 5], "over 2 on average"),
        ([-5 * 32 - 1] + [0] * 5 + [5], "over 2 on average"),
        ([np.iinfo(np.int64).min] + [0] * 5 + [5], "over 2 on average"),
    ],
)
def test_a_sum_that_no_honest_updates_have_is_refused(numbers, why):
    with pytest.raises(ProtocolError, match=why):
        decode_sum(SMALL, SHAPES, np.array(numbers, np.int64).view(np.uint64), 2)
