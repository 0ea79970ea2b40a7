"""Preprocessing: what turns a file of a device into the float32 array that a model takes.

It is fitted once, on the training examples, and travels with the model as JSON.
`collab.runtime.preprocessing` applies it, in training and on devices alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, Union

import msgspec

from collab.core.decoding import prepare
from collab.core.frozen import Frozen
from collab.errors import ConfigError

VERSION: Final = 1
MAX_BYTES: Final = 4 << 20
"""Of the JSON."""
MAX_SIDE: Final = 4096
"""Pixels of a side of what a model takes."""
MAX_COLUMNS: Final = 10_000
MAX_CATEGORIES: Final = 10_000
"""Of one column; and places of all that are one-hot."""
MAX_TEXT: Final = 256
"""Characters of a column's or a category's name."""
MAX_LENGTH: Final = 1 << 20
"""Samples of a window."""
MAX_CHANNELS: Final = 1024
MAX_VALUES: Final = 1 << 26
"""Numbers of one example."""

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Colour = Literal["grey", "rgb"]


class Quantisation(Frozen, frozen=True, kw_only=True):
    """Integers that stand for real numbers: ``(q - zero_point) * scale``."""

    scale: float
    zero_point: int = 0


class Scaling(Frozen, frozen=True, kw_only=True):
    """``(x - shift) / width``, channel by channel; either one number for all or one for each."""

    method: Literal["standard", "min_max"]
    shift: tuple[float, ...]
    """The mean, or the least value."""
    width: tuple[float, ...]
    """The standard deviation, or the greatest value less the least one."""


class ImageSteps(Frozen, frozen=True, kw_only=True, tag="image", tag_field="kind"):
    """Decode, turn upright, colour, crop and resize; divide by ``scale``; then ``scaling``."""

    height: int
    width: int
    colour: Colour
    filter: Filter = "bilinear"
    fit: Literal["stretch", "cover"] = "stretch"
    """``cover`` keeps the proportions and crops what is over at the longer side, from the middle."""
    crop: float = 1.0
    """Share of each side that is kept, from the middle."""
    scale: float = 255.0
    scaling: Scaling | None = None
    layout: Literal["hwc", "chw"] = "hwc"

    @property
    def channels(self) -> int:
        """Numbers of a pixel."""
        return 1 if self.colour == "grey" else 3

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        if self.layout == "chw":
            return (self.channels, self.height, self.width)
        return (self.height, self.width, self.channels)


class Number(Frozen, frozen=True, kw_only=True, tag="number", tag_field="type"):
    """A column of numbers: fill what is missing, clip, then ``(x - shift) / width``."""

    name: str
    fill: float | None
    """Stands for a missing value; None refuses it."""
    low: float | None = None
    high: float | None = None
    shift: float = 0.0
    width: float = 1.0

    @property
    def places(self) -> int:
        """Numbers that it becomes."""
        return 1


class Category(Frozen, frozen=True, kw_only=True, tag="category", tag_field="type"):
    """A column of names: one place for each (``one_hot``), or its number among ``values``."""

    name: str
    values: tuple[str, ...]
    encoding: Literal["one_hot", "ordinal"] = "one_hot"
    fill: str | None = None
    """Stands for a missing value; None refuses it."""
    unknown: Literal["zero", "refuse"] = "zero"
    """What another name is: zeros (-1 as a number), or an error."""

    @property
    def places(self) -> int:
        """Numbers that it becomes."""
        return len(self.values) if self.encoding == "one_hot" else 1


class TableSteps(Frozen, frozen=True, kw_only=True, tag="table", tag_field="kind"):
    """Columns of a CSV file, by name, in the model's order."""

    columns: tuple[Union[Number, Category], ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (sum(column.places for column in self.columns),)


class WindowSteps(Frozen, frozen=True, kw_only=True, tag="windows", tag_field="kind"):
    """Windows of a recording: clip, scale, then a feature of each channel.

    ``raw`` are the samples ``[length, channels]``; ``spectrum`` the magnitudes of the real
    Fourier transform by ``length``, ``[length // 2 + 1, channels]``; ``moments`` mean,
    standard deviation, least and greatest, ``[4, channels]``.
    """

    channels: tuple[str, ...]
    length: int
    step: int
    low: tuple[Union[float, None], ...] = ()
    high: tuple[Union[float, None], ...] = ()
    scaling: Scaling | None = None
    feature: Literal["raw", "spectrum", "moments"] = "raw"
    gap: Literal["previous", "refuse"] = "previous"
    """What a missing sample is: the one before it, or an error."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        rows = {"raw": self.length, "spectrum": self.length // 2 + 1, "moments": 4}[self.feature]
        return (rows, len(self.channels))


Steps = Union[ImageSteps, TableSteps, WindowSteps]


class Preprocessing(Frozen, frozen=True, kw_only=True):
    """The file: a version and the steps."""

    version: int = VERSION
    steps: Steps

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the float32 array that one example becomes, without a batch axis."""
        return self.steps.input_shape

    def check(self) -> Preprocessing:
        """Return self, or raise `ConfigError` that names the field."""
        if self.version != VERSION:
            raise ConfigError(
                f"preprocessing.version: {self.version}, this collab reads {VERSION}; use a newer collab"
            )
        if isinstance(self.steps, ImageSteps):
            _check_image(self.steps)
        elif isinstance(self.steps, TableSteps):
            _check_table(self.steps)
        else:
            _check_windows(self.steps)
        if math.prod(self.input_shape) > MAX_VALUES:
            raise ConfigError(
                f"preprocessing: {self.input_shape} numbers of an example are over {MAX_VALUES}"
            )
        return self


def to_json(preprocessing: Preprocessing) -> bytes:
    """The file's bytes: the same for the same steps."""
    fields = {"version": preprocessing.version, "steps": msgspec.to_builtins(preprocessing.steps)}
    return msgspec.json.format(msgspec.json.encode(fields, order="deterministic"), indent=1) + b"\n"


def decode_preprocessing(data: bytes, what: str = "preprocessing") -> Preprocessing:
    """Read the file; raises `ConfigError` that names the field."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{what}: {len(data)} bytes are over {MAX_BYTES}")
    try:
        return msgspec.json.decode(data, type=Preprocessing).check()
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{what}: {error}; write it with `collab data prepare`") from error


def _check_image(steps: ImageSteps) -> None:
    for name in ("height", "width"):
        _within(f"steps.{name}", getattr(steps, name), 1, MAX_SIDE)
    _within("steps.crop", steps.crop, 0.01, 1.0)
    if not (math.isfinite(steps.scale) and steps.scale > 0):
        raise ConfigError(f"preprocessing.steps.scale: {steps.scale}; give a number above 0")
    _check_scaling(steps.scaling, steps.channels)


def _check_table(steps: TableSteps) -> None:
    _within("steps.columns", len(steps.columns), 1, MAX_COLUMNS)
    _names("steps.columns", [column.name for column in steps.columns])
    for column in steps.columns:
        where = f"steps.columns[{column.name!r}]"
        if isinstance(column, Category):
            _within(f"{where}.values", len(column.values), 1, MAX_CATEGORIES)
            _names(f"{where}.values", column.values)
            if column.fill is not None and column.fill not in column.values:
                raise ConfigError(f"preprocessing.{where}.fill: {column.fill!r} is none of its values")
            continue
        _finite(where, *(n for n in (column.fill, column.low, column.high) if n is not None), column.shift)
        if not (math.isfinite(column.width) and column.width > 0):
            raise ConfigError(f"preprocessing.{where}.width: {column.width}; give a number above 0")
        if column.low is not None and column.high is not None and column.low > column.high:
            raise ConfigError(f"preprocessing.{where}.low: {column.low} is over high, {column.high}")
    _within("steps.columns, with a place for each category", steps.input_shape[0], 1, MAX_CATEGORIES)


def _check_windows(steps: WindowSteps) -> None:
    _within("steps.channels", len(steps.channels), 1, MAX_CHANNELS)
    _names("steps.channels", steps.channels)
    _within("steps.length", steps.length, 1, MAX_LENGTH)
    _within("steps.step", steps.step, 1, MAX_LENGTH)
    for name in ("low", "high"):
        bounds = getattr(steps, name)
        if bounds and len(bounds) != len(steps.channels):
            raise ConfigError(
                f"preprocessing.steps.{name}: give one for each of {len(steps.channels)} channels"
            )
        _finite(f"steps.{name}", *(bound for bound in bounds if bound is not None))
    _check_scaling(steps.scaling, len(steps.channels))


def _check_scaling(scaling: Scaling | None, channels: int) -> None:
    if scaling is None:
        return
    for name in ("shift", "width"):
        values = getattr(scaling, name)
        if len(values) not in (1, channels):
            raise ConfigError(
                f"preprocessing.steps.scaling.{name}: {len(values)} numbers; give 1 or {channels}"
            )
        _finite(f"steps.scaling.{name}", *values)
    if min(scaling.width) <= 0:
        raise ConfigError(f"preprocessing.steps.scaling.width: {min(scaling.width)}; give numbers above 0")


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"preprocessing.{field}: {value}; it must be {low} to {high}")


def _finite(field: str, *values: float) -> None:
    if not all(math.isfinite(value) and abs(value) < 3e38 for value in values):
        raise ConfigError(f"preprocessing.{field}: has a number that no float32 can be")


def _names(field: str, names: Sequence[str]) -> None:
    for name in names:
        if not 1 <= len(name) <= MAX_TEXT:
            raise ConfigError(f"preprocessing.{field}: {name[:40]!r}; a name has 1 to {MAX_TEXT} characters")
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConfigError(f"preprocessing.{field}: {twice!r} stands there twice")


prepare(Preprocessing)
