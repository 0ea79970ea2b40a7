"""Transforms: stages that are built in, instead of operators of a model; their options.

A transform's options say everything that its outputs' shapes depend on beside the shapes
of its inputs, as ``transform_shapes`` has it.  What they mean in numbers stands in
``runtime/transforms``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Union

import msgspec

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
    """Boxes of one size around the centres of grids, as BlazeFace and other MediaPipe models have them."""

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


def kind_of(transform: Transform) -> str:
    """A transform's name."""
    return str(transform.__struct_config__.tag)
