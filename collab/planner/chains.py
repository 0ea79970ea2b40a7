"""A placed chain as the planner sees it, and what is wanted of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from collab.core.codecs import RAW, parse_codec
from collab.core.ids import NodeName

Objective = Literal["latency", "throughput", "memory", "energy", "bytes"]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)


@dataclass(frozen=True)
class StageChoice:
    """Operators ``[start, stop)`` on one node or on replicas."""

    start: int
    stop: int
    nodes: tuple[NodeName, ...]
    threads: int = 0
    """0 takes what the device's profile has first."""


@dataclass(frozen=True)
class Move:
    """How a boundary travels."""

    transport: str = "grpc"
    codec: str = RAW


@dataclass(frozen=True)
class Chain:
    """Stages one after another, with a move before each and one behind the last."""

    stages: tuple[StageChoice, ...]
    moves: tuple[Move, ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where the model is cut."""
        return tuple(stage.start for stage in self.stages[1:])


@dataclass(frozen=True)
class Costs:
    """What a chain is predicted to cost; infinite where it is impossible."""

    latency_ms: float
    bottleneck_ms: float
    """Busiest node or directed link for each request: a pipeline gives one answer in this time."""
    memory_bytes: int
    """Of the device that needs most."""
    energy_j: float
    """0 where no device says its watts."""
    metered_bytes: float

    def of(self, objective: Objective) -> float:
        """The figure that an objective makes as small as can be."""
        return {
            "latency": self.latency_ms,
            "throughput": self.bottleneck_ms,
            "memory": float(self.memory_bytes),
            "energy": self.energy_j,
            "bytes": self.metered_bytes,
        }[objective]


@dataclass(frozen=True)
class Wants:
    """What a plan shall be best at, and the rules that it has to keep."""

    objective: Objective = "latency"
    deadline_ms: float | None = None
    """Largest predicted latency."""
    codecs: tuple[str, ...] = (RAW,)
    """Codecs that may be chosen, in full spelling."""
    codec_error: float | None = None
    """Largest error of a codec on any move, as a share of a tensor's range; None allows exact ones alone."""
    transports: tuple[str, ...] = ()
    """Transports that may be chosen; empty: all that the profile's links list."""
    forbidden: frozenset[NodeName] = frozenset()
    """Devices that run nothing."""
    first_on: NodeName | None = None
    """The device that must run the first stage, as where raw input must not leave it."""
    first_ops: int = 0
    """Fewest operators of the first stage."""
    max_replicas: int = 1
    max_stages: int | None = None
    revisit: bool = False
    """Whether a node may hold several ranges."""
    choose_threads: bool = False
    at: tuple[int, ...] | None = None
    """Exactly these cuts."""
    assign: tuple[tuple[NodeName, ...], ...] | None = None
    """Exactly these nodes for the stages."""

    def assigned(self, stages: tuple[tuple[NodeName, ...], ...]) -> Wants:
        """The same with exactly these nodes; what is assigned by hand may repeat nodes and have replicas."""
        names = [name for stage in stages for name in stage]
        return replace(
            self,
            assign=stages,
            revisit=self.revisit or len(set(names)) < len(names),
            max_replicas=max(self.max_replicas, *map(len, stages)),
        )

    def allows(self, codec: str, error: float) -> bool:
        """Whether a codec that adds such an error may be used."""
        return parse_codec(codec).exact or (self.codec_error is not None and error <= self.codec_error)


@dataclass(frozen=True)
class Option:
    """A chain with its costs."""

    chain: Chain
    costs: Costs


@dataclass(frozen=True)
class Solution:
    """The best chain, and how sure that is."""

    best: Option
    runners_up: tuple[Option, ...]
    """The next best with other sets of devices, best first."""
    best_single: Option | None
    """The whole model on the best one device; None where it fits or may run on none."""
    method: str
    """How it was found, for people."""
    bound: float
    """No chain can be better than this in the objective's unit; the best's own figure where it is exact."""

    def gap(self, objective: Objective) -> float:
        """How far the best may be from the optimum, as a share of the best; 0 is exact."""
        value = self.best.costs.of(objective)
        return (value - self.bound) / value if value > 0 else 0.0
