"""Boxes: decoding what detectors give, and dropping those that overlap better ones.

Boxes are rows of top, left, bottom and right as shares of the image's height and width.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from collab.codec.tensors import Array
from collab.core.transforms import Anchors, DecodeBoxes, Nms
from collab.runtime.transforms.images import letterbox

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int32]

_CHUNK: Final = 128
"""Boxes that are looked at together."""


def suppress(options: Nms, boxes: Array, scores: Array) -> tuple[Floats, Floats, Whole, Whole]:
    """Greedy non-maximum suppression: boxes, scores, classes and how many there are.

    Of classes apart it is ``tf.image.combined_non_max_suppression`` with one box for all
    classes; of all classes together each box counts by its best class, and it is
    ``tf.image.non_max_suppression``.  Equal scores go by the box's number, then the class's.
    Boxes and scores that are not numbers are left out.
    """
    given = boxes.reshape(-1, 4).astype(np.float32)
    first = int(options.background)
    rated = scores.reshape(len(given), -1).astype(np.float32)[:, first:]
    if not options.per_class:
        best = rated.argmax(axis=1)
        kinds, rated = best, np.take_along_axis(rated, best[:, None], 1)
        places = np.arange(len(given))
    else:
        places, kinds = (at.reshape(-1) for at in np.indices(rated.shape))
    flat = rated.reshape(-1)
    sound = np.logical_and.reduce(np.isfinite(given), axis=1)
    likely = np.flatnonzero((flat > options.score) & sound[places])
    likely = likely[np.argsort(-flat[likely], kind="stable")]
    kept = _greedy(given[places[likely]], kinds[likely], options)
    chosen = likely[kept]
    count = len(chosen)
    out_boxes, out_scores = np.zeros((options.most, 4), np.float32), np.zeros(options.most, np.float32)
    out_kinds = np.zeros(options.most, np.int32)
    out_boxes[:count], out_scores[:count] = given[places[chosen]], flat[chosen]
    out_kinds[:count] = kinds[chosen] + first
    return out_boxes, out_scores, out_kinds, np.array([count], np.int32)


def _greedy(boxes: Floats, kinds: npt.NDArray[np.intp], options: Nms) -> npt.NDArray[np.intp]:
    """Places of those that stay, of boxes that stand best first; at most as many as are wanted.

    Boxes are taken a chunk at a time, so that many that nobody will want cost little.
    """
    tops, ends = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    corners = np.concatenate([tops, ends], 1)

    def rivals(one: npt.NDArray[np.intp], others: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which of the others overlap each too much, ``[one, others]``."""
        over: npt.NDArray[np.bool_]
        over = _overlap(corners[one, None], corners[None, others]) > np.float32(options.iou)
        if options.per_class:
            over &= kinds[one, None] == kinds[None, others]
        return over

    kept: list[int] = []
    for start in range(0, len(boxes), _CHUNK):
        left = np.arange(start, min(start + _CHUNK, len(boxes)))
        if kept:
            left = left[~rivals(np.array(kept, np.intp), left).any(axis=0)]
        free, fits = np.ones(len(left), np.bool_), ~rivals(left, left)
        for i, place in enumerate(left):
            if free[i]:
                kept.append(int(place))
                if len(kept) == options.most:
                    return np.array(kept, np.intp)
                free &= fits[i]
    return np.array(kept, np.intp)


def _overlap(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes ``[..., 4]``; 0 for one without an area."""
    height = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    width = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    common = np.maximum(height, 0) * np.maximum(width, 0)
    first, second = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (one, other))
    solid = (first > 0) & (second > 0)
    found: Floats = np.divide(common, first + second - common, out=np.zeros_like(common), where=solid)
    return found


def anchors_of(anchors: Anchors | tuple[tuple[float, float, float, float], ...]) -> Floats:
    """Centre y, centre x, height and width of each anchor, ``[n, 4]``."""
    if not isinstance(anchors, Anchors):
        return np.array(anchors, np.float32)
    rows = []
    for height, width, each in anchors.grids:
        y, x = np.mgrid[:height, :width]
        centres = np.stack([(y + 0.5) / height, (x + 0.5) / width], -1).reshape(-1, 1, 2)
        sizes = np.broadcast_to(np.array(anchors.size), (len(centres), each, 2))
        rows.append(np.concatenate([np.repeat(centres, each, 1), sizes], -1).reshape(-1, 4))
    return np.concatenate(rows).astype(np.float32)


def decode(options: DecodeBoxes, anchors: Floats, offsets: Array) -> Floats:
    """Boxes from offsets (Liu et al. 2016, SSD, arXiv:1512.02325), as TFLite_Detection_PostProcess decodes.

    ``centre = offset / scale · anchor's size + anchor's centre``; a size is
    ``exp(offset / scale)`` or ``offset / scale`` times the anchor's.
    """
    given = offsets.reshape(len(anchors), -1)[:, :4].astype(np.float32)
    if options.order == "xywh":
        given = given[:, [1, 0, 3, 2]]
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = given / np.array(options.scales, np.float32)
        centres = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
        sizes = (np.exp(scaled[:, 2:]) if options.exponential else scaled[:, 2:]) * anchors[:, 2:]
        half = np.float32(0.5) * sizes
        return np.concatenate([centres - half, centres + half], 1)


def sigmoid(values: Array) -> Floats:
    """``1 / (1 + exp(-x))`` in float32."""
    with np.errstate(over="ignore"):
        made: Floats = np.float32(1) / (np.float32(1) + np.exp(-values.astype(np.float32)))
    return made


def centre_points(heat: Array, sizes: Array, offsets: Array | None) -> tuple[Floats, Floats]:
    """Boxes of all cells and scores that are 0 where a neighbour is hotter (3 × 3), as CenterNet has it.

    Zhou, Wang and Krähenbühl 2019, Objects as Points, arXiv:1904.07850, section 4.
    """
    warm: Floats = heat[0].astype(np.float32)
    height, width, classes = warm.shape
    padded = np.full((height + 2, width + 2, classes), -np.inf, np.float32)
    padded[1:-1, 1:-1] = warm
    tallest = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    hottest = np.maximum(np.maximum(tallest[:, :-2], tallest[:, 1:-1]), tallest[:, 2:])
    scores = np.where(warm >= hottest, warm, np.float32(0)).reshape(-1, classes)
    y, x = np.mgrid[:height, :width]
    cells = np.stack([y, x], -1).astype(np.float32)
    within = np.float32(0.5) if offsets is None else offsets[0].astype(np.float32)
    centres = (cells + within) / np.array([height, width], np.float32)
    half = np.float32(0.5) * sizes[0].astype(np.float32)
    return np.concatenate([centres - half, centres + half], -1).reshape(-1, 4), scores


def unletterbox(image: tuple[int, int], size: tuple[int, int], boxes: Array) -> Floats:
    """Shares of a letterboxed image as shares of the image within."""
    inner, at = letterbox(image, size)
    made: Floats = boxes.reshape(-1, 4).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        made *= np.array([*size, *size], np.float32)
        made -= np.array([*at, *at], np.float32)
        made /= np.array([*inner, *inner], np.float32)
    return made
