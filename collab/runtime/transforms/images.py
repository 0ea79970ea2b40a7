"""Images at other sizes and parts of them, float32 in the order of operations of TensorFlow's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from collab.codec.tensors import Array
from collab.core.transforms import Crop, Resize
from collab.runtime.transforms.arrays import saturated

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


class Resizing:
    """``tf.image.resize(antialias=False)``: sample at half-pixel centres, bilinear or nearest.

    Letterboxed images are ``tf.image.resize_with_pad`` with ``fill`` around them.
    """

    def __init__(self, options: Resize, height: int, width: int) -> None:
        self._options = options
        self._inner, self._at = (options.size, (0, 0))
        if options.aspect == "letterbox":
            self._inner, self._at = letterbox((height, width), options.size)
        self._rows = _samples(height, self._inner[0], options.method)
        self._columns = _samples(width, self._inner[1], options.method)

    def __call__(self, image: Array) -> Array:
        """From ``[n, h, w, c]`` to the options' size."""
        options = self._options
        (top, bottom, down), (left, right, across) = self._rows, self._columns
        if options.method == "nearest":
            made: Array = image[:, top[:, None], left]
        else:
            share, below = across[:, None], down[:, None, None]
            upper = _between(np.take(image, top, axis=1), left, right, share)
            lower = _between(np.take(image, bottom, axis=1), left, right, share)
            lower -= upper
            lower *= below
            lower += upper
            made = lower
        if options.dtype is not None and made.dtype.name != options.dtype:
            made = saturated(np.rint(made) if options.method == "bilinear" else made, options.dtype)
        if self._inner == options.size:
            return made
        shape = (len(image), *options.size, image.shape[-1])
        padded = np.full(shape, saturated(np.float64(options.fill), made.dtype.name), made.dtype)
        (y, x), (height, width) = self._at, self._inner
        padded[:, y : y + height, x : x + width] = made
        return padded


def letterbox(image: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size of an image within a letterbox, and where its top left corner is (``resize_with_pad``)."""
    ratio = max(image[0] / size[0], image[1] / size[1])
    inner = (max(1, int(image[0] / ratio)), max(1, int(image[1] / ratio)))
    at = (max(0, int((size[0] - image[0] / ratio) / 2)), max(0, int((size[1] - image[1] / ratio) / 2)))
    return inner, at


def _samples(length: int, wanted: int, method: str) -> tuple[Places, Places, Floats]:
    """For each place of a result: the two that it lies between, and how far it is from the first."""
    scale = np.float32(length) / np.float32(wanted)
    centres = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale
    if method == "nearest":
        near = np.minimum(np.floor(centres).astype(np.intp), length - 1)
        return near, near, np.zeros(wanted, np.float32)
    at = centres - np.float32(0.5)
    low = np.floor(at)
    share = (at - low).astype(np.float32)
    first = np.maximum(low.astype(np.intp), 0)
    return first, np.minimum(np.ceil(at).astype(np.intp), length - 1), share


def _between(rows: Array, left: Places, right: Places, share: Floats) -> Floats:
    near: Floats = np.take(rows, left, axis=2).astype(np.float32)
    far: Floats = np.take(rows, right, axis=2).astype(np.float32)
    far -= near
    far *= share
    far += near
    return far


class Cropping:
    """``tf.image.crop_and_resize``: the corners of a box are the centres of corner pixels."""

    def __init__(self, options: Crop) -> None:
        self._options = options

    def __call__(self, image: Array, boxes: Array, count: int) -> Floats:
        """``[1, h, w, c]`` and boxes ``[k, 4]`` (top, left, bottom, right) to ``[k, *size, c]``."""
        options = self._options
        made = np.zeros((len(boxes), *options.size, image.shape[3]), np.float32)
        if not count:
            return made
        first = boxes[:count].astype(np.float32)
        rows, no_row = _along(first[:, 0], first[:, 2], image.shape[1], options.size[0])
        columns, no_column = _along(first[:, 1], first[:, 3], image.shape[2], options.size[1])
        if options.method == "nearest":
            y, x = (np.floor(at + np.float32(0.5)).astype(np.intp) for at in (rows, columns))
            y, x = np.minimum(y, image.shape[1] - 1), np.minimum(x, image.shape[2] - 1)
            made[:count] = image[0][y[:, :, None], x[:, None, :]]
        else:
            made[:count] = _sampled(image[0], rows, columns)
        outside = no_row[:, :, None] | no_column[:, None, :]
        made[:count][outside] = options.fill
        return made


def _along(start: Floats, stop: Floats, length: int, wanted: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Where samples of each box are along one axis, and which are outside of the image."""
    last = np.float32(length - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # a detector may say anything
        if wanted > 1:
            step = (stop - start) * last / np.float32(wanted - 1)
            at = start[:, None] * last + np.arange(wanted, dtype=np.float32) * step[:, None]
        else:
            at = (np.float32(0.5) * (start + stop) * last)[:, None]
        inside = (at >= 0) & (at <= last)
    return np.where(inside, at, np.float32(0)), ~inside


def _sampled(image: Array, rows: Floats, columns: Floats) -> Floats:
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    bottom, right = np.ceil(rows).astype(np.intp), np.ceil(columns).astype(np.intp)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    wide = across[:, None, :, None]

    def line(at: Places) -> Any:
        near = image[at[:, :, None], left[:, None, :]].astype(np.float32)
        far = image[at[:, :, None], right[:, None, :]].astype(np.float32)
        return near + (far - near) * wide

    upper, lower = line(top), line(bottom)
    sampled: Floats = upper + (lower - upper) * down[:, :, None, None]
    return sampled
