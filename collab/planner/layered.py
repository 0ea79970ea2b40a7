"""Chains in which devices may be used again: exact for those, a bound for all others.

Backwards from the end of the model: what the rest of a chain costs at least from a
device and a place on.  O(places² · devices + places · devices²) for each stage allowed,
or once where their number is free.
"""

from __future__ import annotations

import numpy as np

from collab.planner.options import Arcs, Costs


def completions(arcs: Arcs, last_devices: list[bool] | None = None) -> Costs:
    """(d, s, p): least costs behind a device's stage that ends at a place in a state.

    The device's own stage is not in them.  ``last_devices`` says which may run the last stage.
    """
    t = arcs.tables
    count, places = t.end, len(t.places)
    rest = np.full((count, arcs.states, places), arcs.infinite)
    rest[:, :, t.last] = arcs.moves[:, :count, t.end, t.last].T
    if last_devices is not None:
        rest[~np.array(last_devices), :, t.last] = arcs.infinite
    for place in range(t.last - 1, 0, -1):
        ahead = next_stage(arcs, rest, place)
        # (s, e, d) and the least over the next device.
        steps = arcs.join(arcs.moves[:, :count, :count, place], ahead.T[:, None, :])
        rest[:, :, place] = steps.min(axis=2).T
    return rest


def next_stage(arcs: Arcs, rest: Costs, place: int) -> Costs:
    """(d, s): least costs of a device's stage that starts at a place, and of all behind it."""
    stages = arcs.join(arcs.stages_from(place), rest[:, None])
    return np.asarray(stages.reshape(*stages.shape[:2], -1).min(axis=2))


def relaxed(arcs: Arcs, rest: Costs) -> tuple[Costs, list[tuple[int, int, int]]]:
    """The least costs of any chain, and its (device, place where its stage stops, state behind it)."""
    t = arcs.tables
    path: list[tuple[int, int, int]] = []
    stages = arcs.join(arcs.stages_from(0), rest[:, None])
    stages = np.where(t.firsts[:, None, None, :], stages, arcs.infinite)
    entering = arcs.moves[:, t.end, : t.end, 0].T
    options = arcs.join(entering[:, :, None, None], stages)
    best = options.min()
    if np.isinf(best.real):
        return best, path
    first, _, state, stop = (int(i) for i in np.unravel_index(int(np.argmin(options)), options.shape))
    path.append((first, stop, state))
    while path[-1][1] != t.last:
        d, p, s = path[-1]
        ahead = arcs.join(arcs.stages_from(p)[:, s], rest)
        options = arcs.join(arcs.moves[s, d, : t.end, p][:, None, None], ahead)
        following, state, stop = (int(i) for i in np.unravel_index(int(np.argmin(options)), options.shape))
        path.append((following, stop, state))
    return best, path
