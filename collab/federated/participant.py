"""A client's side of federated rounds: events in, actions out, no I/O and no clock.

One order at a time.  Whatever the server repeats, an order is trained once: the update that
was made is announced again.  What training changes on the client (error feedback, control
variate) is staged with the update, and becomes the client's own only when the server has
said that the update was counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from collab.core.ids import Digest
from collab.core.plan import Frozen
from collab.federated.orders import OrderId, Work

Phase = Literal["idle", "fetching", "training", "uploading", "done"]


class Standing(Frozen, frozen=True, kw_only=True):
    """What a client keeps over a restart: the last update that it made."""

    order: OrderId
    digest: Digest
    """Of the encoded update, in the client's blob store."""
    bytes: int
    settled: bool = False
    """The server has said what became of it."""


# --- events -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """The server asks for training."""

    order: OrderId
    work: Work
    refusal: str = ""
    """Why the device's policy or budget forbids it now; empty: it does not."""


@dataclass(frozen=True, slots=True)
class ModelCame:
    """The weights that an order begins with are here, and checked."""

    order: OrderId


@dataclass(frozen=True, slots=True)
class Finished:
    """Training is over: the encoded update and the staged state are durable (answers `Train`)."""

    order: OrderId
    digest: Digest
    bytes: int


@dataclass(frozen=True, slots=True)
class Broke:
    """Training failed, or ran over its budget (answers `Train`)."""

    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The server says what became of an update."""

    order: OrderId
    counted: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The server, or this device's policy, wants an order no more."""

    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at `Participant.wake_at`."""


ClientEvent = Union[Offered, ModelCame, Finished, Broke, Acknowledged, Cancelled, Tick]

# --- actions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Tell the server to send the model."""

    order: OrderId


@dataclass(frozen=True, slots=True)
class Decline:
    """Tell the server that this order will not be done."""

    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Train:
    """Train, once whatever `Stop` has ended has ended: `Finished` or `Broke`."""

    order: OrderId
    work: Work


@dataclass(frozen=True, slots=True)
class Stop:
    """End training of an order between two steps, and forget what it has staged."""

    order: OrderId


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the server that an update can be fetched."""

    order: OrderId
    digest: Digest
    bytes: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the server that an order failed here."""

    order: OrderId
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Make the state that was staged with an update the client's own, or forget it; harmless twice."""

    order: OrderId
    keep: bool


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this over a restart, durably and whole or not at all."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Free:
    """The encoded update is needed no more."""

    digest: Digest


ClientAction = Union[Accept, Decline, Train, Stop, Announce, Tell, Settle, Remember, Free]

# --- the machine --------------------------------------------------------------------

TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    ("idle", "accept"): "fetching",
    ("done", "accept"): "fetching",
    ("uploading", "accept"): "fetching",
    ("fetching", "accept"): "fetching",
    ("training", "accept"): "fetching",
    ("fetching", "model"): "training",
    ("training", "finished"): "uploading",
    ("training", "broke"): "idle",
    ("uploading", "acknowledged"): "done",
    ("fetching", "cancel"): "idle",
    ("training", "cancel"): "idle",
    ("uploading", "cancel"): "done",
}
"""Where each step leads; a step that is not here is not taken in that phase."""


