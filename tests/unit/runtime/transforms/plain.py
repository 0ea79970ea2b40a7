"""Transforms once more, element by element, as their definitions read."""

from __future__ import annotations

import math

import numpy as np

F = np.float32


def resize(image, size, method="bilinear"):
    """``tf.image.resize`` without antialiasing, at half-pixel centres, in float32."""
    n, h, w, c = image.shape
    made = np.zeros((n, *size, c), image.dtype if method == "nearest" else F)
    tall, wide = F(h) / F(size[0]), F(w) / F(size[1])
    for y in range(size[0]):
        for x in range(size[1]):
            if method == "nearest":
                row, column = (F(y) + F(0.5)) * tall, (F(x) + F(0.5)) * wide
                made[:, y, x] = image[:, min(math.floor(row), h - 1), min(math.floor(column), w - 1)]
            else:
                row, column = (F(y) + F(0.5)) * tall - F(0.5), (F(x) + F(0.5)) * wide - F(0.5)
                made[:, y, x] = _blend(image, row, column)
    return made


def _blend(image, row, column):
    """Bilinear between the four around a place; beyond the edge the edge goes on."""
    top, left = math.floor(row), math.floor(column)
    down, across = F(row - top), F(column - left)
    bottom, right = min(math.ceil(row), image.shape[1] - 1), min(math.ceil(column), image.shape[2] - 1)
    top, left = max(top, 0), max(left, 0)

    def between(one, other, share):
        return one.astype(F) + (other.astype(F) - one.astype(F)) * share

    upper = between(image[:, top, left], image[:, top, right], across)
    lower = between(image[:, bottom, left], image[:, bottom, right], across)
    return between(upper, lower, down)


def crop(image, boxes, size, fill=0.0):
    """``tf.image.crop_and_resize``, bilinear, of the first image."""
    _, h, w, c = image.shape
    made = np.full((len(boxes), *size, c), fill, F)
    for k, (y1, x1, y2, x2) in enumerate(boxes.astype(F)):
        for y in range(size[0]):
            for x in range(size[1]):
                row = _place(y1, y2, h, size[0], y)
                column = _place(x1, x2, w, size[1], x)
                if 0 <= row <= h - 1 and 0 <= column <= w - 1:
                    made[k, y, x] = _blend(image, row, column)[0]
    return made


def _place(start, stop, length, wanted, at):
    if wanted == 1:
        return F(0.5) * (start + stop) * F(length - 1)
    return start * F(length - 1) + F(at) * ((stop - start) * F(length - 1) / F(wanted - 1))


def overlap(one, other):
    """Intersection over union; corners may be given either way round."""
    a, b = (np.array([*np.minimum(c[:2], c[2:]), *np.maximum(c[:2], c[2:])], F) for c in (one, other))
    sizes = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    if min(sizes) <= 0:
        return F(0)
    height = max(min(a[2], b[2]) - max(a[0], b[0]), F(0))
    width = max(min(a[3], b[3]) - max(a[1], b[1]), F(0))
    return height * width / (sizes[0] + sizes[1] - height * width)


def suppress(boxes, scores, most, iou, score, per_class):
    """Greedy non-maximum suppression: (box, score, class) of those that stay, best first."""
    if per_class:
        found = [(scores[i, k], i, k) for i in range(len(boxes)) for k in range(scores.shape[1])]
    else:
        found = [(scores[i].max(), i, int(scores[i].argmax())) for i in range(len(boxes))]
    found = sorted((one for one in found if one[0] > score), key=lambda one: (-one[0], one[1], one[2]))
    kept: list[tuple[float, int, int]] = []
    for value, i, k in found:
        rivals = (j for _, j, other in kept if other == k or not per_class)
        if all(overlap(boxes[i], boxes[j]) <= F(iou) for j in rivals):
            kept.append((value, i, k))
    return [(boxes[i], value, k) for value, i, k in kept[:most]]
