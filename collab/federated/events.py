"""What happens to the server of a federated run; each is given to `Rounds.handle` with the time.

``client`` is always who the link says it is, never what a message says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

from collab.core.ids import Digest
from collab.federated.orders import Capabilities, OrderId, UpdateRef


@dataclass(frozen=True, slots=True)
class Joined:
    """A client is connected; also when what it says of itself has changed, or it came back."""

    client: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Left:
    """A client's link is gone.  Its order stays open until its deadline: it may come back and go on."""

    client: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A client takes an offer and wants the model."""

    client: str
    order: OrderId


@dataclass(frozen=True, slots=True)
class Declined:
    """A client does not take an offer; the reason is its policy's."""

    client: str
    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A client has the model of its order (answers `Send`)."""

    client: str
    order: OrderId
    bytes: int


@dataclass(frozen=True, slots=True)
class Announced:
    """A client has an update ready to be fetched."""

    client: str
    order: OrderId
    digest: Digest
    bytes: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """An update is in the blob store, durably, and passed the gate (answers `Fetch`)."""

    client: str
    order: OrderId
    update: UpdateRef


@dataclass(frozen=True, slots=True)
class Refused:
    """The gate refused an update (answers `Fetch`)."""

    client: str
    order: OrderId
    field: str
    """What is wrong, such as ``samples`` or a tensor's name."""
    reason: str
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """An order came to nothing: the client's training failed, or a step towards it did for good.

    Not for a lost link (`Left`).
    """

    client: str
    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Agreed:
    """The phases of secure aggregation before training are done (answers `Agree`)."""

    round: int
    clients: tuple[str, ...]
    """Those who hold keys now; the rest of the cohort is out."""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Summed:
    """The sum of a round's masked updates is in the blob store, durably (answers `Sum`)."""

    round: int
    total: Digest


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The next model and what goes with it are in the blob store, durably (answers `Aggregate`)."""

    round: int
    model: Digest
    model_bytes: int
    state: Digest | None = None
    """Of the server's optimizer, and whatever else the next round's aggregation begins with."""
    control: Digest | None = None
    """The server's control variate (SCAFFOLD), for `Work.control`."""
    metrics: Mapping[str, float] | None = None
    """For the record, such as ``epsilon``."""


@dataclass(frozen=True, slots=True)
class AggregationFailed:
    """There is no next model (answers `Agree`, `Sum` or `Aggregate`); as if it lacked its quorum."""

    round: int
    reason: str
    attempt: int = 0
    """Of `Agree`."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One of those asked by `Evaluate` has answered; ``client`` is empty for the server's own data."""

    round: int
    client: str
    samples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationFailed:
    """One of those asked by `Evaluate` will not answer."""

    round: int
    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class Persisted:
    """A step is durable (answers `Persist`); steps are answered in their order."""

    step: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at `Rounds.wake_at`, harmless at any other time."""


@dataclass(frozen=True, slots=True)
class Released:
    """An operator takes a client out of quarantine."""

    client: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """End now, so that the run can be resumed."""


ClientEvent = Union[Joined, Left, Accepted, Declined, Sent, Announced, Arrived, Refused, Failed]
"""What is about one client and its order."""

Event = Union[
    ClientEvent,
    Agreed,
    Summed,
    Aggregated,
    AggregationFailed,
    Evaluated,
    EvaluationFailed,
    Persisted,
    Tick,
    Released,
    StopAsked,
]
