"""What stages and moves cost under one objective, with the ways to move reduced to the useful ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.planner.chains import Move, Objective
from collab.planner.tables import Bools, Floats, Tables, move_name

Costs = NDArray[np.inexact]
"""Real, or complex with the latency as the imaginary part: numpy orders and adds those as pairs."""

Spots = NDArray[np.int64]

SLACK = 1e-12
"""Share by which a limit may be passed, for sums that were rounded in another order."""


@dataclass(frozen=True)
class Limits:
    """What no node or link of a chain may pass."""

    busy_ms: float = math.inf
    memory_bytes: float = math.inf
    ignore_memory: bool = False
    """Whether stages may be larger than their devices: tells why nothing is possible."""


@dataclass(frozen=True, eq=False)
class Arcs:
    """Costs of stages and moves under an objective.

    A chain costs their sum, or the largest of them.  Codecs are states where the time of
    encoding and decoding counts for what a node is busy; else each move takes its
    cheapest way and there is one state.
    """

    tables: Tables
    objective: Objective
    limits: Limits = Limits()
    prices: Floats | None = None
    """(d,): what each stage on a device costs besides, for bounds; only where costs add up."""
    memory: dict[object, Any] = field(default_factory=dict)
    """What is worked out once and used again."""

    @property
    def add(self) -> bool:
        """Whether costs add up; else the largest counts."""
        return self.objective not in ("throughput", "memory")

    @property
    def count(self) -> int:
        """Number of devices, or of groups of them: the end behind them is the requester."""
        return self.tables.end

    @property
    def firsts(self) -> Bools:
        """(d, p): where the first stage may be and end."""
        return self.tables.firsts

    @property
    def separable(self) -> bool:
        """Whether a stage's costs may be differences of totals."""
        return self.add and not self.coupled

    @property
    def coupled(self) -> bool:
        """Whether codecs are states."""
        busy = self.objective == "throughput" or self.limits.busy_ms < math.inf
        return busy and len(self.tables.codecs) > 1

    @property
    def states(self) -> int:
        """Number of states that a boundary may have."""
        return len(self.tables.codecs) if self.coupled else 1

    @property
    def infinite(self) -> complex:
        """What stands for impossible."""
        return complex(math.inf, math.inf) if self.objective in ("energy", "bytes") else math.inf

    def join(self, a: Costs, b: Costs) -> Costs:
        """Costs of both."""
        joined: Costs = np.add(a, b) if self.add else np.maximum(a, b)
        return joined

    @cached_property
    def base(self) -> Costs:
        """(d, p, p): costs of stages without codecs."""
        t, limits = self.tables, self.limits
        allowed = t.stages[None] & (t.size <= limits.memory_bytes * (1 + SLACK))
        if not limits.ignore_memory:
            allowed = allowed & (t.size <= t.limit[:, None, None])
        if not self.coupled:
            allowed = allowed & (t.ms <= limits.busy_ms * (1 + SLACK))
        costs = self.stage_costs if self.prices is None else self.stage_costs + self.prices[:, None, None]
        return np.where(allowed, costs, self.infinite)

    @cached_property
    def stage_costs(self) -> Costs:
        """(d, p, p): costs of stages without codecs and without limits; of no use below the diagonal."""
        t = self.tables
        if self.objective == "memory":
            # Bytes that are missing, where devices may be too small.
            return t.size - t.limit[:, None, None] if self.limits.ignore_memory else t.size
        return self._work(t.ms, t.watts[:, None, None])

    def _work(self, ms: Floats, watts: Floats) -> Costs:
        """Costs of computing for a time."""
        if self.objective == "memory":
            return np.where(np.isfinite(ms), 0.0, math.inf)
        if self.objective == "energy":
            with np.errstate(invalid="ignore"):
                return _pair(np.where(np.isfinite(ms), watts * ms / 1000, math.inf), ms)
        if self.objective == "bytes":
            return _pair(np.where(np.isfinite(ms), 0.0, math.inf), ms)
        return ms

    def stage(self, device: int) -> Costs:
        """(s, s, p, p): costs of a device's stages by the states of what comes and goes."""
        return self._with_codecs(
            self.base[device], self.tables.ms[device], self.tables.decode[device], self.tables.encode[device]
        )

    def stages_from(self, place: int) -> Costs:
        """(d, s, s, p): costs of all devices' stages that start at a place."""
        t = self.tables
        return self._with_codecs(
            self.base[:, place : place + 1],
            t.ms[:, place : place + 1],
            t.decode[:, :, place : place + 1],
            t.encode,
        )[:, :, :, 0]

    def _with_codecs(self, base: Costs, ms: Floats, decode: Floats, encode: Floats) -> Costs:
        if not self.coupled:
            return base[..., None, None, :, :]
        busy = decode[..., :, None, :, None] + ms[..., None, None, :, :] + encode[..., None, :, None, :]
        cost = busy if self.objective == "throughput" else base[..., None, None, :, :]
        possible = np.isfinite(base)[..., None, None, :, :] & (busy <= self.limits.busy_ms * (1 + SLACK))
        return np.where(possible, cost, self.infinite)

    @cached_property
    def moves(self) -> Costs:
        """(s, e, e, p): costs of the best way to move what crosses a place."""
        t = self.tables
        ends, count = t.end + 1, len(t.places)
        grid = tuple(np.ogrid[:ends, :ends, :count])
        found: list[Costs] = []
        for s in range(len(t.codecs)):
            ways = [self.way(r, s, *grid) for r in range(len(t.transports))]
            found.append(np.minimum.reduce(ways))
        return np.array(found) if self.coupled else np.minimum.reduce(found)[None]

    def move(self, source: int, target: int, place: int, state: int | None = None) -> Move:
        """The way that `moves` took; plain where nothing has to move."""
        if self.tables.free[source, target]:
            return Move()
        spots = tuple(np.array(i) for i in (source, target, place))
        codecs = range(len(self.tables.codecs)) if state is None else (state,)
        ways = [(r, s) for s in codecs for r in range(len(self.tables.transports))]
        if len(ways) == 1:
            return move_name(self.tables, *ways[0])
        costs = [self.way(r, s, *spots) for r, s in ways]
        if all(np.isinf(cost.real).all() for cost in costs):
            return Move()
        return move_name(self.tables, *ways[int(np.argmin(np.array(costs)))])

    def way(self, r: int, s: int, e: Spots, d: Spots, p: Spots) -> Costs:
        """Costs of moving by one transport and codec, at open grids of ends and places."""
        cost = self.travel(r, s, e, d, p)
        cost = cost + self._coding(self.tables.encode, s, e, p) + self._coding(self.tables.decode, s, d, p)
        return np.where(self.tables.free[e, d], 0.0, cost) if s == 0 else cost

    def travel(self, r: int, s: int, e: Spots, d: Spots, p: Spots) -> Costs:
        """The same without encoding and decoding on devices."""
        t = self.tables
        delay, sent = t.delay[r][e, d], t.sent[s][p]
        possible = np.isfinite(delay) & np.isfinite(sent)
        sent = np.where(np.isfinite(sent), sent, 0.0)
        occupied = t.rate[r][e, d] * sent
        possible = possible & (occupied <= self.limits.busy_ms * (1 + SLACK))
        # The requester's own part of a codec belongs to no stage.
        own = np.where((e == t.end) & (p == 0), t.giver[0][s], 0.0)
        own = own + np.where((d == t.end) & (p == t.last), t.giver[1][s], 0.0)
        taken = np.where(possible, delay, math.inf) + occupied + own
        return self._travel(taken, occupied, t.joules[r][e, d] * sent, t.metered[r][e, d] * sent)

    def _travel(self, taken: Floats, occupied: Floats, joules: Floats, metered: Floats) -> Costs:
        possible = np.isfinite(taken)
        if self.objective == "latency":
            return taken
        if self.objective in ("energy", "bytes"):
            figure = joules if self.objective == "energy" else metered
            return _pair(np.where(possible, figure, math.inf), taken)
        return np.where(possible, occupied if self.objective == "throughput" else 0.0, math.inf)

    def _coding(self, table: Floats, s: int, end: Spots, place: Spots) -> Costs:
        """What encoding or decoding adds to a move; the requester's part is in the move's time."""
        requester = end == self.tables.end
        known = np.where(requester, 0, end)
        times = np.where(requester, 0.0, table[known, s, place])
        if self.objective == "throughput":
            return np.where(np.isfinite(times), 0.0, math.inf)
        return self._work(times, np.where(requester, 0.0, self.tables.watts[known]))


def _pair(first: Floats, second: Floats) -> Costs:
    pair = np.empty(np.broadcast_shapes(first.shape, second.shape), complex)
    pair.real, pair.imag = first, second
    # Impossible in one is impossible in both, or it would not compare so.
    pair[np.isinf(pair.imag)] = complex(math.inf, math.inf)
    return pair


def possible_values(arcs: Arcs) -> Floats:
    """Everything that a maximum can be, ascending."""
    parts = [arcs.stage(device).ravel() for device in range(arcs.tables.end)]
    values = np.unique(np.concatenate([*parts, arcs.moves.ravel()]).real)
    finite: Floats = values[np.isfinite(values)]
    return finite
