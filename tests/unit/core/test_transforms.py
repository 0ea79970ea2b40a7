"""Transforms in plans: strict options, shapes that are checked, and digests that stay as they were."""

from __future__ import annotations

import pytest

from collab.core.ids import PlanName
from collab.core.plan import from_json, to_json
from collab.core.tensor import TensorSpec
from collab.core.transform_shapes import made, stacked
from collab.core.transforms import (
    Concat,
    Crop,
    DecodeBoxes,
    Dequantise,
    Nms,
    Normalise,
    Quantise,
    Reshape,
    Resize,
    Select,
    TopK,
)
from collab.core.validate import convert_plan
from collab.errors import PlanError

IMAGE = {"name": "image", "shape": [1, 8, 8, 1], "dtype": "uint8"}
SMALL = {"name": "small.image", "shape": [1, 4, 4, 1], "dtype": "float32"}


def tree(**stage):
    """A plan of one transform."""
    only = {"id": "small", "nodes": ["a"], "inputs": [IMAGE], "outputs": [SMALL]}
    return {
        "name": "t",
        "models": [],
        "inputs": [IMAGE],
        "outputs": [SMALL],
        "stages": [only | {"transform": {"kind": "resize", "size": [4, 4]}} | stage],
        "edges": [
            {"source": "@requester", "target": "small", "tensors": ["image"]},
            {"source": "small", "target": "@requester", "tensors": ["small.image"]},
        ],
        "nodes": [{"name": "a"}],
    }


def spec(name, shape, dtype="float32"):
    return TensorSpec(name, tuple(shape), dtype)


def test_a_plan_of_transforms_travels_and_keeps_its_digest():
    plan = convert_plan(tree())
    back = from_json(to_json(plan))
    assert (back, back.digest) == (plan, plan.digest)
    other = convert_plan(tree(transform={"kind": "resize", "size": [4, 4], "aspect": "letterbox"}))
    assert other.digest != plan.digest
    assert plan.replace(name=PlanName("u")).digest != plan.digest
    by_hand = tree(
        transform={"kind": "resize", "size": [4, 4], "method": "bilinear", "fill": 0.0}, each=False
    )
    assert convert_plan(by_hand).digest == plan.digest


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"transform": {"kind": "resize", "size": [4, 4], "sise": 1}}, "sise"),
        ({"transform": {"kind": "shrink"}}, "shrink"),
        ({"transform": {"size": [4, 4]}}, "kind"),
        ({"transform": {"kind": "resize", "size": [0, 4]}}, ">= 1"),
        ({"transform": {"kind": "resize", "size": [4, 5]}}, r"the image of resize are float32\[1, 4, 5, 1\]"),
        ({"transform": {"kind": "top_k", "k": 1}}, "top_k makes values, indices"),
        ({"transform": {"kind": "softmax"}}, "is not of floats"),
        ({"transform": {"kind": "resize", "size": [4, 4]}, "combine": "mean"}, "leave combine out"),
        ({"transform": {"kind": "resize", "size": [4, 4]}, "ops": [0, 1]}, "leave ops out"),
        ({"transform": {"kind": "resize", "size": [4, 4]}, "each": True}, "only a file"),
        ({"transform": None}, "needs ops and sha256, or combine, or transform"),
    ],
)
def test_what_a_transform_cannot_be_is_refused_by_its_field(stage, message):
    with pytest.raises(PlanError, match=message):
        convert_plan(tree(**stage))


