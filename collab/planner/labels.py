"""All best compromises of two costs that both add up: labels with dominance, layer by layer.

A label is a partial chain; one that is no better in both costs than another with the same
devices used, last device and place is dropped (Martins, "On a multicriteria shortest path
problem", EJOR 1984), and so is one whose rest cannot lead to anything new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collab.planner.chains import Chain, Objective, Option
from collab.planner.ground import Ground
from collab.planner.layered import completions
from collab.planner.options import SLACK, Arcs
from collab.planner.subsets import Step
from collab.planner.tables import Floats, move_name

Ints = NDArray[np.int64]
MOST = 1_500_000
"""Labels of one layer, before those that are dominated are dropped."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Partial chains with one number of stages; all arrays are (n,)."""

    key: Ints
    device: Ints
    start: Ints
    place: Ints
    """Where the last stage stops."""
    x: Floats
    y: Floats
    parent: Ints
    way: Ints
    """How the input of the last stage came."""

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Labels:
        """Some of them."""
        return Labels(*(getattr(self, field)[which] for field in self.__dataclass_fields__))


class Compromises:
    """The search for all compromises of two sums.

    ``complete`` tells whether none is missing; a layer that grows too large loses some.
    """

    def __init__(
        self, ground: Ground, x: Objective, y: Objective, known: Sequence[Option], cap: float
    ) -> None:
        self.ground, self.x, self.y, self.cap = ground, x, y, cap
        self.arcs = (Arcs(ground.tables, x), Arcs(ground.tables, y))
        self.base = tuple(arcs.base.real for arcs in self.arcs)
        self.rest = tuple(completions(arcs).real[:, 0] for arcs in self.arcs)
        t = ground.tables
        self.codecs = [(r, s) for s in range(len(t.codecs)) for r in range(len(t.transports))]
        grid = tuple(np.ogrid[: t.end + 1, : t.end + 1, : len(t.places)])
        self.ways = tuple(
            np.array([arcs.way(r, s, *grid).real for r, s in self.codecs]) for arcs in self.arcs
        )
        self.complete = True
        self.layers: list[Labels] = []
        self.found: list[Option] = []
        self.front: tuple[Floats, Floats] = (np.zeros(0), np.zeros(0))
        self.learn(known)

    def learn(self, options: Sequence[Option]) -> None:
        """Remember finished chains: what they dominate leads to nothing new."""
        self.found += [option for option in options if option.costs.of(self.y) <= self.cap]
        points = sorted((o.costs.of(self.x), o.costs.of(self.y)) for o in self.found)
        xs = np.array([point[0] for point in points])
        ys = np.minimum.accumulate(np.array([point[1] for point in points])) if points else xs
        self.front = (xs, ys)

    def run(self) -> list[Option]:
        """All compromises, with some that are none."""
        labels = self._first()
        while len(labels.key) and len(self.layers) < self.ground.max_stages:
            self.layers.append(labels)
            self._finish(len(self.layers) - 1)
            if len(self.layers) < self.ground.max_stages:
                labels = self._next(labels)
        return self.found

    def _first(self) -> Labels:
        t = self.ground.tables
        nothing = np.zeros(1, np.int64)
        came = Labels(
            nothing, nothing + t.end, nothing, nothing, np.zeros(1), np.zeros(1), nothing - 1, nothing
        )
        found = self._grow(came)
        return found.take(t.firsts[found.device, found.place])

    def _next(self, labels: Labels) -> Labels:
        return self._grow(labels.take(labels.place < self.ground.tables.last), labels)

    def _grow(self, labels: Labels, numbered: Labels | None = None) -> Labels:
        """All labels with one stage more, without dominated ones."""
        parts, t = [], self.ground.tables
        parents = np.arange(len(labels.key))
        if numbered is not None:
            parents = np.flatnonzero(numbered.place < t.last)
        for device in range(t.end):
            allowed, weight = self.ground.space.grow(labels.key, device)
            rows = np.flatnonzero(allowed)
            if len(rows):
                parts.append(self._stage(self._arrive(labels, rows, parents, device, weight), device))
        grown = (
            Labels(*(np.concatenate([getattr(p, f) for p in parts]) for f in Labels.__dataclass_fields__))
            if (parts)
            else labels.take(np.zeros(len(labels.key), bool))
        )
        return grown

    def _arrive(self, labels: Labels, rows: Ints, parents: Ints, device: int, weight: int) -> Labels:
        """Labels at the door of a device, its stage to come."""
        source, place = labels.device[rows], labels.place[rows]
        count = len(self.codecs)
        x = (labels.x[rows][None] + self.ways[0][:, source, device, place]).ravel()
        y = (labels.y[rows][None] + self.ways[1][:, source, device, place]).ravel()
        every = np.tile(rows, count)
        came = Labels(
            labels.key[every] + weight,
            np.full(len(every), device),
            labels.place[every],
            labels.place[every],
            x,
            y,
            parents[every],
            np.repeat(np.arange(count), len(rows)),
        )
        return _undominated(came.take(np.isfinite(x)))

    def _stage(self, came: Labels, device: int) -> Labels:
        x = came.x[:, None] + self.base[0][device][came.start]
        y = came.y[:, None] + self.base[1][device][came.start]
        bound_x, bound_y = x + self.rest[0][device], y + self.rest[1][device]
        useful = np.isfinite(bound_x) & (bound_y <= self.cap * (1 + SLACK)) & ~self._known(bound_x, bound_y)
        rows, stops = np.nonzero(useful)
        if len(rows) > MOST:
            self.complete = False
            best = np.argsort(bound_x[rows, stops])[:MOST]
            rows, stops = rows[best], stops[best]
        grown = came.take(rows)
        return _undominated(
            Labels(
                grown.key,
                grown.device,
                grown.start,
                stops,
                x[rows, stops],
                y[rows, stops],
                grown.parent,
                grown.way,
            )
        )

    def _known(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether a finished chain is as good in both."""
        xs, ys = self.front
        if not len(xs):
            return np.zeros(x.shape, bool)
        index = np.searchsorted(xs, x * (1 + SLACK), "right") - 1
        return (index >= 0) & (ys[np.maximum(index, 0)] <= y * (1 + SLACK))

    def _finish(self, layer: int) -> None:
        """Turn labels at the end of the model into options."""
        t, labels = self.ground.tables, self.layers[layer]
        rows = np.flatnonzero((labels.place == t.last) & self.ground.space.complete(labels.key))
        if not len(rows):
            return
        ways = tuple(part[:, labels.device[rows], t.end, t.last] for part in self.ways)
        x, y = (labels.x[rows] + ways[0]).ravel(), (labels.y[rows] + ways[1]).ravel()
        index = np.flatnonzero(np.isfinite(x) & (y <= self.cap * (1 + SLACK)) & ~self._known(x, y))
        order = index[np.lexsort((y[index], x[index]))]
        lowest = np.minimum.accumulate(np.concatenate(([math.inf], y[order])))[:-1]
        made = [
            self._option(layer, int(rows[i % len(rows)]), i // len(rows)) for i in order[y[order] < lowest]
        ]
        self.learn(made)

    def _option(self, layer: int, row: int, last_way: int) -> Option:
        path, ways = [], [int(last_way)]
        while layer >= 0:
            labels = self.layers[layer]
            path.append(Step(int(labels.device[row]), int(labels.start[row]), int(labels.place[row]), 0))
            ways.append(int(labels.way[row]))
            row, layer = int(labels.parent[row]), layer - 1
        path, ways = path[::-1], ways[::-1]
        t = self.ground.tables
        ends = [t.end, *(step.device for step in path), t.end]
        moves = tuple(
            self.arcs[0].move(ends[i], ends[i + 1], 0)
            if t.free[ends[i], ends[i + 1]]
            else move_name(t, *self.codecs[way])
            for i, way in enumerate(ways)
        )
        chain = Chain(self.ground.stages(path), moves)
        return Option(chain, self.ground.costs.evaluate(chain).costs)


def _undominated(labels: Labels) -> Labels:
    """Of labels with the same devices used, last device and place, those that are best in something."""
    if len(labels.key) < 2:
        return labels
    order = np.lexsort((labels.y, labels.x, labels.place, labels.device, labels.key))
    sorted_ = labels.take(order)
    new = np.ones(len(order), bool)
    new[1:] = (
        (sorted_.key[1:] != sorted_.key[:-1])
        | (sorted_.device[1:] != sorted_.device[:-1])
        | (sorted_.place[1:] != sorted_.place[:-1])
    )
    # Ranks less a step for each group, so that a running minimum starts anew with each.
    _, ranks = np.unique(sorted_.y, return_inverse=True)
    level = ranks.astype(np.int64) - np.cumsum(new) * (len(order) + 1)
    lowest = np.minimum.accumulate(level)
    kept = new.copy()
    kept[1:] |= level[1:] < lowest[:-1]
    return sorted_.take(kept)
