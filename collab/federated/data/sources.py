"""Where examples are, in one line of settings, and who reads them.

    /data/digits.npz?x=images&y=labels&scale=255
    /data/shards?held_out=0.2
    /data/points.csv?y=label
    /data/photos?classes=cat,dog
    sensors:roof?limit=1000

A name and a colon before the place name an entry point of the group ``collab.data``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from collab.errors import BackendError, CollabError, ConfigError, InputError, LimitExceeded
from collab.federated.data.examples import HELD_OUT, Data, Examples, split
from collab.federated.trainable import Description

GROUP: Final = "collab.data"
MAX_EXAMPLES: Final = 10_000_000
MAX_BYTES: Final = 4 << 30
MAX_CLASSES: Final = 100_000

_NAMED: Final = re.compile(r"([a-z][a-z0-9_-]*):(.*)", re.DOTALL)
_OPTIONS: Final = frozenset({"x", "y", "scale", "held_out", "seed", "limit", "shape", "classes"})


@dataclass(frozen=True, slots=True)
class Source:
    """A place with its options.

    Attributes:
        place: path, or what an entry point gets.
        entry_point: its name; empty for files.
        x: key or columns of the inputs; empty for the usual ones.
        y: key or column of the labels; empty for the usual one.
        scale: what inputs are divided by; None for the usual one, 255 for images and else 1.
        held_out: share that is measured on and not trained on.
        seed: which part that is.
        limit: most examples to read, the first ones.
        classes: names of the classes in their order; empty where labels are numbers.
        more: other options, for entry points.
    """

    place: str
    entry_point: str = ""
    x: str = ""
    y: str = ""
    scale: float | None = None
    held_out: float = HELD_OUT
    seed: int = 0
    limit: int = MAX_EXAMPLES
    classes: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)


def parse_source(text: str) -> Source:
    """Read one line of settings.

    Raises:
        ConfigError: an option is unknown or has a wrong value.
    """
    place, _, query = text.partition("?")
    named = _NAMED.fullmatch(place)
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise ConfigError(f"data {text!r}: {error}; write PLACE?option=value&option=value") from error
    if not place:
        raise ConfigError(f"data {text!r}: names no place; give a file, a folder or NAME:PLACE")
    more = {name: value for name, value in options.items() if name not in _OPTIONS}
    if more and not named:
        raise ConfigError(f"data {text!r}: unknown option {min(more)!r}; use {', '.join(sorted(_OPTIONS))}")
    return Source(
        place=named[2] if named else place,
        entry_point=named[1] if named else "",
        x=options.get("x", ""),
        y=options.get("y", ""),
        scale=_number(options, "scale", None, above=0.0),
        held_out=_number(options, "held_out", HELD_OUT, above=-1e-9, below=1.0) or 0.0,
        seed=int(_number(options, "seed", 0, above=-1) or 0),
        limit=int(_number(options, "limit", MAX_EXAMPLES, above=0) or 0),
        classes=tuple(name for name in options.get("classes", "").split(",") if name),
        more=more,
    )


def _number(
    options: Mapping[str, str],
    name: str,
    default: float | None,
    *,
    above: float,
    below: float = float("inf"),
) -> float | None:
    if name not in options:
        return default
    try:
        value = float(options[name])
    except ValueError:
        value = float("nan")
    if not above < value < below:
        raise ConfigError(
            f"data option {name}={options[name]!r} does not work; give a number above {above:g}"
            + (f" and below {below:g}" if below < float("inf") else "")
        )
    return value


def open_data(text: str, description: Description, *, max_bytes: int = MAX_BYTES) -> Data:
    """Read the examples that a line of settings names, and hold a part out.

    Args:
        text: the line.
        description: the model that they are for: pictures come in its size.
        max_bytes: most that they may take in memory.

    Raises:
        ConfigError: the line is wrong.
        InputError: a file is missing or wrong; names it, and the row where there are rows.
        LimitExceeded: there is more than `max_bytes`.
        BackendError: a library is missing.
    """
    source = parse_source(text)
    return split(_examples(text, source, description, max_bytes), source.held_out, source.seed)


def open_held_out(text: str, description: Description, *, max_bytes: int = MAX_BYTES) -> Examples:
    """Read the examples of a line to measure on: all of them, unless it has ``held_out``.

    Raises what `open_data` does.
    """
    if "held_out=" in text.partition("?")[2]:
        return open_data(text, description, max_bytes=max_bytes).held_out
    return _examples(text, parse_source(text), description, max_bytes)


def _examples(text: str, source: Source, description: Description, max_bytes: int) -> Examples:
    examples = _reader(source)(source, description, max_bytes)
    if not len(examples):
        raise InputError(f"data {text!r}: has no examples")
    if examples.nbytes > max_bytes:
        raise LimitExceeded(f"data {text!r}: {examples.nbytes} bytes are over {max_bytes}; give limit=…")
    examples = examples.first(source.limit)
    return Examples(fit(examples.x, description.input_shape), examples.y, examples.scale)


def placed(text: str, folder: Path) -> str:
    """The line with its file or folder named from ``folder``, so that it means the same everywhere."""
    place, mark, query = text.partition("?")
    if _NAMED.fullmatch(place):
        return text
    return f"{(folder / Path(place).expanduser()).resolve()}{mark}{query}"


def fit(x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Inputs with axes added, dropped or joined where the model's shape has as many elements."""
    if x.shape[1:] != shape and int(np.prod(x.shape[1:])) == int(np.prod(shape)):
        return x.reshape(len(x), *shape)
    return x


