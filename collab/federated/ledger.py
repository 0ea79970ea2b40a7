"""What a federated run's server knows for good: the fold of its journal.

A running server and a resumed one get here by the same entries, so they decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from collab.core.ids import Digest
from collab.errors import IntegrityError
from collab.federated.entries import (
    Asked,
    Closed,
    Counted,
    Dropped,
    Entry,
    Extended,
    Finished,
    Let,
    Made,
    Recorded,
    Restarted,
    Resumed,
    Skipped,
    Started,
    Summed,
)
from collab.federated.orders import OrderId
from collab.federated.records import LeftOut, RoundRecord, TookPart

MAX_LEFT_OUT: Final = 1_000
"""Of a round's record; more are counted as misses only."""


class Ledger(msgspec.Struct, kw_only=True, tag="ledger", forbid_unknown_fields=True):
    """The state of a run.  Only `apply` changes it."""

    run: str = ""
    task: Digest = Digest("")
    model: Digest = Digest("")
    """The newest weights."""
    model_bytes: int = 0
    update_bytes: int = 0
    """Of the last update."""
    state: Digest | None = None
    control: Digest | None = None
    made: int = 0
    """Rounds that are over; ``model`` is what the last one left."""
    round: int = 1
    """The one that gathers updates now."""
    opened: bool = False
    """Whether clients were asked in it."""
    attempt: int = 0
    """Of the last ask in it."""
    wanted: int = 0
    quorum: int = 0
    extensions: int = 0
    asked: dict[str, OrderId] = {}
    """Open orders, one a client at most; of earlier rounds too where late updates count."""
    starts: dict[int, tuple[Digest, Digest | None]] = {}
    """Model and control variate that the orders of a round begin with."""
    tried: set[str] = set()
    """Clients that were asked in this round and are not to be asked again in it."""
    at_work: int = 0
    """Open orders of this round."""
    fresh: int = 0
    """Counted updates that began with the model of this round."""
    counted: list[Counted] = []
    dropped: list[Dropped] = []
    closing: Closed | None = None
    """The round that is closed and has no model yet."""
    gathered: list[Counted] = []
    """Its updates."""
    gathered_dropped: list[Dropped] = []
    total: Digest | None = None
    """The sum of its updates where they were masked."""
    unrecorded: RoundRecord | None = None
    """The record of the last round while its evaluation is open."""
    recorded: RoundRecord | None = None
    """The last record; it may not have been written before a crash."""
    quarantine: dict[str, int] = {}
    """Clients that are left out until a round; -1: until they are released."""
    refusals: dict[str, int] = {}
    """Updates that the gate has refused."""
    misses: dict[str, int] = {}
    """Orders that came to nothing."""
    last_counted: dict[str, tuple[int, int]] = {}
    """Round and attempt of the last order of a client that was counted."""
    present: int = 0
    """Clients that were connected when it was last decided who is asked, or a round closed."""
    resumed: int = 0
    """Starts of the server since the last record."""
    models: int = 0
    """Rounds that have changed the model."""
    evaluation: dict[str, float] = {}
    """The last one."""
    finished: Finished | None = None

    def apply(self, entry: Entry) -> None:
        """Take one step of the journal."""
        _APPLY[type(entry)](self, entry)

    @property
    def begun(self) -> bool:
        """Whether anybody was asked yet."""
        return self.opened or self.round > 1

    def is_open(self, client: str, order: OrderId) -> bool:
        """Whether this client was asked for this and nothing has come of it yet."""
        return self.asked.get(client) == order

    def was_counted(self, client: str, order: OrderId) -> bool:
        """Whether it is known that an order's update was counted."""
        return order.run == self.run and self.last_counted.get(client) == (order.round, order.attempt)

    def last_order(self, client: str) -> OrderId | None:
        """The last order of a client that was counted."""
        last = self.last_counted.get(client)
        return OrderId(self.run, *last) if last is not None else None

    def blobs(self) -> frozenset[Digest]:
        """What the run still needs."""
        named = {self.model, self.state, self.control, self.total}
        named |= {update.digest for update in (*self.counted, *self.gathered)}
        named |= {digest for start in self.starts.values() for digest in start}
        return frozenset(digest for digest in named if digest)

    # --- entries ----------------------------------------------------------------

    def _started(self, entry: Started) -> None:
        self.run, self.task = entry.run, entry.task
        self.model, self.model_bytes, self.control = entry.model, entry.model_bytes, entry.control

    def _resumed(self, entry: Resumed) -> None:
        self.resumed += 1

    def _asked(self, entry: Asked) -> None:
        if not self.opened:
            self.opened = True
            self.wanted, self.quorum = entry.wanted, entry.quorum
        self.attempt, self.present = entry.attempt, entry.present
        order = OrderId(self.run, entry.round, entry.attempt)
        self.starts[entry.round] = (self.model, self.control)
        self.asked |= dict.fromkeys(entry.clients, order)
        self.at_work += len(entry.clients)
        self.tried |= set(entry.clients)

    def _counted(self, entry: Counted) -> None:
        if not self.is_open(entry.client, entry.order):
            return  # its round ended while this was being written
        self._end(entry.client)
        staleness = self.round - entry.order.round
        self.fresh += not staleness
        self.counted.append(msgspec.structs.replace(entry, staleness=staleness))
        self.tried.discard(entry.client)
        self.last_counted[entry.client] = (entry.order.round, entry.order.attempt)
        self.update_bytes = entry.up_bytes or self.update_bytes
        self.misses.pop(entry.client, None)

    def _dropped(self, entry: Dropped) -> None:
        if not self.is_open(entry.client, entry.order):
            return
        self._end(entry.client)
        if len(self.dropped) < MAX_LEFT_OUT:
            self.dropped.append(entry)
        if entry.kind == "refused":
            self.refusals[entry.client] = self.refusals.get(entry.client, 0) + 1
        else:
            self.misses[entry.client] = self.misses.get(entry.client, 0) + 1
        if entry.quarantined is not None:
            self.quarantine[entry.client] = entry.quarantined

    def _end(self, client: str) -> None:
        order = self.asked.pop(client)
        self.at_work -= order.round == self.round

    def _extended(self, entry: Extended) -> None:
        self.extensions += 1
        self.attempt += 1
        self.tried = set(self.asked)

    def _closed(self, entry: Closed) -> None:
        self.closing, self.present = entry, entry.present
        if entry.drop_open:
            self._drop_open(entry.at_deadline)
        self.gathered, self.gathered_dropped = self.counted, self.dropped
        self._next_round()

    def _skipped(self, entry: Skipped) -> None:
        if self.closing is None:
            if entry.drop_open:
                self._drop_open(missed=True)
            counted, dropped, extensions = self.counted, self.dropped, self.extensions
            self._next_round()
        else:
            counted, dropped, extensions = self.gathered, self.gathered_dropped, self.closing.extensions
            self._drop_gathered()
        self.made, self.present = entry.round, entry.present
        unused = (LeftOut(client=u.client, kind="skipped", reason=entry.reason) for u in counted)
        self.unrecorded = RoundRecord(
            round=entry.round,
            outcome="skipped",
            model=self.model,
            seconds=entry.seconds,
            down_bytes=sum(u.down_bytes for u in counted) + sum(d.down_bytes for d in dropped),
            up_bytes=sum(u.up_bytes for u in counted) + sum(d.up_bytes for d in dropped),
            left_out=(*unused, *_left_out(dropped)),
            present=entry.present,
            reason=entry.reason,
            extensions=extensions,
        )

    def _restarted(self, entry: Restarted) -> None:
        # Orders of the attempts before must not be taken for those to come.
        attempts = [update.order.attempt for update in (*self.gathered, *self.counted)]
        attempt = max([self.attempt, *attempts]) + 1
        if self.closing is not None:
            self.extensions, self.dropped = self.closing.extensions, self.gathered_dropped
            self._drop_gathered()
            self.round = entry.round
        elif entry.reason:
            self._drop_open(missed=True)
        self.extensions += bool(entry.reason)
        self.asked, self.counted, self.tried = {}, [], set()
        self.dropped = self.dropped if entry.reason else []
        self.at_work = self.fresh = 0
        self.opened, self.attempt = False, attempt

    def _drop_gathered(self) -> None:
        self.closing, self.gathered, self.gathered_dropped, self.total = None, [], [], None

    def _summed(self, entry: Summed) -> None:
        self.total = entry.total

    def _drop_open(self, missed: bool) -> None:
        reason = "no update by the deadline" if missed else "enough others were faster"
        for client, order in self.asked.items():
            if missed:
                self.misses[client] = self.misses.get(client, 0) + 1
            if len(self.dropped) < MAX_LEFT_OUT:
                self.dropped.append(Dropped(client=client, order=order, kind="late", reason=reason))
        self.asked = {}

    def _next_round(self) -> None:
        self.round += 1
        self.counted, self.dropped, self.tried = [], [], set(self.asked)
        self.opened, self.attempt, self.extensions, self.wanted = False, 0, 0, 0
        self.at_work = self.fresh = 0

    def _made(self, entry: Made) -> None:
        closed = self.closing
        if closed is None:
            raise IntegrityError(f"journal: round {entry.round} was made and never closed")
        took = sorted(self.gathered, key=lambda update: (update.client, update.order))
        told = [update for update in took if update.loss is not None]
        weight = sum(update.samples for update in told)
        self.unrecorded = RoundRecord(
            round=entry.round,
            outcome="made",
            model=entry.model,
            seconds=closed.seconds + entry.seconds,
            aggregation_s=entry.seconds,
            loss=sum((u.loss or 0.0) * u.samples for u in told) / weight if weight else None,
            samples=sum(update.samples for update in took),
            down_bytes=sum(u.down_bytes for u in took)
            + sum(d.down_bytes for d in self.gathered_dropped)
            + closed.open_bytes,
            up_bytes=sum(u.up_bytes for u in took) + sum(d.up_bytes for d in self.gathered_dropped),
            took_part=tuple(_took_part(update) for update in took),
            left_out=_left_out(self.gathered_dropped),
            present=closed.present,
            metrics=entry.metrics,
            extensions=closed.extensions,
        )
        self.model, self.model_bytes = entry.model, entry.model_bytes
        self.state, self.control = entry.state, entry.control
        self.made = entry.round
        self.models += 1
        self._drop_gathered()

    def _recorded(self, entry: Recorded) -> None:
        self.unrecorded, self.recorded = None, entry.record
        self.resumed = 0
        live = {order.round for order in self.asked.values()}
        self.starts = {round_: start for round_, start in self.starts.items() if round_ in live}
        self.evaluation = dict(entry.record.evaluation) or self.evaluation
        over = [name for name, until in self.quarantine.items() if 0 <= until <= entry.record.round + 1]
        for name in over:
            del self.quarantine[name]

    def _let(self, entry: Let) -> None:
        self.quarantine.pop(entry.client, None)
        self.refusals.pop(entry.client, None)

    def _finished(self, entry: Finished) -> None:
        self.finished = entry


