"""Splitting calls into requests, and joining their answers."""

from __future__ import annotations

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import LimitExceeded, TensorError
from collab.serving.batch import MAX_BATCH, Axis, Layout, batchable, join, layout, split
from tests.unit.serving.stand_in import plan

FLAT = TensorSpec("x", (2,), "float32")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 2), Layout(Axis.NONE, 1)),
        ((5, 2), Layout(Axis.OWN, 5)),
        ((5, 1, 2), Layout(Axis.LEADING, 5)),
        ((MAX_BATCH, 2), Layout(Axis.OWN, MAX_BATCH)),
    ],
)
def test_a_batch_is_along_the_models_own_axis_or_one_more(shape, expected):
    assert layout(plan(), {"x": shape}) == expected


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0, 2), (-1, 2), (1, 1, 1, 2), (5, 5, 2)])
def test_other_shapes_are_refused_with_the_shape_that_fits(shape):
    with pytest.raises(TensorError, match=r"input 'x': shape .* does not fit; the model takes \[N, 2\]"):
        layout(plan(), {"x": shape})


def test_a_batch_is_bounded():
    with pytest.raises(LimitExceeded, match="256"):
        layout(plan(), {"x": (MAX_BATCH + 1, 2)})


def test_a_model_without_an_axis_of_its_own_takes_one_more_only():
    flat = plan(inputs=(FLAT,), outputs=(TensorSpec("y", (1,), "float32"),))
    assert not batchable(flat)
    assert layout(flat, {"x": (3, 2)}) == Layout(Axis.LEADING, 3)
    with pytest.raises(TensorError):
        layout(flat, {"x": (3,)})


def test_all_inputs_have_the_same_batch():
    two = plan(
        inputs=(TensorSpec("x", (1, 2), "float32"), TensorSpec("z", (1, 2), "float32")),
        outputs=(TensorSpec("y", (1,), "float32"), TensorSpec("w", (1,), "float32")),
    )
    assert layout(two, {"x": (3, 2), "z": (3, 2)}).requests == 3
    with pytest.raises(TensorError, match="another batch"):
        layout(two, {"x": (3, 2), "z": (4, 2)})
    with pytest.raises(TensorError, match=r"'z' .* is missing"):
        layout(two, {"x": (3, 2)})


@pytest.mark.parametrize("shape", [(1, 2), (5, 2), (5, 1, 2)])
def test_what_is_split_is_joined_again(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    how = layout(plan(), {"x": shape})
    requests = split({"x": array}, how)
    assert [request["x"].shape for request in requests] == [(1, 2)] * how.requests
    joined = join([{"y": request["x"]} for request in requests], how, ["y"])["y"]
    assert joined.shape == shape
    assert joined.tobytes() == array.tobytes()
