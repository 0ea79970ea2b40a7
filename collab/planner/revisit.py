"""Chains whose nodes may hold several ranges.

Where costs add up along the chain and memory does not bind, that is a shortest path
(`layered`).  Else times, bytes and memory add up on each node and link, and branch and
bound looks for the best: exact where it ends, with a certified bound where it is cut off.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from collab.core.ids import NodeName
from collab.planner.chains import Chain, Move, Objective, Option, StageChoice
from collab.planner.exact import Pool, optimum, rank
from collab.planner.ground import ground_for
from collab.planner.layered import completions, relaxed
from collab.planner.options import SLACK, Arcs
from collab.planner.search import Found
from collab.planner.tables import Floats, Tables, best_threads, move_name
from collab.planner.threshold import pieces_ms

_CHILDREN = 60_000
"""Partial chains that branch and bound makes, at most."""
_KEPT = 60
"""Partial chains that are remembered for each device and place."""
_SMALL = 4_000_000
"""Costs that the search without revisits may keep."""


@dataclass(frozen=True, eq=False)
class Partial:
    """A chain up to a place, its last stage's answer not yet sent."""

    device: int
    place: int
    latency: float
    energy: float
    metered: float
    busy: Floats
    """(d,)"""
    links: Floats
    """(e, e)"""
    memory: Floats
    """(d,)"""
    path: tuple[tuple[int, int, int], ...] = ()
    """Device, start and stop of the stages."""
    moves: tuple[Move, ...] = ()

    def value(self, objective: Objective) -> float:
        """What it costs so far."""
        if objective == "throughput":
            return float(max(self.busy.max(), self.links.max()))
        if objective == "memory":
            return float(self.memory.max())
        return {"latency": self.latency, "energy": self.energy, "bytes": self.metered}[objective]

    @property
    def figures(self) -> Floats:
        """Everything that more of makes a chain worse."""
        sums = (self.latency, self.energy, self.metered, float(len(self.path)))
        return np.concatenate([sums, self.busy, self.links.ravel(), self.memory])


def with_revisits(tables: Tables, objective: Objective, pool: Pool) -> Found:
    """The best chain in which nodes may hold several ranges."""
    search = _Forwards(tables, objective, pool)
    once = ground_for(tables.costs, replace(tables.wants, revisit=False)) if _once(tables) else None
    if once is not None and once.elements <= _SMALL:
        optimum(once, objective, pool, 5)
    option = search.shortest() if tables.wants.assign is None else None
    if option is not None:
        pool.add([option])
        possible = math.isfinite(option.costs.latency_ms) and option.costs.latency_ms <= pool.deadline_ms
        if possible and search.arcs.add and search.reached(option):
            return Found(option, option.costs.of(objective), "exact: shortest path over devices and cuts")
    if once is not None and once.elements <= _SMALL:
        optimum(once, "latency", pool, 0)
    search.run()
    best = _best(pool)
    if best is None:
        return Found(None, search.bound if search.left <= 0 else math.inf, "")
    if search.left > 0:
        return Found(best, best.costs.of(objective), "exact: branch and bound over chains")
    return Found(best, search.bound, "branch and bound over chains, cut off, with a certified bound")


