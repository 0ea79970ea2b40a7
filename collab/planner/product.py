"""The inner step of the dynamic program: the best start for each place where a stage may stop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as product_of

import numpy as np
from numpy.typing import NDArray

from collab.planner.options import Arcs, Costs

_BLOCK = 1 << 13
"""Elements that one step makes: they stay in a core's cache."""
_ROWS = 256
"""Sets of devices that go through one step."""
_EXACT = 1e-13
"""Share of the largest cost within which sums count as equal."""


def product(arcs: Arcs, into: Costs, device: int) -> Costs:
    """(n, s, p): the least of ``into`` (n, s, p) and a device's stage from there, over states and starts."""
    if arcs.separable:
        split = arcs.memory.get(device)
        if split is None:
            split = arcs.memory[device] = _separate(arcs.base[device], arcs.stage_costs[device])
        if split:
            lowest: Costs = _windows(into[:, 0], *split)[:, None]
            return lowest
    return _all_pairs(arcs, into, arcs.stage(device))


def _separate(base: Costs, unlimited: Costs) -> tuple[()] | tuple[Costs, Costs, NDArray[np.intp]]:
    """Costs as ``start[k] + stop[j]`` for k in ``[low[j], j)``; empty where they are not of that form."""
    start, stop = unlimited[:, -1], unlimited[0] - unlimited[0, -1]
    possible = np.isfinite(base.real)
    places = len(start)
    low = np.where(possible.any(axis=0), possible.argmax(axis=0), np.arange(places))
    window = np.arange(places)[:, None] >= low[None]
    if (possible != (window & np.triu(np.ones_like(window), 1))).any():
        return ()
    difference = np.where(possible, unlimited - (start[:, None] + stop[None]), 0)
    if np.abs(difference).max() > _EXACT * np.abs(unlimited).max():
        return ()
    return start, stop, low


def _windows(into: Costs, start: Costs, stop: Costs, low: NDArray[np.intp]) -> Costs:
    """(n, p): least of ``into + start`` over each window, and ``stop``: minima of power-of-two lengths."""
    columns = np.ascontiguousarray((into + start).T)
    places = len(stop)
    out = np.full_like(columns, complex(np.inf, np.inf) if np.iscomplexobj(columns) else np.inf)
    if not low[1:].any():
        lowest = np.minimum.accumulate(columns[:-1], axis=0)
        out[1:] = lowest + stop[1:, None]
        return np.asarray(out.T)
    lengths = np.arange(places) - low
    level, width = columns, 1
    while width <= lengths.max():
        here = np.flatnonzero((lengths >= width) & (lengths < 2 * width))
        if len(here):
            out[here] = np.minimum(level[low[here]], level[here - width]) + stop[here, None]
        if width < len(level):
            level = np.minimum(level[:-width], level[width:])
        width *= 2
    return np.asarray(out.T)


def _all_pairs(arcs: Arcs, into: Costs, stage: Costs) -> Costs:
    """(n, s, p): every start with every stop, in blocks."""
    count, states, places = into.shape
    join: Callable[..., Costs] = np.add if arcs.add else np.maximum
    columns = np.ascontiguousarray(into.transpose(1, 2, 0))
    out = np.full((states, places, count), arcs.infinite)
    possible = np.isfinite(stage.real).any(axis=(0, 1)) & np.isfinite(into.real).any(axis=(0, 1))[:, None]
    firsts = np.where(possible.any(axis=0), possible.argmax(axis=0), places)
    for low in range(0, count, _ROWS):
        rows = columns[:, :, low : low + _ROWS]
        start = 1
        while start < places:
            stop = min(
                places, start + max(1, _BLOCK // ((start - min(firsts[start], start - 1)) * rows.shape[2]))
            )
            first, target = int(firsts[start:stop].min()), out[:, start:stop, low : low + _ROWS]
            for s, after in product_of(range(states), range(states)):
                if first < stop - 1:
                    area = stage[s, after, first : stop - 1, start:stop, None]
                    ways = join(rows[s, first : stop - 1, None], area)
                    np.minimum(target[after], ways.min(axis=0), out=target[after])
            start = stop
    return np.asarray(out.transpose(2, 0, 1))
