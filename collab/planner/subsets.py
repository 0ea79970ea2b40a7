"""Chains that use each device once, exactly: dynamic programming over sets of devices.

``best[set used, last device, state, place]`` by number of stages (Benoit et al., "Mapping
pipeline skeletons onto heterogeneous platforms", JPDC 2008); sets become counts where
devices are alike (the scheduler of PipeEdge, DSD 2022).  All sets of one size go through
numpy at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from collab.planner.options import SLACK, Arcs, Costs
from collab.planner.product import product
from collab.planner.tables import Bools

Keys = NDArray[np.int64]


class Space(Protocol):
    """Which devices may follow which; a key says what is used so far, 0 nothing."""

    def grow(self, keys: Keys, device: int) -> tuple[Bools, int]:
        """Where a device may follow, and what that adds to the key."""

    def complete(self, keys: Keys) -> Bools:
        """Where a chain may end."""


@dataclass(frozen=True)
class Counts:
    """Each device, or each of some like it, at most so often: keys are numbers with mixed bases."""

    capacities: tuple[int, ...]

    def grow(self, keys: Keys, device: int) -> tuple[Bools, int]:
        """Where a device may follow, and what that adds to the key."""
        weight = int(np.prod([c + 1 for c in self.capacities[:device]], dtype=object))
        capacity = self.capacities[device]
        return keys // weight % (capacity + 1) < capacity, weight

    def complete(self, keys: Keys) -> Bools:
        """A chain may end anywhere."""
        return np.ones(keys.shape, bool)


@dataclass(frozen=True)
class Order:
    """Exactly these devices in this order: keys count stages."""

    order: tuple[int, ...]

    def grow(self, keys: Keys, device: int) -> tuple[Bools, int]:
        """Where a device may follow, and what that adds to the key."""
        return np.array([k < len(self.order) and self.order[k] == device for k in keys], bool), 1

    def complete(self, keys: Keys) -> Bools:
        """A chain ends with the last device."""
        done: Bools = keys == len(self.order)
        return done


@dataclass(frozen=True, eq=False)
class Layer:
    """All partial chains with one number of stages."""

    keys: Keys
    """(n,), ascending."""
    costs: Costs
    """(n, d, s, p): the least costs by keys, last device, its state and place behind it."""


@dataclass(frozen=True)
class Step:
    """A stage of a path: a device, the places around it, the state behind it."""

    device: int
    start: int
    stop: int
    state: int
    threads: int | None = None
    """Number of threads where it was chosen; None leaves that open."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """All layers of one run."""

    arcs: Arcs
    space: Space
    layers: tuple[Layer, ...]
    finals: Costs
    """(m,): costs of finished chains, by what `ends` says, few stages first."""
    ends: NDArray[np.int64]
    """(m, 3): number of stages less one, row, device."""

    def best(self) -> int | None:
        """Index of the best finished chain, of equals one with fewest stages."""
        if not len(self.finals):
            return None
        least = self.finals.min()
        if np.isinf(least.real):
            return None
        reals = self.finals.real
        near = reals <= least.real + abs(least.real) * SLACK
        if np.iscomplexobj(self.finals):
            second = self.finals.imag
            lowest = second[near].min()
            near &= second <= lowest + abs(lowest) * SLACK
        return int(np.argmax(near))

    def path(self, index: int, last_start: int | None = None) -> list[Step] | None:
        """The stages of a finished chain; with its last stage from a given place on, None if it cannot."""
        layer, row, device = (int(i) for i in self.ends[index])
        t = self.arcs.tables
        ends = self.arcs.join(
            self.layers[layer].costs[row, device, :, t.last],
            self.arcs.moves[:, device, self.arcs.count, t.last],
        )
        state, stop, path = int(np.argmin(ends)), t.last, list[Step]()
        while True:
            key = int(self.layers[layer].keys[row])
            into = self.arriving(layer, key, device)
            options = self.arcs.join(into, self.arcs.stage(device)[:, state, :, stop])
            if layer == 0:
                options = np.where(np.arange(len(t.places)) == 0, options, self.arcs.infinite)
            elif last_start is not None and stop == t.last:
                options = np.where(np.arange(len(t.places)) == last_start, options, self.arcs.infinite)
            before, start = np.unravel_index(int(np.argmin(options)), options.shape)
            if np.isinf(options[before, start].real):
                return None
            path.append(Step(device, int(start), stop, state))
            if layer == 0:
                return path[::-1]
            _, weight = self.space.grow(np.zeros(0, np.int64), device)
            row = int(np.searchsorted(self.layers[layer - 1].keys, key - weight))
            came = self.arcs.join(
                self.layers[layer - 1].costs[row, :, before, start],
                self.arcs.moves[before, : self.arcs.count, device, start],
            )
            device, state, stop, layer = int(np.argmin(came)), int(before), int(start), layer - 1

    def arriving(self, layer: int, key: int, device: int) -> Costs:
        """(s, p): least costs up to a device's stage that starts at a place."""
        t = self.arcs.tables
        if layer == 0:
            entering = self.arcs.moves[:, self.arcs.count, device, 0]
            return np.asarray(np.repeat(entering[:, None], len(t.places), axis=1))
        _, weight = self.space.grow(np.zeros(0, np.int64), device)
        row = np.searchsorted(self.layers[layer - 1].keys, [key - weight])
        return np.asarray(_arrive(self.arcs, self.layers[layer - 1], row, device)[0])