def _joined(path: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """A path with ranges in a row on one node as one."""
    joined: list[tuple[int, int, int]] = []
    for device, start, stop in path:
        if joined and joined[-1][0] == device:
            joined[-1] = (device, joined[-1][1], stop)
        else:
            joined.append((device, start, stop))
    return joined


def _best(pool: Pool) -> Option | None:
    """The best that was met: of those that are equal but for rounding, fast ones and ones with few stages."""
    if pool.leader is None:
        return None
    value = pool.leader.costs.of(pool.objective)
    close = [
        option for option in pool.found.values() if option.costs.of(pool.objective) <= value * (1 + SLACK)
    ]
    fastest = min(option.costs.latency_ms for option in close)
    close = [option for option in close if option.costs.latency_ms <= fastest * (1 + SLACK)]
    return min(close, key=lambda option: len(option.chain.stages))


def _once(tables: Tables) -> bool:
    wants = tables.wants
    flat = [name for nodes in wants.assign or () for name in nodes]
    return len(set(flat)) == len(flat) and (wants.at is None or len(wants.at) < len(tables.devices))


class _Forwards:
    """Branch and bound from the requester on."""

    def __init__(self, tables: Tables, objective: Objective, pool: Pool) -> None:
        self.tables, self.objective, self.pool = tables, objective, pool
        self.left = _CHILDREN
        self.arcs = Arcs(tables, objective)
        self.rest = completions(self.arcs)
        self.rest_ms = completions(Arcs(tables, "latency"))[:, 0].real
        self.order = (
            None
            if tables.wants.assign is None
            else [tables.devices.index(nodes[0]) for nodes in tables.wants.assign]
        )
        most = len(self.order) if self.order is not None else tables.last
        self.most = min(most, tables.wants.max_stages or most)
        best, self._steps = relaxed(self.arcs, self.rest)
        self.bound = float(best.real)
        self.least_ms = float(best.imag) if np.iscomplexobj(best) else self.bound
        self.rest_value = self.rest.real.min(axis=1)
        grid = tuple(np.ogrid[: tables.end + 1, : tables.end + 1, : len(tables.places)])
        names: tuple[Objective, ...] = ("latency", "throughput", "energy", "bytes")
        self.ways = [
            (move_name(tables, r, s), s, [Arcs(tables, name).travel(r, s, *grid).real for name in names])
            for s in range(len(tables.codecs))
            for r in range(len(tables.transports))
        ]
        self.kept: defaultdict[tuple[int, int], list[Floats]] = defaultdict(list)
        wholes = np.maximum(tables.ms[:, 0, tables.last], 1e-12)
        shared = (pieces_ms(tables) / wholes[:, None]).min(axis=0)
        self.speeds = 1 / wholes
        self.work = np.concatenate([np.cumsum(shared[::-1])[::-1], [0.0]])
        if objective == "throughput":
            self.bound = max(self.bound, float(self.work[0] / self.speeds.sum()))

    def reached(self, option: Option) -> bool:
        """Whether a chain costs no more than any may, and of those takes least time."""
        value, latency, _ = rank(option, self.objective)
        return value <= self.bound * (1 + 1e-9) and latency <= self.least_ms * (1 + 1e-9)

    def shortest(self) -> Option | None:
        """The chain that costs least if nothing adds up and all fits; None if there is none."""
        stops = [0, *(stop for _, stop, _ in self._steps)]
        split = [(device, start, stop) for (device, stop, _), start in zip(self._steps, stops, strict=False)]
        paths = [split] if self.tables.wants.at is not None else [_joined(split), split]
        options = [self._shortest(path) for path in paths if 0 < len(path) <= self.most]
        # With another number of threads two ranges in a row may be faster than one.
        return min(options, key=lambda option: float(f"{option.costs.latency_ms:.12g}"), default=None)

    def _shortest(self, path: list[tuple[int, int, int]]) -> Option:
        t = self.tables
        ends = [t.end, *(device for device, _, _ in path), t.end]
        places = [*(start for _, start, _ in path), t.last]
        moves = [self.arcs.move(ends[i], ends[i + 1], place) for i, place in enumerate(places)]
        return self._option(tuple(path), tuple(moves))

    def _option(self, path: tuple[tuple[int, int, int], ...], moves: tuple[Move, ...]) -> Option:
        t, stages = self.tables, []
        for device, start, stop in path:
            names: tuple[NodeName, ...] = (t.devices[device],)
            bounds = t.places[start], t.places[stop]
            threads = best_threads(t.costs, names, *bounds) if t.wants.choose_threads else 0
            stages.append(StageChoice(*bounds, names, threads))
        chain = Chain(tuple(stages), moves)
        return Option(chain, t.costs.evaluate(chain).costs)

    def run(self) -> None:
        """Look at all chains that may be better than what is known."""
        t = self.tables
        zeros = np.zeros(t.end)
        self._visit(Partial(t.end, 0, 0.0, 0.0, 0.0, zeros, np.zeros((t.end + 1,) * 2), zeros))

    def _visit(self, partial: Partial) -> None:
        t = self.tables
        if self.left <= 0 or self._dominated(partial):
            return
        if partial.place == t.last:
            for ended in self._moved(partial, t.end):
                option = self._option(ended.path, ended.moves)
                self.pool.add([option])
            return
        if len(partial.path) >= self.most:
            return
        following = range(t.end) if self.order is None else (self.order[len(partial.path)],)
        children = [
            child
            for device in following
            for moved in self._moved(partial, device)
            for child in self._staged(moved)
        ]
        for bound, latency, child in sorted(children, key=lambda entry: entry[:2]):
            if self._hopeful(bound, latency, child):
                self._visit(child)

    def _dominated(self, partial: Partial) -> bool:
        figures = partial.figures
        known = self.kept[partial.device, partial.place]
        if any((other <= figures).all() for other in known):
            return True
        if len(known) < _KEPT:
            known.append(figures)
        return False

    def _moved(self, partial: Partial, target: int) -> Iterator[Partial]:
        """All ways to send a partial chain's answer to an end."""
        t, source, place = self.tables, partial.device, partial.place
        if t.free[source, target]:
            yield replace(partial, device=target, moves=(*partial.moves, Move()))
            return
        if source == target:
            return
        for move, s, (taken, occupied, joules, metered) in self.ways:
            spot = (source, target, place)
            encode = t.encode[source, s, place] if source < t.end else 0.0
            decode = t.decode[target, s, place] if target < t.end else 0.0
            latency = partial.latency + taken[spot] + encode + decode
            if not math.isfinite(latency):
                continue
            busy, links, energy = partial.busy.copy(), partial.links.copy(), partial.energy + joules[spot]
            if source < t.end:
                busy[source] += encode
                energy += t.watts[source] * encode / 1000
            if target < t.end:
                busy[target] += decode
                energy += t.watts[target] * decode / 1000
            links[source, target] += occupied[spot]
            yield replace(
                partial,
                device=target,
                latency=float(latency),
                energy=float(energy),
                metered=partial.metered + float(metered[spot]),
                busy=busy,
                links=links,
                moves=(*partial.moves, move),
            )

    def _staged(self, moved: Partial) -> Iterator[tuple[float, float, Partial]]:
        """All next stages on the device where a chain has arrived, with bounds of what they lead to."""
        t, device, place = self.tables, moved.device, moved.place
        allowed = t.stages[place] & (moved.memory[device] + t.size[device, place] <= t.limit[device])
        if not moved.path:
            allowed = allowed & t.firsts[device]
        for stop in np.flatnonzero(allowed):
            ms = float(t.ms[device, place, stop])
            busy, memory = moved.busy.copy(), moved.memory.copy()
            busy[device] += ms
            memory[device] += t.size[device, place, stop]
            child = replace(
                moved,
                place=int(stop),
                latency=moved.latency + ms,
                energy=moved.energy + float(t.watts[device]) * ms / 1000,
                busy=busy,
                memory=memory,
                path=(*moved.path, (device, place, int(stop))),
            )
            self.left -= 1
            bound, latency = self._bounds(child)
            if self._hopeful(bound, latency, child):
                yield bound, latency, child

    def _bounds(self, child: Partial) -> tuple[float, float]:
        """What the objective and the latency of all chains that begin so are at least."""
        latency = child.latency + float(self.rest_ms[child.device, child.place])
        value, rest = child.value(self.objective), float(self.rest_value[child.device, child.place])
        if self.arcs.add:
            return value + rest, latency
        if self.objective == "throughput":
            shared = float((child.busy * self.speeds).sum() + self.work[child.place]) / float(
                self.speeds.sum()
            )
            return max(value, rest, shared), latency
        return max(value, rest), latency

    def _hopeful(self, bound: float, latency: float, child: Partial) -> bool:
        """Whether a chain may still be better than the best that is known."""
        if not math.isfinite(bound) or latency > self.pool.deadline_ms * (1 + SLACK):
            return False
        if self.pool.leader is None:
            return True
        value, fastest, stages = rank(self.pool.leader, self.objective)
        if bound > value * (1 + SLACK):
            return False
        if bound < value * (1 - SLACK):
            return True
        if latency < fastest * (1 - SLACK):
            return True
        fewest = len(child.path) + (child.place != self.tables.last)
        return latency <= fastest * (1 + SLACK) and fewest < stages
