"""Combiners: many updates of a round to one.  A mean streams; robust rules spool.

Robust rules look at all updates of a few coordinates at a time, or at all pairs, so they
hold a block of the spool and no more.  Rows are taken in the order of their
clients' names, whatever the order in which they came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError
from collab.federated.aggregate.fixed import FixedSum, Shapes
from collab.federated.aggregate.settings import Aggregation
from collab.federated.update import Update

Row = NDArray[np.floating]
Doubles = NDArray[np.float64]

BLOCK_BYTES: Final = 16 << 20
"""Of the spool that a robust rule holds at a time, about."""


class Spool(Protocol):
    """Rows of equal length that are written once and read in parts; on disk where it matters."""

    def append(self, row: Row) -> None:
        """Keep one more row; raises `StoreError` when there is no room."""

    def read(self, index: int, start: int, stop: int) -> Row:
        """Elements ``[start, stop)`` of a row; raises `StoreError`."""


class Combiner(Protocol):
    """One round's updates as one."""

    def add(self, update: Update, weight: int) -> None:
        """Take one, with its weight in units of fixed point."""

    def combined(self) -> dict[str, Doubles]:
        """What they come to; raises `ConfigError` or `TensorError` when they are too few."""


class Mean:
    """The weighted mean, in fixed point; ``by_count`` divides by the number of updates."""

    def __init__(self, shapes: Shapes, *, by_count: bool = False) -> None:
        self.sum = FixedSum(shapes)
        self._by_count = by_count

    def add(self, update: Update, weight: int) -> None:
        """Add it to the sum."""
        self.sum.add(update.delta, weight)

    def combined(self) -> dict[str, Doubles]:
        """The mean."""
        return self.sum.mean(self.sum.terms if self._by_count else None)


class Robust:
    """Median, trimmed mean, Krum or multi-Krum of updates in a spool; weights do not count."""

    def __init__(self, shapes: Shapes, settings: Aggregation, spool: Spool) -> None:
        self._shapes = dict(shapes)
        self._size = sum(math.prod(shape) for shape in self._shapes.values())
        self._settings = settings
        self._spool = spool
        self._rows: list[tuple[str, int, int]] = []
        """Client, round, and row of the spool."""

    def add(self, update: Update, weight: int) -> None:
        """Put it into the spool."""
        self._spool.append(np.concatenate([update.delta[name].reshape(-1) for name in self._shapes]))
        self._rows.append((update.client, update.round, len(self._rows)))

    def combined(self) -> dict[str, Doubles]:
        """The rule over what is in the spool."""
        rows = [row for *_, row in sorted(self._rows)]
        if len(rows) < self._settings.least:
            raise ConfigError(
                f"aggregation.combine: {self._settings.combine} needs {self._settings.least} updates "
                f"and {len(rows)} came; raise the quorum to that, or lower aggregation.byzantine"
            )
        flat = _RULES[self._settings.combine](Block(self._spool, rows, self._size), self._settings)
        out, at = {}, 0
        for name, shape in self._shapes.items():
            end = at + math.prod(shape)
            out[name] = flat[at:end].reshape(shape)
            at = end
        return out


class Block:
    """Rows of a spool in an order, read by blocks of coordinates."""

    def __init__(self, spool: Spool, rows: list[int], size: int, block_bytes: int = BLOCK_BYTES) -> None:
        self._spool, self._rows, self.size = spool, rows, size
        self._width = max(1, block_bytes // (8 * len(rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, chosen: list[int] | None = None) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Coordinates, and their values as ``[row, coordinate]`` of all rows or those chosen."""
        rows = self._rows if chosen is None else [self._rows[index] for index in chosen]
        for start in range(0, self.size, self._width):
            stop = min(start + self._width, self.size)
            yield slice(start, stop), np.stack([self._spool.read(row, start, stop) for row in rows])


def median(block: Block, settings: Aggregation) -> Doubles:
    """Of every coordinate by itself (Yin et al., ICML 2018)."""
    middle = [(len(block) - 1) // 2, len(block) // 2]
    return _by_coordinate(block, lambda ranked: ranked[middle])


def trimmed_mean(block: Block, settings: Aggregation) -> Doubles:
    """Of every coordinate by itself, without its least and largest values (Yin et al., ICML 2018)."""
    # The slack is for shares such as 0.29 of 100, which are a rounding below a whole number.
    cut = math.floor(settings.trim * len(block) + 1e-9)
    return _by_coordinate(block, lambda ranked: ranked[cut : len(ranked) - cut])


def _by_coordinate(block: Block, middle: Callable[[Row], Row]) -> Doubles:
    out = np.empty(block.size)
    for place, values in block.blocks():
        values.sort(axis=0)
        np.mean(middle(values), axis=0, dtype=np.float64, out=out[place])
    return out


def krum(block: Block, settings: Aggregation) -> Doubles:
    """The update that is nearest to its neighbours (Blanchard et al., NeurIPS 2017)."""
    return _mean_of(block, nearest(block, settings.byzantine)[:1])


def multi_krum(block: Block, settings: Aggregation) -> Doubles:
    """The mean of the updates that are nearest to theirs."""
    keep = settings.keep or len(block) - settings.byzantine
    return _mean_of(block, sorted(nearest(block, settings.byzantine)[:keep]))


def nearest(block: Block, byzantine: int) -> list[int]:
    """Rows by the squared distances to their ``n - byzantine - 2`` nearest ones; ties by their order."""
    count = len(block)
    squares = np.zeros((count, count))
    for _, values in block.blocks():
        for row in range(count - 1):
            apart = np.subtract(values[row + 1 :], values[row], dtype=np.float64)
            squares[row, row + 1 :] += np.square(apart, out=apart).sum(axis=1)
    squares += squares.T
    neighbours = count - byzantine - 2
    # The first of each ranked row is the distance to itself.
    scores = np.sort(squares, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
    return [int(row) for row in np.argsort(scores, kind="stable")]


def _mean_of(block: Block, chosen: list[int]) -> Doubles:
    out = np.empty(block.size)
    for place, values in block.blocks(chosen):
        np.mean(values, axis=0, dtype=np.float64, out=out[place])
    return out


_RULES: Final[dict[str, Callable[[Block, Aggregation], Doubles]]] = {
    "median": median,
    "trimmed-mean": trimmed_mean,
    "krum": krum,
    "multi-krum": multi_krum,
}
