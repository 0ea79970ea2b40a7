"""What the server's journal holds: each entry is one step that a resumed run must not take otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Union

from collab.core.ids import Digest
from collab.core.plan import Frozen
from collab.federated.orders import OrderId
from collab.federated.records import Behind, RoundRecord

Out = Literal["declined", "failed", "refused", "late"]
"""Why an order came to nothing."""


class Started(Frozen, frozen=True, kw_only=True, tag="started"):
    """A run begins; the first entry."""

    run: str
    task: Digest
    """Of the task file: another one cannot resume the run."""
    model: Digest
    """The initial weights."""
    model_bytes: int = 0
    control: Digest | None = None
    """The server's first control variate, zeros (SCAFFOLD)."""


class Resumed(Frozen, frozen=True, kw_only=True, tag="resumed"):
    """The server was started again."""


class Asked(Frozen, frozen=True, kw_only=True, tag="asked"):
    """Clients were chosen; the first of a round opens it."""

    round: int
    attempt: int
    clients: tuple[str, ...]
    wanted: int
    """Updates that close the round."""
    quorum: int
    """Updates without which it makes no model."""
    present: int = 0
    """Clients that were connected."""


class Counted(Frozen, frozen=True, kw_only=True, tag="counted"):
    """An update is in; it is counted once, in the round that gathers now."""

    client: str
    order: OrderId
    digest: Digest
    samples: int
    norm: float
    loss: float | None
    seconds: float
    down_bytes: int
    up_bytes: int
    staleness: int = 0
    """Rounds between its order's and the one that it is counted in; the ledger fills it in."""
    children: tuple[Behind, ...] = ()
    """Of a gateway's sum."""


class Dropped(Frozen, frozen=True, kw_only=True, tag="dropped"):
    """An order came to nothing."""

    client: str
    order: OrderId
    kind: Out
    reason: str
    field: str = ""
    down_bytes: int = 0
    up_bytes: int = 0
    quarantined: int | None = None
    """The client is left out until this round, -1 until it is released; None: it is not."""


class Extended(Frozen, frozen=True, kw_only=True, tag="extended"):
    """A round lacked its quorum at its deadline and goes on."""

    round: int


class Skipped(Frozen, frozen=True, kw_only=True, tag="skipped"):
    """A round lacked its quorum and leaves the model as it was."""

    round: int
    reason: str
    present: int
    """Clients that were connected."""
    seconds: float
    drop_open: bool = False
    """Orders that are open are late and over."""


class Restarted(Frozen, frozen=True, kw_only=True, tag="restarted"):
    """A round under secure aggregation begins anew, under another attempt and with other masks."""

    round: int
    reason: str = ""
    """What it lacked; empty: its masks were lost with the server that knew them."""


class Closed(Frozen, frozen=True, kw_only=True, tag="closed"):
    """A round takes no more updates; what was counted so far makes its model."""

    round: int
    present: int
    seconds: float
    """Since it was opened, in this incarnation of the server."""
    extensions: int = 0
    drop_open: bool = False
    """Orders that are open are late and over."""
    at_deadline: bool = False
    """Not since all that were wanted had come."""
    open_bytes: int = 0
    """Sent for orders that are open."""
    wanted: int = 0
    """Updates that were expected."""


class Summed(Frozen, frozen=True, kw_only=True, tag="summed"):
    """The sum of a closed round's masked updates is opened, and durable."""

    round: int
    total: Digest


class Made(Frozen, frozen=True, kw_only=True, tag="made"):
    """A round's model is durable."""

    round: int
    model: Digest
    model_bytes: int
    state: Digest | None
    control: Digest | None
    seconds: float
    """Of aggregation."""
    metrics: Mapping[str, float] = {}


class Recorded(Frozen, frozen=True, kw_only=True, tag="recorded"):
    """A round is over, evaluation included."""

    record: RoundRecord


class Let(Frozen, frozen=True, kw_only=True, tag="let"):
    """A client was taken out of quarantine by hand."""

    client: str


class Finished(Frozen, frozen=True, kw_only=True, tag="finished"):
    """The run is over and cannot be resumed."""

    outcome: Literal["done", "failed", "spent"]
    exit_code: int
    reason: str


Entry = Union[
    Started,
    Resumed,
    Asked,
    Counted,
    Dropped,
    Extended,
    Skipped,
    Restarted,
    Closed,
    Summed,
    Made,
    Recorded,
    Let,
    Finished,
]
