"""What transforms make of what they take: shapes and dtypes, and what they refuse.

A plan is checked through and through before anything is deployed.  Inputs and outputs go
by position; `made` names the outputs, as people refer to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from collab.core.tensor import TensorSpec
from collab.core.transforms import (
    MAX_ANCHORS,
    MAX_ELEMENTS,
    MAX_ROWS,
    MAX_SIDE,
    Anchors,
    Cast,
    CentrePoints,
    Concat,
    Crop,
    DecodeBoxes,
    Dequantise,
    Factors,
    Join,
    Nms,
    Normalise,
    Quantise,
    Reshape,
    Resize,
    Select,
    Softmax,
    TopK,
    Transform,
    Unletterbox,
    kind_of,
)
from collab.errors import PlanError

Made = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of each output."""
Specs = Sequence[TensorSpec]


def stacked(spec: TensorSpec, rows: int) -> TensorSpec:
    """A file's tensor of many runs: its leading axis of one becomes theirs, or they get one of their own."""
    shape = spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape
    return TensorSpec(spec.name, (rows, *shape), spec.dtype)


def made(transform: Transform, inputs: Specs) -> Made:
    """What a transform makes of such inputs; raises `PlanError` where it cannot take them."""
    try:
        found: Made = _RULES[type(transform)](transform, inputs)
    except PlanError as error:
        raise PlanError(f"{kind_of(transform)}: {error}") from error
    for name, shape, _ in found:
        if math.prod(shape) > MAX_ELEMENTS:
            raise PlanError(f"{kind_of(transform)}: {name!r} {list(shape)} is over {MAX_ELEMENTS} elements")
    return found


# --- rules of shapes -----------------------------------------------------------------


def _text(spec: TensorSpec) -> str:
    return f"{spec.name!r} {spec.dtype}{list(spec.shape)}"


def _count(inputs: Specs, least: int, most: int, what: str) -> None:
    if not least <= len(inputs) <= most:
        raise PlanError(f"takes {what}, got {len(inputs)}")


def _real(spec: TensorSpec) -> None:
    if spec.dtype.startswith("complex"):
        raise PlanError(f"{_text(spec)}: complex numbers cannot be taken")


def _floats(spec: TensorSpec) -> None:
    if not spec.dtype.startswith("float"):
        raise PlanError(f"{_text(spec)} is not of floats; dequantise or cast it before")


def _finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):
        raise PlanError("an option is not a finite number")


def _image(spec: TensorSpec, one: bool = False) -> tuple[int, ...]:
    _real(spec)
    if len(spec.shape) != 4 or 0 in spec.shape or (one and spec.shape[0] != 1):
        raise PlanError(f"{_text(spec)} is no image [{'1' if one else 'n'}, height, width, channels]")
    return spec.shape


def _bare(spec: TensorSpec, rank: int) -> tuple[int, ...]:
    """A shape of a rank, with one more leading axis of 1 taken off."""
    shape = spec.shape[1:] if len(spec.shape) == rank + 1 and spec.shape[0] == 1 else spec.shape
    if len(shape) != rank:
        raise PlanError(f"{_text(spec)} has no rank of {rank}")
    return shape


def _boxes(spec: TensorSpec) -> int:
    _floats(spec)
    shape = _bare(spec, 2)
    if shape[1] != 4 or not shape[0]:
        raise PlanError(f"{_text(spec)} is not of boxes [k, 4]: top, left, bottom, right as shares")
    return shape[0]


def check_counter(spec: TensorSpec) -> None:
    """A tensor that says how many rows there are; raises `PlanError`."""
    _real(spec)
    if math.prod(spec.shape) != 1:
        raise PlanError(f"{_text(spec)} is no count: it must have one element")


