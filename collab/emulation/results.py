"""What a run of a scenario gave, emulated or simulated: one structure for files, plots and reports."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["simulated", "emulated"]


class HopTime(msgspec.Struct, frozen=True, gc=False):
    """Work of one stage for one request."""

    stage: str
    node: str
    queue_ms: float
    decode_ms: float
    compute_ms: float
    encode_ms: float

    @property
    def total_ms(self) -> float:
        """Time in the node."""
        return self.queue_ms + self.decode_ms + self.compute_ms + self.encode_ms


class Asking(msgspec.Struct, frozen=True, gc=False):
    """One request and what came of it."""

    plan: str
    repetition: int
    request: int
    """Number in its run, in the order of starts."""
    requester: str
    start_ms: float
    """From the begin of its run."""
    latency_ms: float
    """Until it was answered or failed."""
    outcome: str
    """``ok``, ``absent``, or the code of the error."""
    attempts: int
    hedged: bool
    path: tuple[str, ...]
    """The node of each stage."""
    hops: tuple[HopTime, ...]
    """The critical path."""

    @property
    def answered(self) -> bool:
        """Whether there is an answer, be it that a plan kept its value back."""
        return self.outcome in ("ok", "absent")

    @property
    def wire_ms(self) -> float:
        """What the hops do not explain."""
        return max(0.0, self.latency_ms - sum(hop.total_ms for hop in self.hops))


class Carried(msgspec.Struct, frozen=True, gc=False):
    """What one direction of a link carried in one run."""

    plan: str
    repetition: int
    leg: str
    packets: int
    bytes: int
    dropped: dict[str, int]
    """Packets by reason."""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Something that happened at a time of every run."""

    at_ms: float
    text: str
    kind: Literal["fault", "link"]


class PlanRun(msgspec.Struct, frozen=True):
    """A plan that was run."""

    name: str
    stages: tuple[str, ...]
    nodes: tuple[tuple[str, ...], ...]
    predicted_ms: float | None = None
    bottleneck_ms: float | None = None
    predicted_stages_ms: tuple[float, ...] = ()


class Results(msgspec.Struct, frozen=True):
    """A whole run: every plan, every repetition."""

    scenario: str
    kind: Kind
    seed: int
    plans: tuple[PlanRun, ...]
    deadline_ms: float
    askings: tuple[Asking, ...]
    """Those of the warm-up left out."""
    carried: tuple[Carried, ...] = ()
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()
    """What whoever reads the figures must know, such as that the host was overloaded."""
    partial: bool = False
    """Whether it was stopped before its end."""

    def of(self, plan: str) -> tuple[Asking, ...]:
        """Requests of one plan."""
        return tuple(asking for asking in self.askings if asking.plan == plan)
