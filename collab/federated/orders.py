"""What server and clients of a federated run say to each other, apart from weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from collab.core.decoding import prepare
from collab.core.ids import Digest
from collab.core.plan import Frozen
from collab.federated.aggregate.settings import Aggregation
from collab.federated.gate import GateSettings
from collab.federated.records import Behind
from collab.federated.update import LocalTraining

MAX_HELD_MODELS: Final = 16
"""Models that a client names as held; the newest last."""
MAX_ORDER_S: Final = 7 * 86_400.0
"""Longest that a client works at an order; a round may last longer."""


class OrderId(Frozen, frozen=True, order=True):
    """Names one ask of one client.  It stays the same when the server is killed and resumed.

    An answer that names another run, or an order that is not open, comes from a dead
    incarnation and is never counted.
    """

    run: str
    """Drawn at random when a run begins."""
    round: int
    """The one whose model it begins with is ``round - 1``; the first round is 1, and model 0 the task's."""
    attempt: int = 0
    """Asks of one client in one round differ in it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an order asks for."""

    model: Digest
    """Weights to begin with."""
    training: LocalTraining
    """Its seed is the client's own for this order."""
    deadline_s: float
    """Left until the server stops waiting; the client gives up then."""
    control: Digest | None = None
    """The server's control variate (SCAFFOLD)."""
    counted: OrderId | None = None
    """The client's last order whose update was counted; it may have missed that it was."""
    due_s: float | None = None
    """Left until the round closes if it has its quorum by then; None: only ``deadline_s`` counts."""


class SumRules(Frozen, frozen=True, kw_only=True):
    """What a gateway needs to do a server's part for its children."""

    aggregation: Aggregation = Aggregation()
    gate: GateSettings = GateSettings()
    seed: int = 0
    """Of the task."""


def seed_of(task_seed: int, client: str, order: OrderId, attempt: int = 0) -> int:
    """Of one order's training: the same however often it is repeated, and whoever asks."""
    text = f"{task_seed}/{client}/{order.round}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1


class Capabilities(Frozen, frozen=True, kw_only=True):
    """What a client says of itself when it joins, or when that has changed."""

    samples: int
    """Examples that it enrols with."""
    step_s: float | None = None
    """Measured seconds of a training step; None: not measured yet."""
    down_bytes_s: float | None = None
    """Measured rate of the link from the server; None: not measured yet."""
    up_bytes_s: float | None = None
    rtt_s: float = 0.0
    willing: bool = True
    """Whether its policy lets it train now (idle, charging, unmetered, hours)."""
    reason: str = ""
    """Why not."""
    holds: tuple[Digest, ...] = ()
    """Models of the run that it still has, at most `MAX_HELD_MODELS`; a broadcast may be a delta to one."""


@dataclass(frozen=True, slots=True)
class UpdateRef:
    """An update in the server's blob store; its digest was checked and it passed the gate."""

    digest: Digest
    bytes: int
    """As they came over the wire."""
    samples: int
    """That it was trained on, as the gate let it pass."""
    norm: float = 0.0
    """Of the delta; the gate compares later ones with it, also after a resume."""
    loss: float | None = None
    seconds: float = 0.0
    """Of training, on the client's clock."""
    metrics: Mapping[str, float] | None = None
    children: tuple[Behind, ...] = ()
    """Of a gateway's sum."""


prepare(SumRules)