def _resize(t: Resize, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one image")
    _finite(t.fill)
    shape = _image(inputs[0])
    if max(shape[1:3]) > MAX_SIDE:
        raise PlanError(f"{_text(inputs[0])}: a side is over {MAX_SIDE}")
    dtype = t.dtype or ("float32" if t.method == "bilinear" else inputs[0].dtype)
    return (("image", (shape[0], *t.size, shape[3]), dtype),)


def _crop(t: Crop, inputs: Specs) -> Made:
    _count(inputs, 2, 3, "an image, boxes and perhaps a count")
    _finite(t.fill)
    channels, rows = _image(inputs[0], one=True)[3], _boxes(inputs[1])
    if rows > MAX_ROWS:
        raise PlanError(f"{_text(inputs[1])}: {rows} boxes are over {MAX_ROWS}; keep fewer by nms")
    for spec in inputs[2:]:
        check_counter(spec)
    return (("crops", (rows, *t.size, channels), "float32"),)


def _nms(t: Nms, inputs: Specs) -> Made:
    _count(inputs, 2, 2, "boxes and scores")
    _finite(t.score)
    rows = _boxes(inputs[0])
    _floats(inputs[1])
    scores = inputs[1].shape
    # [1, n] may be one axis with a leading one, or two: the number of boxes tells.
    if scores not in ((rows,), (1, rows)) and _bare(inputs[1], 2)[0] != rows:
        raise PlanError(f"{_text(inputs[1])}: not a score, or scores, for each of {rows} boxes")
    if t.background and (len(scores) < 2 or scores in ((rows,), (1, rows)) or scores[-1] < 2):
        raise PlanError(f"{_text(inputs[1])}: has no class beside the background")
    k = t.most
    return (
        ("boxes", (k, 4), "float32"),
        ("scores", (k,), "float32"),
        ("classes", (k,), "int32"),
        ("count", (1,), "int32"),
    )


def anchor_count(anchors: Anchors | tuple[Any, ...]) -> int:
    """How many anchors there are."""
    if isinstance(anchors, Anchors):
        return sum(rows * columns * each for rows, columns, each in anchors.grids)
    return len(anchors)


def _decode(t: DecodeBoxes, inputs: Specs) -> Made:
    _count(inputs, 1, 2, "offsets and perhaps raw scores")
    _floats(inputs[0])
    if isinstance(t.anchors, Anchors):
        _finite(*t.anchors.size)
        if any(not 1 <= value <= MAX_SIDE for grid in t.anchors.grids for value in grid):
            raise PlanError(f"anchors.grids: give numbers from 1 to {MAX_SIDE}")
    else:
        _finite(*(value for anchor in t.anchors for value in anchor))
    _finite(*t.scales)
    if 0 in t.scales:
        raise PlanError("scales: none may be 0")
    count = anchor_count(t.anchors)
    if not 1 <= count <= MAX_ANCHORS:
        raise PlanError(f"anchors: {count} of them; give 1 to {MAX_ANCHORS}")
    rows, width = _bare(inputs[0], 2)
    if rows != count or width < 4:
        raise PlanError(f"{_text(inputs[0])}: not four offsets for each of {count} anchors")
    boxes: Made = (("boxes", (count, 4), "float32"),)
    for spec in inputs[1:]:
        _floats(spec)
        if _bare(spec, 2)[0] != count:
            raise PlanError(f"{_text(spec)}: not scores for each of {count} anchors")
        boxes += (("scores", _bare(spec, 2), "float32"),)
    return boxes


def _centres(t: CentrePoints, inputs: Specs) -> Made:
    _count(inputs, 2, 3, "heat, sizes and perhaps offsets")
    for spec in inputs:
        _floats(spec)
    _, height, width, classes = _image(inputs[0], one=True)
    for spec in inputs[1:]:
        if spec.shape != (1, height, width, 2):
            raise PlanError(f"{_text(spec)} must be [1, {height}, {width}, 2], as the heat is")
    return ("boxes", (height * width, 4), "float32"), ("scores", (height * width, classes), "float32")


def _unletterbox(t: Unletterbox, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "boxes")
    return (("boxes", (_boxes(inputs[0]), 4), "float32"),)


def _top_k(t: TopK, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    _real(inputs[0])
    shape = inputs[0].shape
    if not shape or shape[-1] < t.k:
        raise PlanError(f"{_text(inputs[0])}: the last axis has no {t.k} elements")
    top = (*shape[:-1], t.k)
    return ("values", top, inputs[0].dtype), ("indices", top, "int32")


def _softmax(t: Softmax, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    _floats(inputs[0])
    if not inputs[0].shape or not inputs[0].shape[-1]:
        raise PlanError(f"{_text(inputs[0])}: has no last axis")
    return (("probabilities", inputs[0].shape, "float32"),)


def _normalise(t: Normalise, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    _real(inputs[0])
    for option in ("scale", "offset"):
        value: Factors = getattr(t, option)
        _finite(*(value if isinstance(value, tuple) else (value,)))
        if isinstance(value, tuple) and inputs[0].shape[-1:] != (len(value),):
            raise PlanError(
                f"{option}: {len(value)} numbers for {_text(inputs[0])}; give one, or one for each place of "
                "the last axis"
            )
    return (("values", inputs[0].shape, "float32"),)


def _cast(t: Cast, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    _real(inputs[0])
    return (("values", inputs[0].shape, t.dtype),)


def _quantise(t: Quantise, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    _floats(inputs[0])
    _parameters(t)
    return (("values", inputs[0].shape, t.dtype),)


def _dequantise(t: Dequantise, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    if inputs[0].dtype not in ("int8", "uint8", "int16"):
        raise PlanError(f"{_text(inputs[0])}: is not quantised to int8, uint8 or int16")
    _parameters(t)
    return (("values", inputs[0].shape, "float32"),)


def _parameters(t: Quantise | Dequantise) -> None:
    if t.scale is None:
        raise PlanError("scale: is missing")
    _finite(t.scale)
    if not -32768 <= t.zero <= 32767:
        raise PlanError(f"zero: {t.zero} is no number of 16 bits")


def _reshape(t: Reshape, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    if math.prod(t.shape) != math.prod(inputs[0].shape):
        raise PlanError(f"{_text(inputs[0])} has another number of elements than {list(t.shape)}")
    return (("values", t.shape, inputs[0].dtype),)


def axis_of(axis: int, spec: TensorSpec) -> int:
    """An axis counted from the front; raises `PlanError` where there is none."""
    rank = len(spec.shape)
    if not -rank <= axis < rank:
        raise PlanError(f"{_text(spec)}: has no axis {axis}")
    return axis % rank


def _select(t: Select, inputs: Specs) -> Made:
    _count(inputs, 1, 1, "one tensor")
    (spec,) = inputs
    axis = axis_of(t.axis, spec)
    if not t.start < t.stop <= spec.shape[axis]:
        raise PlanError(f"{_text(spec)}: [{t.start}, {t.stop}) is empty or beyond axis {axis}")
    return (("values", (*spec.shape[:axis], t.stop - t.start, *spec.shape[axis + 1 :]), spec.dtype),)


def _concat(t: Concat, inputs: Specs) -> Made:
    _count(inputs, 1, 64, "1 to 64 tensors")
    first, axis = inputs[0], axis_of(t.axis, inputs[0])
    for spec in inputs[1:]:
        rest = (*spec.shape[:axis], *spec.shape[axis + 1 :])
        if spec.dtype != first.dtype or rest != (*first.shape[:axis], *first.shape[axis + 1 :]):
            raise PlanError(f"{_text(spec)} cannot follow {_text(first)} along axis {axis}")
    total = sum(spec.shape[axis] for spec in inputs)
    return (("values", (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype),)


def _join(t: Join, inputs: Specs) -> Made:
    _count(inputs, 1, 256, "1 to 256 tensors")
    return tuple((spec.name, spec.shape, spec.dtype) for spec in inputs)


_RULES: Final[Mapping[Any, Any]] = {
    Resize: _resize,
    Crop: _crop,
    Nms: _nms,
    DecodeBoxes: _decode,
    CentrePoints: _centres,
    Unletterbox: _unletterbox,
    TopK: _top_k,
    Softmax: _softmax,
    Normalise: _normalise,
    Cast: _cast,
    Quantise: _quantise,
    Dequantise: _dequantise,
    Reshape: _reshape,
    Select: _select,
    Concat: _concat,
    Join: _join,
}
