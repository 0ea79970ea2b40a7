"""Published ways to place a model, over a profile: what the planner is measured against.

Written from their papers' descriptions.  Each gives a chain, which `Evaluator` prices, with
raw tensors and by the transport that is quickest for each move.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from collab.core.ids import NodeName
from collab.core.profile import DeviceProfile, Profile
from collab.planner.chains import Chain, Move, StageChoice
from collab.planner.evaluate import Evaluator
from collab.planner.mincut import dag_cut

Floats = NDArray[np.float64]
Placed = Sequence[tuple[int, int, NodeName]]
"""Operators ``[start, stop)`` and where they run."""


def single(profile: Profile, device: NodeName) -> Chain:
    """The whole model on one device."""
    return chain_of(Evaluator(profile), [(0, len(profile.devices[0].op_ms), device)])


def equal_split(profile: Profile) -> Chain:
    """As many operators on each device, in the order listed (distributed-llama; EdgeShard's "even")."""
    return _shared_out(profile, list(profile.devices), [1.0] * len(profile.devices))


def memory_split(profile: Profile) -> Chain:
    """Operators in proportion to memory, the largest device first (exo's ring, memory weighted)."""
    ring = sorted(profile.devices, key=lambda device: -device.memory_bytes)
    return _shared_out(profile, ring, [float(device.memory_bytes) for device in ring])


def neurosurgeon(profile: Profile, near: NodeName, far: NodeName) -> Chain:
    """The one cut between two sites with the least latency (Kang et al., ASPLOS 2017)."""
    costs = Evaluator(profile)
    end = costs.op_count
    tried = [
        chain_of(costs, [(0, at, near), (at, end, far)]) for at in (0, *(c.at for c in profile.cuts), end)
    ]
    return min(tried, key=lambda chain: costs.evaluate(chain).costs.latency_ms)


def dads(profile: Profile, near: NodeName, far: NodeName) -> float:
    """Latency in ms of the minimum cut of the operator graph (Hu et al., INFOCOM 2019)."""
    found = dag_cut(profile, near, far)
    return found.latency_ms if found else math.inf


def pipeedge(profile: Profile) -> Chain | None:
    """The pipeline of least bottleneck over device types (Hu et al., DSD 2022, section IV).

    ``h(i, S, u)``: least bottleneck of a pipeline that has run all before place i on the
    multiset S of devices, the last of type u; a stage's time and its input's time on the
    link overlap, so the larger of both counts.  Between two types the slowest link is taken.
    The requester plays no part.  None where no pipeline fits.
    """
    costs = Evaluator(profile)
    places = (0, *(cut.at for cut in profile.cuts), costs.op_count)
    types = _types(profile)
    compute = [_stage_times(costs, members[0], places) for members in types]
    link = {
        (u, v): _link_times(costs, types[u], types[v], places)
        for u, v in itertools.product(range(len(types)), repeat=2)
    }
    best: dict[tuple[tuple[int, ...], int], Floats] = {}
    back: dict[tuple[tuple[int, ...], int], tuple[list[int], NDArray[np.int64], NDArray[np.int64]]] = {}
    for used in sorted(itertools.product(*(range(len(m) + 1) for m in types)), key=sum):
        for v in (v for v, count in enumerate(used) if count):
            before = tuple(count - (w == v) for w, count in enumerate(used))
            if not any(before):
                best[used, v] = compute[v][0]
                continue
            last = [u for u, count in enumerate(before) if count]
            arrivals = np.array([np.maximum(best[before, u], link[u, v]) for u in last])
            total = np.maximum(arrivals.min(axis=0)[:, None], compute[v])
            back[used, v] = (last, arrivals.argmin(axis=0), total.argmin(axis=0))
            best[used, v] = total.min(axis=0)
    state = min(best, key=lambda key: float(best[key][-1]))
    if best[state][-1] == math.inf:
        return None
    return chain_of(costs, _walk_back(state, back, types, places))


def _walk_back(
    state: tuple[tuple[int, ...], int],
    back: dict[tuple[tuple[int, ...], int], tuple[list[int], NDArray[np.int64], NDArray[np.int64]]],
    types: Sequence[Sequence[DeviceProfile]],
    places: Sequence[int],
) -> Placed:
    """Stages of the best pipeline; devices of a type are taken as they are listed."""
    stop, found = len(places) - 1, []
    while state in back:
        (used, v), (last, devices, starts) = state, back[state]
        start = int(starts[stop])
        found.append((places[start], places[stop], types[v][used[v] - 1].name))
        state = (tuple(c - (w == v) for w, c in enumerate(used)), last[int(devices[start])])
        stop = start
    used, v = state
    found.append((0, places[stop], types[v][used[v] - 1].name))
    return found[::-1]


def _types(profile: Profile) -> list[list[DeviceProfile]]:
    """Devices that compute alike."""
    found: dict[object, list[DeviceProfile]] = {}
    for d in profile.devices:
        figures = (d.op_ms, d.op_bytes, d.memory_bytes, d.stage_ms, d.stage_bytes)
        found.setdefault(figures, []).append(d)
    return list(found.values())


def _stage_times(costs: Evaluator, device: DeviceProfile, places: Sequence[int]) -> Floats:
    """(start, stop): time of a stage on a device; infinite where it is empty or does not fit."""
    found = np.full((len(places), len(places)), math.inf)
    for (i, start), (j, stop) in itertools.combinations(enumerate(places), 2):
        if costs.stage_bytes(device, start, stop) <= device.memory_bytes:
            found[i, j] = costs.stage_ms(device, start, stop)
    return found


def _link_times(
    costs: Evaluator,
    sources: Sequence[DeviceProfile],
    targets: Sequence[DeviceProfile],
    places: Sequence[int],
) -> Floats:
    """(place,): how long the slowest link between two types is occupied."""
    pairs = [(a.name, b.name) for a in sources for b in targets if a.name != b.name]
    found = np.full(len(places), math.inf)
    for i, at in enumerate(places[1:-1], 1):
        ways = (min(costs.move_ms(a, b, at, move)[1] for move in _moves(costs)) for a, b in pairs)
        found[i] = max(ways, default=math.inf)
    return found


def _shared_out(profile: Profile, devices: Sequence[DeviceProfile], weights: Sequence[float]) -> Chain:
    """Operators by weight, each share ending at the allowed cut that is nearest."""
    costs = Evaluator(profile)
    end, places = costs.op_count, [cut.at for cut in profile.cuts]
    ideal = [end * total / sum(weights) for total in itertools.accumulate(weights)][:-1]
    edges = [0, *sorted({min(places, key=lambda at: abs(at - x)) for x in ideal if places}), end]
    used = zip(itertools.pairwise(edges), devices[: len(edges) - 1], strict=True)
    return chain_of(costs, [(start, stop, device.name) for (start, stop), device in used])


def _moves(costs: Evaluator) -> Iterator[Move]:
    return (Move(transport) for transport in dict.fromkeys(e.transport for e in costs.profile.links))


def chain_of(costs: Evaluator, placed: Placed) -> Chain:
    """A chain without its empty stages, each move by the quickest transport."""
    stages = tuple(StageChoice(start, stop, (node,)) for start, stop, node in placed if start < stop)
    ends: list[NodeName | None] = [costs.profile.requester, *(s.nodes[0] for s in stages)]
    ends.append(costs.profile.requester)
    at = [0, *(stage.stop for stage in stages)]
    moves = tuple(
        min(_moves(costs), key=lambda move: costs.move_ms(a, b, k, move)[0], default=Move())
        for (a, b), k in zip(itertools.pairwise(ends), at, strict=True)
    )
    return Chain(stages, moves)