def sweep(arcs: Arcs, space: Space, max_stages: int) -> Sweep:
    """Best chains for each set of devices and last device."""
    t = arcs.tables
    layers: list[Layer] = []
    keys: Keys = np.zeros(1, np.int64)
    while len(layers) < max_stages and len(keys):
        layer = _next(arcs, space, layers[-1] if layers else None, keys)
        if not len(layer.keys):
            break
        layers.append(layer)
        keys = layer.keys
    finals, ends = [np.zeros(0)], [np.zeros((0, 3), np.int64)]
    for i, layer in enumerate(layers):
        values = arcs.join(layer.costs[..., t.last], arcs.moves[:, : arcs.count, arcs.count, t.last].T).min(
            axis=2
        )
        rows, devices = np.nonzero(np.isfinite(values.real) & space.complete(layer.keys)[:, None])
        finals.append(values[rows, devices])
        ends.append(np.stack([np.full(len(rows), i), rows, devices], axis=1))
    return Sweep(arcs, space, tuple(layers), np.concatenate(finals), np.concatenate(ends))


def _next(arcs: Arcs, space: Space, before: Layer | None, keys: Keys) -> Layer:
    """The layer with one stage more."""
    t = arcs.tables
    grown = [space.grow(keys, device) for device in range(arcs.count)]
    made = [keys[where] + weight for where, weight in grown]
    reached = np.unique(np.concatenate(made))
    costs = np.full((len(reached), arcs.count, arcs.states, len(t.places)), arcs.infinite)
    for device, (where, _) in enumerate(grown):
        if not where.any():
            continue
        if before is None:
            into = np.full((1, arcs.states, len(t.places)), arcs.infinite)
            into[0, :, 0] = arcs.moves[:, arcs.count, device, 0]
        else:
            into = _arrive(arcs, before, np.flatnonzero(where), device)
        found = product(arcs, into, device)
        if before is None:
            found = np.where(arcs.firsts[device], found, arcs.infinite)
        costs[np.searchsorted(reached, made[device]), device] = found
    return Layer(reached, costs)


def _arrive(arcs: Arcs, layer: Layer, rows: NDArray[np.intp], device: int) -> Costs:
    """(n, s, p): least costs of arriving at a device from any other, at each place."""
    ways = arcs.moves[:, : arcs.count, device].swapaxes(0, 1)
    came = layer.costs[rows]
    joined = np.add(came, ways, out=came) if arcs.add else np.maximum(came, ways, out=came)
    return np.asarray(joined.min(axis=1))


def along(arcs: Arcs, path: Sequence[Step]) -> float:
    """What a path costs."""
    into = arcs.moves[:, arcs.count, path[0].device, 0]
    cost = arcs.join(into, arcs.stage(path[0].device)[:, path[0].state, 0, path[0].stop]).min()
    for before, step in pairwise(path):
        cost = arcs.join(cost, arcs.moves[before.state, before.device, step.device, step.start])
        cost = arcs.join(cost, arcs.stage(step.device)[before.state, step.state, step.start, step.stop])
    last = path[-1]
    return float(arcs.join(cost, arcs.moves[last.state, last.device, arcs.count, last.stop]).real)


def devices_of(path: Sequence[Step]) -> tuple[int, ...]:
    """The devices of a path in order."""
    return tuple(step.device for step in path)