Reader = Callable[[Source, Description, int], Examples]


def _reader(source: Source) -> Reader:
    if source.entry_point:
        return _from_entry_point
    # Imported late: a node without data needs none of them.
    from collab.federated.data.archives import read_archives
    from collab.federated.data.pictures import read_pictures
    from collab.federated.data.tables import read_table

    path = Path(source.place)
    if path.is_dir():
        return read_archives if any(path.glob("*.npz")) else read_pictures
    readers: dict[str, Reader] = {".npz": read_archives, ".csv": read_table}
    if not path.exists():
        raise InputError(f"data {source.place}: there is no such file or folder")
    if path.suffix.lower() not in readers:
        raise InputError(
            f"data {source.place}: give an .npz file, a .csv file, or a folder of .npz or pictures"
        )
    return readers[path.suffix.lower()]


def _from_entry_point(source: Source, description: Description, max_bytes: int) -> Examples:
    """What a third party's function gives: it gets place, options and the model's input shape."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    if source.entry_point not in points:
        known = ", ".join(sorted(points)) or "none"
        raise ConfigError(
            f"data {source.entry_point}:…: no installed package has an entry point of that name in "
            f"{GROUP!r}; there are {known} (write ./{source.entry_point}:… for a file)"
        )
    try:
        x, y = points[source.entry_point].load()(source.place, dict(source.more), description.input_shape)
        return Examples(
            np.asarray(x),
            as_labels(np.asarray(y), source, description, source.entry_point),
            source.scale or 1.0,
        )
    except CollabError:
        raise
    except Exception as error:  # whatever a third party's code raises
        raise BackendError(f"data {source.entry_point}:{source.place}: {error}") from error


def as_labels(y: NDArray[Any], source: Source, description: Description, where: str) -> NDArray[Any]:
    """Labels as the model's loss takes them: whole numbers, or float32 targets.

    Raises:
        InputError: a label is neither a class of `classes` nor a whole number.
    """
    if description.loss != "cross_entropy":
        return y.astype(np.float32) if y.ndim > 1 else y.astype(np.float32)[:, None]
    if y.dtype.kind in "iub":
        return y.astype(np.int32)
    if y.dtype.kind == "f" and (whole := y.astype(np.int32)).shape == y.shape and np.array_equal(whole, y):
        return whole
    if y.dtype.kind in "US":
        numbers = [
            class_number(str(label), source, f"{where}, label {row + 1}") for row, label in enumerate(y)
        ]
        return np.array(numbers, np.int32)
    raise InputError(f"{where}: labels of type {y.dtype} are not classes; give whole numbers or names")


def class_number(label: str, source: Source, where: str) -> int:
    """Number of a class by its name, or written as a number."""
    if source.classes:
        if label in source.classes:
            return source.classes.index(label)
        raise InputError(f"{where}: {label!r} is not among classes={','.join(source.classes)}")
    if label.isascii() and label.isdigit() and int(label) < MAX_CLASSES:
        return int(label)
    # Numbering what one device happens to have would mean something else on another.
    raise InputError(f"{where}: {label!r} is no number; give all names in order, such as classes=cat,dog")