_APPLY: Final[dict[type, Callable[..., None]]] = {
    Started: Ledger._started,
    Resumed: Ledger._resumed,
    Asked: Ledger._asked,
    Counted: Ledger._counted,
    Dropped: Ledger._dropped,
    Extended: Ledger._extended,
    Skipped: Ledger._skipped,
    Restarted: Ledger._restarted,
    Closed: Ledger._closed,
    Summed: Ledger._summed,
    Made: Ledger._made,
    Recorded: Ledger._recorded,
    Let: Ledger._let,
    Finished: Ledger._finished,
}


def restore(entries: Iterable[Ledger | Entry]) -> Ledger:
    """The ledger that a journal tells of; a ledger within it stands for all before it."""
    ledger = Ledger()
    for entry in entries:
        if isinstance(entry, Ledger):
            ledger = entry
        else:
            ledger.apply(entry)
    return ledger


def _took_part(update: Counted) -> TookPart:
    return TookPart(
        client=update.client,
        samples=update.samples,
        loss=update.loss,
        seconds=update.seconds,
        down_bytes=update.down_bytes,
        up_bytes=update.up_bytes,
        staleness=update.staleness,
        children=update.children,
    )


def _left_out(dropped: Iterable[Dropped]) -> tuple[LeftOut, ...]:
    return tuple(
        LeftOut(client=entry.client, kind=entry.kind, reason=entry.reason, field=entry.field)
        for entry in dropped
    )