@pytest.mark.parametrize(
    ("transform", "inputs", "message"),
    [
        (Resize(size=(4, 4)), [spec("x", [8, 8, 1])], "is no image"),
        (Resize(size=(4, 4)), [spec("x", [1, 8, 8, 1], "complex64")], "complex"),
        (Resize(size=(4, 4), fill=float("nan")), [spec("x", [1, 8, 8, 1])], "not a finite number"),
        (Resize(size=(8192, 8192)), [spec("x", [1, 8, 8, 2])], "elements"),
        (Crop(size=(4, 4)), [spec("x", [2, 8, 8, 1]), spec("b", [3, 4])], "is no image"),
        (Crop(size=(4, 4)), [spec("x", [1, 8, 8, 1]), spec("b", [3, 5])], "is not of boxes"),
        (Crop(size=(4, 4)), [spec("x", [1, 8, 8, 1]), spec("b", [300, 4])], "over 256; keep fewer by nms"),
        (Crop(size=(4, 4)), [spec("x", [1, 8, 8, 1]), spec("b", [3, 4]), spec("n", [2])], "is no count"),
        (Nms(most=3), [spec("b", [3, 4]), spec("s", [4])], "rank"),
        (Nms(most=3), [spec("b", [3, 4]), spec("s", [4, 2])], "for each of 3 boxes"),
        (Nms(most=3, background=True), [spec("b", [3, 4]), spec("s", [3])], "no class beside"),
        (DecodeBoxes(anchors=((0, 0, 1, 1),)), [spec("o", [1, 2, 4])], "each of 1 anchors"),
        (DecodeBoxes(anchors=((0, 0, 1, 1),), scales=(1, 0, 1, 1)), [spec("o", [1, 1, 4])], "may be 0"),
        (TopK(k=5), [spec("x", [2, 4])], "no 5 elements"),
        (Normalise(scale=(1.0, 2.0)), [spec("x", [2, 3])], "one for each place"),
        (Quantise(), [spec("x", [3])], "scale: is missing"),
        (Dequantise(scale=1.0), [spec("x", [3])], "is not quantised"),
        (Reshape(shape=(2, 2)), [spec("x", [3])], "number of elements"),
        (Select(start=1, stop=4), [spec("x", [3])], "beyond axis"),
        (Select(start=0, stop=1, axis=2), [spec("x", [3])], "no axis 2"),
        (Concat(axis=0), [spec("x", [3]), spec("y", [3], "int8")], "cannot follow"),
        (TopK(k=1), [spec("x", [3]), spec("y", [3])], "takes one tensor, got 2"),
    ],
)
def test_a_transform_says_which_tensor_it_cannot_take(transform, inputs, message):
    with pytest.raises(PlanError, match=message):
        made(transform, inputs)


def each(rows=3, inputs=(), **more):
    """A plan of a file that runs for each row."""
    x = {"name": "x", "shape": [rows, 2], "dtype": "float32"}
    y = {"name": "y", "shape": [rows, 5], "dtype": "float32"}
    stage = {"id": "m", "nodes": ["a"], "inputs": [x, *inputs], "outputs": [y], "model": "m", "ops": [0, 4]}
    names = ["x", *(spec["name"] for spec in inputs)]
    return {
        "name": "t",
        "models": [{"id": "m", "sha256": "0" * 64, "ops": 4}],
        "inputs": [x, *inputs],
        "outputs": [y],
        "stages": [stage | {"sha256": "1" * 64, "each": True} | more],
        "edges": [
            {"source": "@requester", "target": "m", "tensors": names},
            {"source": "m", "target": "@requester", "tensors": ["y"]},
        ],
        "nodes": [{"name": "a"}],
    }


def counter(shape):
    return {"name": "n", "shape": shape, "dtype": "int32"}


def test_a_file_may_run_for_each_row_up_to_a_count():
    for plan in (each(), each(inputs=[counter([1])]), each(inputs=[counter([])])):
        assert convert_plan(plan).stages[0].each


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (each(rows=300), "300 rows; give 1 to 256"),
        (each(inputs=[counter([2])]), "is no count"),
        (each(inputs=[counter([1]), {"name": "z", "shape": [3, 1], "dtype": "int8"}]), "has not the 3 rows"),
    ],
)
def test_rows_that_cannot_be_are_refused(plan, message):
    with pytest.raises(PlanError, match=message):
        convert_plan(plan)


def test_rows_take_the_place_of_a_leading_axis_of_one():
    assert stacked(spec("x", [1, 4]), 3).shape == (3, 4)
    assert stacked(spec("x", [2, 4]), 3).shape == (3, 2, 4)
    assert stacked(spec("x", []), 3).shape == (3,)