class Participant:
    """One client in federated runs of one server.

    Args:
        standing: What `Remember` kept before a restart.
    """

    def __init__(self, standing: Standing | None = None) -> None:
        self.phase: Phase = "idle"
        self._work: Work | None = None
        self._order: OrderId | None = None
        self._standing = standing
        self._expires: float | None = None
        if standing is not None:
            self._order = standing.order
            self.phase = "done" if standing.settled else "uploading"

    @property
    def order(self) -> OrderId | None:
        """The last order that was taken."""
        return self._order

    @property
    def wake_at(self) -> float | None:
        """When a `Tick` is due."""
        return self._expires

    def handle(self, event: ClientEvent, now: float) -> list[ClientAction]:
        """Take one event; what is to be done, in order."""
        if isinstance(event, Offered):
            return self._offered(event, now)
        if isinstance(event, Tick):
            return self._expire(now)
        if event.order != self._order:
            return []  # of an order that is over, or of another server's
        if isinstance(event, ModelCame):
            return self._train()
        if isinstance(event, Finished):
            return self._finished(event)
        if isinstance(event, Broke):
            return self._broke(event)
        if isinstance(event, Acknowledged):
            return self._acknowledged(event)
        return self._cancelled()

    def _step(self, name: str) -> bool:
        following = TRANSITIONS.get((self.phase, name))
        if following is None:
            return False
        self.phase = following
        if following not in ("fetching", "training"):
            self._expires = None
        return True

    def _offered(self, event: Offered, now: float) -> list[ClientAction]:
        order = event.order
        if order == self._order and self.phase != "idle":
            return self._repeated(event)
        if self._is_old(order):
            return [Decline(order, f"round {order.round} is over here")]
        if self.phase in ("fetching", "training") and self._order and order.run != self._order.run:
            return [Decline(order, f"busy with run {self._order.run}")]
        if event.refusal:
            return [Decline(order, event.refusal)]
        actions = self._leave(event.work.counted)
        self._step("accept")
        self._order, self._work = order, event.work
        self._expires = now + event.work.deadline_s
        return [*actions, Accept(order)]

    def _is_old(self, order: OrderId) -> bool:
        """Whether an order of the same run comes from before the one that was taken last."""
        return self._order is not None and order.run == self._order.run and order < self._order

    def _repeated(self, event: Offered) -> list[ClientAction]:
        if self.phase == "fetching":
            return [Accept(event.order)]
        if self._standing is not None and self._standing.order == event.order:
            return [Announce(event.order, self._standing.digest, self._standing.bytes)]
        return []  # it trains, and will announce what comes of it

    def _leave(self, counted: OrderId | None) -> list[ClientAction]:
        """End what the client is at, since the server asks for something else."""
        actions: list[ClientAction] = []
        if self._order is not None and self.phase in ("fetching", "training"):
            actions.append(Stop(self._order))
        if self._standing is not None:
            if not self._standing.settled:
                actions.append(Settle(self._standing.order, keep=counted == self._standing.order))
            actions.append(Free(self._standing.digest))
            self._standing = None
        return actions

    def _train(self) -> list[ClientAction]:
        if self._order is None or self._work is None or not self._step("model"):
            return []
        return [Train(self._order, self._work)]

    def _finished(self, event: Finished) -> list[ClientAction]:
        if not self._step("finished"):
            return []
        self._standing = Standing(order=event.order, digest=event.digest, bytes=event.bytes)
        return [Remember(self._standing), Announce(event.order, event.digest, event.bytes)]

    def _broke(self, event: Broke) -> list[ClientAction]:
        return [Tell(event.order, event.reason)] if self._step("broke") else []

    def _acknowledged(self, event: Acknowledged) -> list[ClientAction]:
        return self._settled(event.counted) if self._step("acknowledged") else []

    def _settled(self, counted: bool) -> list[ClientAction]:
        if self._standing is None:
            return []
        old = self._standing
        self._standing = Standing(order=old.order, digest=old.digest, bytes=old.bytes, settled=True)
        return [Settle(old.order, keep=counted), Remember(self._standing)]

    def _cancelled(self) -> list[ClientAction]:
        busy = self.phase in ("fetching", "training")
        if not self._step("cancel") or self._order is None:
            return []
        return [Stop(self._order)] if busy else self._settled(counted=False)

    def _expire(self, now: float) -> list[ClientAction]:
        if self._expires is None or now < self._expires or self._order is None:
            return []
        order = self._order
        return [*self._cancelled(), Tell(order, "its time has passed")]
