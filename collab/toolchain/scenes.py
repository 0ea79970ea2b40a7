"""Made scenes: real digits at random places and sizes on a dim, noisy canvas, with lines that are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE: Final = 192
"""Pixels of a scene's side."""
MOST: Final = 6
"""Digits of a scene; it may have none."""
SIZES: Final = (40, 76)
"""Pixels that the 28 of a digit become."""
LINES: Final = 3
NOISE: Final = 12
_TRIES: Final = 20
_APART: Final = 0.8
"""Of both sizes' half: how far two digits' centres are from each other at least, in rows or columns."""


@dataclass(frozen=True)
class Scene:
    """An image uint8 [SIDE, SIDE, 1], boxes float32 [n, 4] in pixels from the top left, labels [n]."""

    image: Bytes
    boxes: Floats
    labels: npt.NDArray[np.int64]


def scene(digits: Bytes, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Scene:
    """One scene of some of the digits, uint8 [n, 28, 28, 1]."""
    canvas = np.zeros((SIDE, SIDE), np.float32)
    boxes: list[tuple[float, float, float, float]] = []
    told: list[int] = []
    for _ in range(int(rng.integers(0, MOST + 1))):
        box = _free(boxes, rng)
        if box is None:
            continue
        pick = int(rng.integers(len(labels)))
        top, left, bottom, _ = (int(edge) for edge in box)
        drawn = _scaled(digits[pick, :, :, 0], bottom - top)
        part = canvas[top:bottom, left : left + len(drawn)]
        np.maximum(part, drawn, out=part)
        boxes.append(box)
        told.append(int(labels[pick]))
    _draw_lines(canvas, boxes, rng)
    noise = rng.integers(0, NOISE + 1, canvas.shape)
    image = np.clip(np.rint(np.maximum(canvas, noise)), 0, 255).astype(np.uint8)
    return Scene(image[..., None], np.array(boxes, np.float32).reshape(-1, 4), np.array(told, np.int64))


def _free(
    boxes: list[tuple[float, float, float, float]], rng: np.random.Generator
) -> tuple[float, float, float, float] | None:
    for _ in range(_TRIES):
        size = int(rng.integers(SIZES[0], SIZES[1] + 1))
        top, left = (int(value) for value in rng.integers(0, SIDE - size + 1, 2))
        middle = top + size / 2, left + size / 2
        if all(
            max(abs(middle[0] - (t + b) / 2), abs(middle[1] - (lf + r) / 2)) >= _APART * (size + b - t) / 2
            for t, lf, b, r in boxes
        ):
            return top, left, top + size, left + size
    return None


def _scaled(digit: Bytes, size: int) -> Floats:
    """A square image at another size, bilinear with half-pixel centres."""
    at = np.clip((np.arange(size) + 0.5) * len(digit) / size - 0.5, 0, len(digit) - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, len(digit) - 1), (at - low).astype(np.float32)
    wide = digit.astype(np.float32)
    rows = wide[low] * (1 - share)[:, None] + wide[high] * share[:, None]
    scaled: Floats = rows[:, low] * (1 - share) + rows[:, high] * share
    return scaled


def _draw_lines(
    canvas: Floats, boxes: list[tuple[float, float, float, float]], rng: np.random.Generator
) -> None:
    for _ in range(int(rng.integers(0, LINES + 1))):
        start, length, angle = rng.uniform(10, SIDE - 10, 2), rng.uniform(8, 20), rng.uniform(0, np.pi)
        along = np.linspace(-length / 2, length / 2, 64)
        points = start[:, None] + along * np.array([[np.sin(angle)], [np.cos(angle)]])
        rows, columns = np.clip(np.rint(points), 0, SIDE - 2).astype(int)
        crossed = any(
            ((rows >= t) & (rows < b) & (columns >= lf) & (columns < r)).any() for t, lf, b, r in boxes
        )
        if crossed:
            continue
        for down in (0, 1):
            canvas[rows + down, columns] = canvas[rows, columns + 1] = rng.uniform(120, 255)


def halved(images: Bytes) -> Floats:
    """Scenes uint8 [n, side, side, 1] as a detector takes them: float32 in [0, 1], half the side.

    Each pixel is the mean of the four at its place, as a bilinear resize to half the side gives it.
    """
    count, side = len(images), images.shape[1]
    small: Floats = images.reshape(count, side // 2, 2, side // 2, 2, 1).mean(axis=(2, 4), dtype=np.float32)
    small /= np.float32(255)
    return small
