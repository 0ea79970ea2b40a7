"""What the server of a federated run is to do; `Rounds.handle` returns them in order.

Whoever performs them tells the outcome by an event of `collab.federated.events`.  Actions
may be repeated after a resume, and all of them can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from collab.core.ids import Digest
from collab.federated.entries import Counted, Entry
from collab.federated.orders import OrderId, Work
from collab.federated.records import RoundRecord


@dataclass(frozen=True, slots=True)
class Persist:
    """Append an entry to the journal, durably, then tell by `Persisted`; in the order of their steps.

    Blobs that the entry names are durable already.
    """

    step: int
    entry: Entry
    compact: bool = False
    """The journal may be replaced by `Rounds.snapshot` once the step was told."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Ask a client to train: `Accepted`, `Declined` or `Announced` (it is done already).

    Repeated when a client comes back; it then goes on where it was.
    """

    client: str
    order: OrderId
    work: Work


@dataclass(frozen=True, slots=True)
class Send:
    """Give a client the model of its order: `Sent` or `Failed`."""

    client: str
    order: OrderId
    model: Digest
    control: Digest | None = None
    holds: tuple[Digest, ...] = ()
    """Models that it has; the broadcast may be a delta to one, or nothing at all."""


@dataclass(frozen=True, slots=True)
class Agree:
    """Run the phases of secure aggregation that come before training: `Agreed` or `AggregationFailed`."""

    round: int
    clients: tuple[str, ...]
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Sum:
    """Open the sum of the masked updates of these clients, and no others: `Summed` or `AggregationFailed`."""

    round: int
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch an update into the blob store, check its digest, and gate it: `Arrived`, `Refused` or `Failed`.

    A download that was begun goes on where it ended.
    """

    client: str
    order: OrderId
    digest: Digest
    bytes: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell a client that its update is durable here, or never will be counted; it may forget it."""

    client: str
    order: OrderId
    counted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell a client to stop what an order asked for."""

    client: str
    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make the next model: `Aggregated` or `AggregationFailed`.

    The same arguments give the same bits; updates are sorted by client and order.
    """

    round: int
    model: Digest
    state: Digest | None
    control: Digest | None
    updates: tuple[Counted, ...]
    expected: int = 0
    """Updates that the round wanted."""
    total: Digest | None = None
    """Their sum where they were masked; there are no single ones then."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate a round's model: `Evaluated` or `EvaluationFailed` for each."""

    round: int
    model: Digest
    clients: tuple[str, ...]
    """Who is asked; empty: the server, on data of its own."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Blobs that are still needed; others may be dropped, but for those that are being put just now."""

    digests: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Record:
    """Write a round's record; one of the same round replaces it."""

    record: RoundRecord


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people, in one line."""

    kind: Literal[
        "round", "refused", "quarantined", "returned", "late", "lack", "waiting", "failed", "warning", "swap"
    ]
    text: str
    client: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over; nothing follows.  ``exit_code`` is the command's."""

    outcome: Literal["done", "failed", "stopped", "spent"]
    exit_code: int
    reason: str
    model: Digest
    rounds: int
    """Models that were made."""


Action = Union[
    Persist,
    Offer,
    Send,
    Agree,
    Sum,
    Fetch,
    Acknowledge,
    Cancel,
    Aggregate,
    Evaluate,
    Keep,
    Record,
    Notify,
    Finish,
]
