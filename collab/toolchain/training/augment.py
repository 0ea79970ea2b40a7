"""Changes to training inputs that their labels survive; each a function of a random generator."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from collab.core.plan import Frozen
from collab.errors import UsageError
from collab.toolchain.zoo.options import nearest

Floats = NDArray[np.float32]

_PICTURES_ONLY = ("flip", "rotate", "zoom", "cutout")


class Augment(Frozen, frozen=True, kw_only=True):
    """How much of what.

    Attributes:
        flip: pictures, left to right, half of them.
        shift: pixels up, down and sideways, or steps of a window, at most.
        rotate: degrees of a picture either way, at most.
        zoom: share of a picture's size in or out, at most.
        cutout: pixels of the edge of a square that is set to 0.
        noise: standard deviation of what is added to each number.
        scale: share by which an example as a whole grows or shrinks, at most.
    """

    flip: bool = False
    shift: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    rotate: Annotated[float, Meta(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    cutout: Annotated[int, Meta(ge=0, le=1000)] = 0
    noise: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    scale: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse what cannot be done to examples of a shape; raises `UsageError`."""
        flat = len(shape) == 1
        for name in (*_PICTURES_ONLY, *(("shift",) if flat else ())):
            if len(shape) != 3 and getattr(self, name):
                raise UsageError(f"--augment {name}: cannot be done to inputs {list(shape)}")

    def apply(self, inputs: Floats, rng: np.random.Generator) -> Floats:
        """Return changed copies of a batch ``[n, …]``."""
        if self.flip:
            turned = rng.random(len(inputs)) < 0.5
            inputs = np.where(turned[:, None, None, None], inputs[:, :, ::-1], inputs)
        if inputs.ndim == 4 and (self.shift or self.rotate or self.zoom):
            inputs = warp(inputs, rng, math.radians(self.rotate), self.zoom, self.shift)
        elif inputs.ndim == 3 and self.shift:
            inputs = _later(inputs, rng, round(self.shift))
        if self.cutout:
            inputs = _cut(inputs, rng, self.cutout)
        each = (len(inputs), *[1] * (inputs.ndim - 1))
        if self.scale:
            inputs = inputs * rng.uniform(1 - self.scale, 1 + self.scale, each).astype(np.float32)
        if self.noise:
            inputs = inputs + np.float32(self.noise) * rng.standard_normal(inputs.shape, np.float32)
        return inputs


def read_augment(text: str) -> Augment:
    """Read ``flip,shift=2,rotate=10``; raises `UsageError`."""
    names = list(Augment.__struct_fields__)
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if name not in names:
            raise UsageError(f"--augment {name}: there is none of that name; {nearest(name, names)}")
        if not equals and name != "flip":
            raise UsageError(f"--augment {name}: say how much, such as {name}=2")
        values[name] = value if equals else True
    try:
        return msgspec.convert(values, Augment, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--augment {text}: {error}") from error


def warp(
    images: Floats, rng: np.random.Generator, rotation_rad: float, zoom: float, shift_px: float
) -> Floats:
    """Rotate, zoom and shift each of ``images`` ``[n, h, w, c]`` by at most so much; sampling is bilinear."""
    n, height, width, _ = images.shape
    angle = rng.uniform(-rotation_rad, rotation_rad, (n, 1, 1))
    scale = rng.uniform(1 - zoom, 1 + zoom, (n, 1, 1))
    shift_y, shift_x = rng.uniform(-shift_px, shift_px, (2, n, 1, 1))
    y, x = np.mgrid[:height, :width]
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    source_y = (np.cos(angle) * y - np.sin(angle) * x) * scale + shift_y + (height - 1) / 2
    source_x = (np.sin(angle) * y + np.cos(angle) * x) * scale + shift_x + (width - 1) / 2
    return _bilinear(images, source_y, source_x)


def _bilinear(images: Floats, y: NDArray[np.float64], x: NDArray[np.float64]) -> Floats:
    # A border of zeros stands for everything outside the image.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.clip(y + 1, 0, padded.shape[1] - 1.001)
    x = np.clip(x + 1, 0, padded.shape[2] - 1.001)
    top, left = y.astype(np.int64), x.astype(np.int64)
    down, right = (y - top)[..., None], (x - left)[..., None]
    n = np.arange(len(images))[:, None, None]
    upper = padded[n, top, left] * (1 - right) + padded[n, top, left + 1] * right
    lower = padded[n, top + 1, left] * (1 - right) + padded[n, top + 1, left + 1] * right
    mixed: Floats = (upper * (1 - down) + lower * down).astype(np.float32)
    return mixed


def _later(inputs: Floats, rng: np.random.Generator, most: int) -> Floats:
    """Windows moved in time; the first or last step fills what comes in."""
    steps = inputs.shape[1]
    by = rng.integers(-most, most + 1, len(inputs))
    rows = np.clip(np.arange(steps)[None] - by[:, None], 0, steps - 1)
    return inputs[np.arange(len(inputs))[:, None], rows]


def _cut(inputs: Floats, rng: np.random.Generator, edge: int) -> Floats:
    n, height, width, _ = inputs.shape
    top, left = rng.integers(0, height, (n, 1, 1)), rng.integers(0, width, (n, 1, 1))
    y, x = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    inside = (abs(y - top) <= edge / 2) & (abs(x - left) <= edge / 2)
    return np.where(inside[..., None], np.float32(0), inputs)
