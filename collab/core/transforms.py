"""Transforms: stages that are built in, instead of operators of a model, and the shapes that they give.

A transform's options say everything that its outputs' shapes depend on beside the shapes
of its inputs, so a plan is checked through and through before anything is deployed.
Inputs and outputs go by position; `made` names the outputs, as people refer to them.
What the options mean in numbers stands in ``runtime/transforms``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Union

import msgspec

from collab.core.tensor import TensorSpec
from collab.errors import PlanError

MAX_ROWS: Final = 256
"""Boxes, crops, and rows that a stage's file runs for one after another."""
MAX_SIDE: Final = 8192
"""Pixels of an image's side."""
MAX_ANCHORS: Final = 16_384
MAX_ELEMENTS: Final = 1 << 26
"""Of one output."""

Dtype = Literal[
    "bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32", "int64", "uint64",
    "float64",
]  # fmt: skip
Pair = tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)], Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
Method = Literal["bilinear", "nearest"]
Factors = float | tuple[float, ...]
"""One for all, or one for each place of the last axis."""


class _Options(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="kind",
):
    """Base of the kinds: unknown fields are errors."""


class Resize(_Options, frozen=True, tag="resize", kw_only=True):
    """Images ``[n, h, w, c]`` at another size, as ``tf.image.resize`` without antialiasing does it."""

    size: Pair
    """Height and width."""
    method: Method = "bilinear"
    aspect: Literal["stretch", "letterbox"] = "stretch"
    """``letterbox`` keeps the proportions: the image is in the middle, and ``fill`` around it."""
    fill: float = 0.0
    dtype: Dtype | None = None
    """Of the result; bilinear gives float32 otherwise, nearest what came.  Integers are rounded."""


class Crop(_Options, frozen=True, tag="crop", kw_only=True):
    """Parts of an image at one size, as ``tf.image.crop_and_resize`` cuts them.

    Takes an image ``[1, h, w, c]``, boxes ``[k, 4]`` and, if there is one, a count; what is
    past the count is zeros.
    """

    size: Pair
    method: Method = "bilinear"
    fill: float = 0.0
    """Where a box reaches beyond the image."""


class Nms(_Options, frozen=True, tag="nms", kw_only=True):
    """The best boxes that do not overlap: greedy non-maximum suppression.

    Takes boxes ``[n, 4]`` and scores ``[n]`` or ``[n, classes]``.
    """

    most: Rows
    """Boxes that it gives; fewer are filled up with zeros."""
    iou: Share = 0.5
    """A box that overlaps a better one by more is dropped."""
    score: float = 0.0
    """Only higher ones count."""
    per_class: bool = True
    """Whether a box stands against those of its own class only."""
    background: bool = False
    """Whether the first class says that there is nothing."""


class Anchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Boxes of a fixed size around the centres of grids, as BlazeFace and other MediaPipe models have them."""

    grids: tuple[tuple[int, int, int], ...]
    """Of each layer: rows, columns, and anchors of a cell."""
    size: tuple[float, float] = (1.0, 1.0)
    """Height and width of all of them."""


class DecodeBoxes(_Options, frozen=True, tag="decode_boxes", kw_only=True):
    """Offsets from anchors, ``[1, n, 4 or more]``, as boxes ``[n, 4]``: single-shot detectors.

    A second input is of raw scores ``[1, n, classes]``, which go through a sigmoid.
    """

    anchors: Anchors | tuple[tuple[float, float, float, float], ...]
    """Centre y, centre x, height and width of each, or what makes them."""
    order: Literal["yxhw", "xywh"] = "yxhw"
    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """What the four offsets, in the order y, x, h, w, are divided by."""
    exponential: bool = True
    """Whether sizes are logarithms."""


class CentrePoints(_Options, frozen=True, tag="centre_points", kw_only=True):
    """Maps of a centre-point detector as boxes ``[n, 4]`` and scores ``[n, classes]``.

    Takes heat ``[1, h, w, classes]``, sizes ``[1, h, w, 2]`` as shares of the image and, if
    there are any, offsets ``[1, h, w, 2]`` within the cell, else 0.5.  Scores of cells that
    have a hotter neighbour are 0.
    """


class Unletterbox(_Options, frozen=True, tag="unletterbox", kw_only=True):
    """Boxes ``[k, 4]`` of a letterboxed image as boxes of the image that it was made from."""

    image: Pair
    """The size of the image that it was made from."""
    size: Pair
    """The size of the letterboxed one."""


class TopK(_Options, frozen=True, tag="top_k", kw_only=True):
    """The largest elements along the last axis and where they are, largest first (``tf.math.top_k``)."""

    k: Annotated[int, msgspec.Meta(ge=1)]


class Softmax(_Options, frozen=True, tag="softmax", kw_only=True):
    """Powers of e that sum up to one along the last axis, float32."""


class Normalise(_Options, frozen=True, tag="normalise", kw_only=True):
    """``scale · x + offset``, float32."""

    scale: Factors = 1.0
    offset: Factors = 0.0


class Cast(_Options, frozen=True, tag="cast", kw_only=True):
    """Another dtype; what it cannot hold becomes its nearest end, fractions go (``tf.saturate_cast``)."""

    dtype: Dtype


class Quantise(_Options, frozen=True, tag="quantise", kw_only=True):
    """``round(x / scale) + zero``, halves away from zero, as the operator QUANTIZE does it."""

    scale: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """In a pipeline's file: none takes the parameters of the tensor that it is for."""
    zero: int = 0
    dtype: Literal["int8", "uint8", "int16"] = "int8"


class Dequantise(_Options, frozen=True, tag="dequantise", kw_only=True):
    """``scale · (x - zero)``, float32."""

    scale: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """In a pipeline's file: none takes the parameters of the tensor that it reads."""
    zero: int = 0


class Reshape(_Options, frozen=True, tag="reshape", kw_only=True):
    """The same elements in another shape."""

    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]


class Select(_Options, frozen=True, tag="select", kw_only=True):
    """Places ``[start, stop)`` of one axis."""

    start: Annotated[int, msgspec.Meta(ge=0)]
    stop: Annotated[int, msgspec.Meta(ge=1)]
    axis: int = -1


class Concat(_Options, frozen=True, tag="concat", kw_only=True):
    """Tensors one after another along an axis."""

    axis: int = -1


class Join(_Options, frozen=True, tag="join", kw_only=True):
    """Everything as it came: where an answer's tensors meet."""


Transform = Union[
    Resize, Crop, Nms, DecodeBoxes, CentrePoints, Unletterbox, TopK, Softmax, Normalise, Cast, Quantise,
    Dequantise, Reshape, Select, Concat, Join,
]  # fmt: skip

KINDS: Final[tuple[str, ...]] = tuple(
    str(kind.__struct_config__.tag)
    for kind in (
        Resize, Crop, Nms, DecodeBoxes, CentrePoints, Unletterbox, TopK, Softmax, Normalise, Cast, Quantise,
        Dequantise, Reshape, Select, Concat, Join,
    )
)  # fmt: skip
"""Kinds by the names that plans use."""
EACH: Final = "each"
"""What nodes that can run a file for each row say beside the kinds that they know."""

Made = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of each output."""
Specs = Sequence[TensorSpec]


def kind_of(transform: Transform) -> str:
    """A transform's name."""
    return str(transform.__struct_config__.tag)


def stacked(spec: TensorSpec, rows: int) -> TensorSpec:
    """A file's tensor of many runs: its leading axis of one becomes theirs, or they get one of their own."""
    shape = spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape
    return TensorSpec(spec.name, (rows, *shape), spec.dtype)


def made(transform: Transform, inputs: Specs) -> Made:
    """What a transform makes of such inputs; raises `PlanError` where it cannot take them."""
    try:
        found = _RULES[type(transform)](transform, inputs)
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
