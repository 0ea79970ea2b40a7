"""Transforms as loaded stages, and files that run for every row."""

from __future__ import annotations

import numpy as np
import pytest

from collab.core import transforms as kinds
from collab.core.plan import StageSpec
from collab.core.tensor import TensorSpec
from collab.core.transform_shapes import made
from collab.errors import TensorError
from collab.runtime.base import LoadedStage
from collab.runtime.transforms.stage import MAKERS, EachRow, TransformStage, rows_of

IMAGE = TensorSpec("image", (1, 8, 6, 3), "uint8")
BOXES = TensorSpec("boxes", (5, 4), "float32")
SCORES = TensorSpec("scores", (5, 2), "float32")
COUNT = TensorSpec("count", (1,), "float32")
FLOATS = TensorSpec("x", (2, 6), "float32")
INTS = TensorSpec("q", (2, 6), "int8")
HEAT = TensorSpec("heat", (1, 3, 3, 2), "float32")
SIZES = TensorSpec("size", (1, 3, 3, 2), "float32")

CASES = [
    (kinds.Resize(size=(4, 4)), (IMAGE,)),
    (kinds.Resize(size=(9, 4), method="nearest", aspect="letterbox", fill=300), (IMAGE,)),
    (kinds.Crop(size=(2, 2)), (IMAGE, BOXES)),
    (kinds.Crop(size=(2, 2)), (IMAGE, BOXES, COUNT)),
    (kinds.Nms(most=3), (BOXES, SCORES)),
    (kinds.Nms(most=3), (TensorSpec("b", (1, 5, 4), "float32"), TensorSpec("s", (1, 5), "float32"))),
    (kinds.DecodeBoxes(anchors=((0.5, 0.5, 1, 1),) * 5), (BOXES, SCORES)),
    (kinds.CentrePoints(), (HEAT, SIZES)),
    (kinds.Unletterbox(image=(8, 6), size=(4, 4)), (BOXES,)),
    (kinds.TopK(k=2), (SCORES,)),
    (kinds.Softmax(), (SCORES,)),
    (kinds.Normalise(scale=(0.1, 0.2, 0.3)), (IMAGE,)),
    (kinds.Cast(dtype="int64"), (FLOATS,)),
    (kinds.Quantise(scale=0.1, dtype="uint8"), (FLOATS,)),
    (kinds.Dequantise(scale=0.1, zero=3), (INTS,)),
    (kinds.Reshape(shape=(3, 4)), (INTS,)),
    (kinds.Select(start=1, stop=3), (FLOATS,)),
    (kinds.Concat(axis=0), (FLOATS, TensorSpec("y", (1, 6), "float32"))),
    (kinds.Join(), (FLOATS, INTS)),
]


def stage(transform, inputs):
    specs = tuple(TensorSpec(f"s.{name}", shape, dtype) for name, shape, dtype in made(transform, inputs))
    return StageSpec(id="s", nodes=("a",), inputs=inputs, outputs=specs, transform=transform)


def test_every_kind_has_what_makes_it():
    assert set(kinds.KINDS) == MAKERS.keys() == {kinds.kind_of(transform) for transform, _ in CASES}


@pytest.mark.parametrize(("transform", "inputs"), CASES)
def test_a_transform_makes_the_shapes_and_dtypes_that_plans_are_checked_by(transform, inputs):
    loaded = TransformStage(stage(transform, inputs))
    rng = np.random.default_rng(1)
    given = [(rng.random(spec.shape) * 3).astype(spec.dtype) for spec in inputs]
    results = loaded.run(given)
    assert [(a.shape, a.dtype.name) for a in results] == [(s.shape, s.dtype) for s in loaded.outputs]
    assert all(array.flags.c_contiguous for array in results)
    again = loaded.run(given)
    for first, second in zip(results, again, strict=True):
        assert first.tobytes() == second.tobytes()
    with pytest.raises(TensorError, match="inputs came"):
        loaded.run(given[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40])
@pytest.mark.parametrize(("transform", "inputs"), CASES)
def test_odd_numbers_fail_nothing_and_warn_of_nothing(transform, inputs, value):
    loaded = TransformStage(stage(transform, inputs))
    given = [
        np.full(spec.shape, value, spec.dtype)
        if spec.dtype == "float32"
        else np.zeros(spec.shape, spec.dtype)
        for spec in inputs
    ]
    results = loaded.run(given)
    assert [(a.shape, a.dtype.name) for a in results] == [(s.shape, s.dtype) for s in loaded.outputs]


class Doubler(LoadedStage):
    """Doubles one row, and counts how often it is asked."""

    def __init__(self):
        self.inputs = (TensorSpec("x", (1, 3), "float32"),)
        self.outputs = (TensorSpec("y", (1, 3), "float32"), TensorSpec("sum", (), "float32"))
        self.asked = 0
        self.closed = False

    def run(self, inputs):
        self.asked += 1
        return [inputs[0] * 2, np.float32(inputs[0].sum()).reshape(())]

    def close(self):
        self.closed = True


def rows(counter=()):
    return StageSpec(
        id="s",
        nodes=("a",),
        inputs=(TensorSpec("x", (4, 3), "float32"), *counter),
        outputs=(TensorSpec("y", (4, 3), "float32"), TensorSpec("sum", (4,), "float32")),
        each=True,
    )


@pytest.mark.parametrize(("count", "runs"), [(0, 0), (3, 3), (9, 4), (-1, 0), (np.nan, 0), (np.inf, 0)])
def test_a_file_runs_for_as_many_rows_as_the_count_says(count, runs):
    one = Doubler()
    loaded = EachRow(one, rows((COUNT,)))
    x = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
    doubled, sums = loaded.run([x, np.array([count], np.float32)])
    assert one.asked == runs
    assert np.array_equal(doubled[:runs], x[:runs] * 2)
    assert np.array_equal(sums[:runs], x[:runs].sum(axis=1))
    assert not doubled[runs:].any()
    loaded.close()
    assert one.closed


def test_without_a_count_a_file_runs_for_every_row():
    one = Doubler()
    EachRow(one, rows()).run([np.ones((4, 3), np.float32)])
    assert one.asked == 4


def test_counts_may_be_of_any_real_dtype():
    counts = [np.uint8(3), np.float32(2.9), True, np.int64(99)]
    assert [rows_of(np.array(value), 8) for value in counts] == [3, 2, 1, 8]
