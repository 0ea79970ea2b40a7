"""One record for each round: a line of JSON in ``rounds.jsonl``, for ``fed status`` and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Union

from collab.core.ids import Digest
from collab.core.plan import Frozen


class Behind(Frozen, frozen=True, kw_only=True):
    """A client behind a gateway, as the gateway tells of it."""

    client: str
    """Its name; its address where the gateway has not reached it."""
    kind: Literal["counted", "declined", "failed", "refused", "late"]
    samples: int = 0
    loss: float | None = None
    seconds: float = 0.0
    """Of training, on its own clock."""
    reason: str = ""
    field: str = ""


class TookPart(Frozen, frozen=True, kw_only=True):
    """A client whose update is in the round's model."""

    client: str
    samples: int
    loss: float | None = None
    seconds: float = 0.0
    """Of training, on its own clock."""
    down_bytes: int = 0
    up_bytes: int = 0
    staleness: int = 0
    children: tuple[Behind, ...] = ()
    """Of a gateway: those whose updates are in its sum, and those that it left out."""


class LeftOut(Frozen, frozen=True, kw_only=True):
    """A client that was asked and whose update is not in the round's model."""

    client: str
    kind: Literal["declined", "failed", "refused", "late", "skipped"]
    reason: str
    field: str = ""


class Swap(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """What came of putting a round's model into the plan that runs."""

    round: int
    swapped: bool
    reason: str
    """Why it was, or was not."""
    epoch: int = 0
    """Of the plan that runs now; 0 where that is not known."""
    former: int = 0
    """The round whose model ran before; 0: the one that the plan was made with."""
    metric: str = ""
    """What both models were compared by."""
    running: Union[float, None] = None
    candidate: Union[float, None] = None
    samples: int = 0
    """Held-out examples behind both."""
    agreement: Union[float, None] = None
    """Share of them of which both models say the same; null where only clients looked."""
    requests: int = 0
    """Answers over the nodes that were compared."""
    running_ms: Union[float, None] = None
    """Median latency of the plan that ran, asked in turn with the new stages."""
    candidate_ms: Union[float, None] = None
    seconds: float = 0.0
    """From the model's being durable to its plan's being current, or to the refusal."""


class RoundRecord(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """What came of one round."""

    round: int
    outcome: Literal["made", "skipped"]
    model: Digest
    """After the round."""
    seconds: float
    """From opening to the durable model, evaluation not included; since the last resume only."""
    aggregation_s: float = 0.0
    loss: float | None = None
    """Of local training: mean of the clients', weighted by samples."""
    samples: int = 0
    down_bytes: int = 0
    up_bytes: int = 0
    took_part: tuple[TookPart, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    quarantined: tuple[str, ...] = ()
    """Clients that are left out of the next round."""
    present: int = 0
    """Clients that were connected when it closed."""
    evaluation: Mapping[str, float] = {}
    """``loss``, ``accuracy``, ``samples``: means over who evaluated, weighted by samples; empty: not due."""
    metrics: Mapping[str, float] = {}
    """Of aggregation, such as ``epsilon``."""
    reason: str = ""
    """Why it was skipped."""
    extensions: int = 0
    resumed: int = 0
    """Times that the server was started again during it."""
    swap: Union[Swap, None] = None
    """What came of deploying its model; null where that was not due."""
