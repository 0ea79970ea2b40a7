"""Examples of a simulated fleet: read, divided among its clients, shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from collab.cli.canvas import HUES, MARGIN, WIDTH, Canvas, fitted
from collab.cli.files import read_npz
from collab.cli.output import table
from collab.errors import ConfigError, InputError
from collab.federated.partition import Partition, parse_rule, partition

if TYPE_CHECKING:
    from rich.console import RenderableType

_DRAWN: Final = 60
"""Clients in the picture of a partition."""


def divided(
    data: Path, folder: Path, text: str, clients: int, seed: int, at_least: int
) -> tuple[Partition, Any]:
    """Write the examples where worker processes map them, and divide them."""
    rule = parse_rule(text)
    arrays = spread_out(data, folder, "")
    owners = arrays.get("owner") if rule.kind == "natural" else None
    labels = arrays["y"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        if rule.kind in ("dirichlet", "shards"):
            raise ConfigError(f"partition {text!r}: it divides classes, and y is not one whole number each")
        labels = np.zeros(len(labels), np.int64)
    listed = None if owners is None else owners.tolist()
    return partition(rule, labels, clients, seed, at_least=at_least, owners=listed), labels


def spread_out(path: Path, folder: Path, prefix: str) -> Mapping[str, Any]:
    """Arrays of an npz as files that can be mapped."""
    arrays = read_npz(path, "data")
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise InputError(f"{path}: has no array {missing[0]!r}; it has {', '.join(arrays)}")
    if len(arrays["x"]) != len(arrays["y"]):
        raise InputError(f"{path}: {len(arrays['x'])} examples in x and {len(arrays['y'])} in y")
    for name in ("x", "y"):
        np.save(folder / f"{prefix}{name}.npy", arrays[name])
    return arrays


def partition_table(rule: str, came: Mapping[str, Any]) -> RenderableType:
    """What came of a rule."""
    rows = [(name.replace("_", " "), value) for name, value in came.items()]
    return table(f"partition {rule}", ("", "examples"), rows)


def partition_svg(owners: Sequence[str], counts: Any) -> str:
    """Who holds how many of each class: a bar for each of the first clients, a colour for each class."""
    shown = counts[:_DRAWN]
    largest = max(int(shown.sum(axis=1).max()), 1)
    canvas = Canvas()
    canvas.text(MARGIN, 38, "Who holds what", "title")
    more = f"the first {len(shown)} of {len(counts)} clients, one colour a class, by turns"
    canvas.text(MARGIN, 60, more, "muted")
    left, room, y = MARGIN + 110, WIDTH - 2 * MARGIN - 170, 80.0
    for owner, row in zip(owners, shown, strict=False):
        canvas.text(MARGIN, y + 9, fitted(owner, 104, 11), "small")
        x = float(left)
        for label, count in enumerate(row):
            width = room * int(count) / largest
            if count:
                canvas.box(x, y, width, 10, f"hue{label % HUES}", 0, f"{owner}: {count} of class {label}")
            x += width
        canvas.text(x + 6, y + 9, str(int(row.sum())), "small num")
        y += 14
    return canvas.render(y + MARGIN, "Who holds what", more)
