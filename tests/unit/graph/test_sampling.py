from __future__ import annotations

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import ModelError
from collab.graph import parse_model, random_inputs, random_splits
from tests.tflite_builder import ModelBuilder


def chain(length: int) -> bytes:
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    for _ in range(length):
        x = b.main.unary("TANH", x)
    b.main.output(x)
    return b.build()


def test_integers_that_may_be_indices_are_small_and_not_negative():
    specs = [TensorSpec("i", (1000,), dtype) for dtype in ("int32", "int64", "uint16", "int16")]
    for array, spec in zip(random_inputs(specs, count=1)[0], specs, strict=True):
        assert array.dtype == spec.dtype
        assert set(array.tolist()) == {0, 1, 2, 3}


def test_bytes_and_quantised_integers_fill_their_range():
    specs = [
        TensorSpec("a", (5000,), "int8"),
        TensorSpec("b", (5000,), "uint8"),
        TensorSpec("c", (5000,), "int16"),
    ]
    a, b, c = random_inputs(specs, quantised={"c"}, count=1)[0]
    assert (a.min(), a.max(), b.min(), b.max()) == (-128, 127, 0, 255)
    assert c.max() > 30000 > -30000 > c.min()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "bool"])
def test_other_types_are_drawn_in_shape(dtype):
    (array,) = random_inputs([TensorSpec("x", (3, 50), dtype)], count=1)[0]
    assert (array.shape, array.dtype) == ((3, 50), dtype)
    assert len(np.unique(array)) > 1


def test_a_seed_gives_the_same_inputs_and_another_gives_others():
    specs = [TensorSpec("x", (4,), "float32")]
    one, same, other = (random_inputs(specs, seed=s, count=2) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ModelError, match="input 'text' holds string"):
        random_inputs([TensorSpec("text", (1,), "string")])
    with pytest.raises(ModelError, match="input 'x' has no static shape"):
        random_inputs([TensorSpec("x", (-1,), "float32")])


def test_splits_have_two_or_three_ascending_cuts_and_never_repeat():
    found = random_splits(parse_model(chain(20)), 200, seed=4)
    assert len(set(found)) == len(found) == 200
    assert {len(split) for split in found} == {2, 3}
    assert all(list(split) == sorted(set(split)) for split in found)
    assert found == random_splits(parse_model(chain(20)), 200, seed=4)
    assert found != random_splits(parse_model(chain(20)), 200, seed=5)


def test_a_small_model_gives_all_splits_that_it_has():
    assert random_splits(parse_model(chain(4)), 100, seed=0) == [(1, 2), (1, 3), (2, 3), (1, 2, 3)]
    assert random_splits(parse_model(chain(2)), 100, seed=0) == []
