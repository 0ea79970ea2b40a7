"""What messages about single orders lead to: offers, models, updates, and what comes of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from msgspec import structs

from collab.federated import entries, events
from collab.federated.actions import Acknowledge, Action, Cancel, Fetch, Notify, Offer, Send
from collab.federated.agreeing import LEAST_SUMMED, Agreeing
from collab.federated.flights import Flight, Flights
from collab.federated.ledger import Ledger
from collab.federated.orders import MAX_HELD_MODELS, Capabilities, OrderId, Work, seed_of
from collab.federated.task import Task

Steps = list[Action | entries.Entry]
"""What to do, and what to persist first, in order."""


class Dispatch:
    """The clients of a run's server, and their open orders.

    Args:
        task: A checked one.
        ledger: The run's; only read here.
        agreeing: Says whether models are held back until keys are agreed on.
    """

    def __init__(self, task: Task, ledger: Ledger, agreeing: Agreeing) -> None:
        self.present: dict[str, Capabilities] = {}
        self.flights = Flights()
        self.deadline: float | None = None
        """Of the round that gathers."""
        self.opened_at = 0.0
        self._agreeing = agreeing
        self._task = task
        self._ledger = ledger

    @property
    def is_async(self) -> bool:
        """Whether rounds are buffers."""
        return self._task.mode == "async"

    @property
    def max_staleness(self) -> int:
        """Rounds that an update may be late."""
        if self.is_async:
            return self._task.buffered.max_staleness
        late = self._task.round.late
        return late.max_staleness if late.policy == "discount" else 0

    def gather_from(self, now: float) -> None:
        """A round gathers updates from now on."""
        self.opened_at, self.deadline = now, now + self._task.round.deadline_s

    def expiry(self, now: float) -> float | None:
        """Of an order that is given now, where orders have deadlines of their own."""
        return now + self._task.round.deadline_s if self.is_async else None

    def seed(self, client: str, order: OrderId) -> int:
        """Of one order's training: the same however often it is repeated."""
        attempt = order.attempt if self.is_async else 0
        return seed_of(self._task.seed, client, order, attempt)

    def joined(self, event: events.Joined, now: float) -> Steps:
        """A client is here; its open order is offered again."""
        new = event.client not in self.present
        told = event.capabilities
        self.present[event.client] = structs.replace(told, holds=told.holds[-MAX_HELD_MODELS:])
        flight = self.flights.get(event.client)
        return self.offer(event.client, flight, now) if new and flight is not None else []

    def left(self, event: events.Left, now: float) -> Steps:
        """A client is gone; its open order stays."""
        self.present.pop(event.client, None)
        if (flight := self.flights.get(event.client)) is not None:
            flight.step("lose")
        return []

    def offer(self, client: str, flight: Flight, now: float) -> Steps:
        """Ask a client that is here."""
        if client not in self.present or not flight.step("offer"):
            return []
        left = self._answer_by(flight) - now
        training = replace(self._task.training, seed=self.seed(client, flight.order))
        model, control = self._ledger.starts[flight.order.round]
        due_s = max(self.deadline - now, 0.0) if self.deadline is not None else None
        work = Work(model, training, max(left, 0.0), control, self._ledger.last_order(client), due_s)
        return [Offer(client, flight.order, work)]

    def _answer_by(self, flight: Flight) -> float:
        """Until when an order's update is of use."""
        if flight.expires is not None:
            return flight.expires
        rules = self._task.round
        until = self.deadline if self.deadline is not None else self.opened_at + rules.deadline_s
        spare = rules.extensions - self._ledger.extensions if rules.on_lack == "extend" else 0
        return until + (self.max_staleness + spare) * rules.deadline_s

    def accepted(self, event: events.Accepted, now: float) -> Steps:
        """It wants the model."""
        flight = self.flights.get(event.client, event.order)
        if flight is None:
            return [Cancel(event.client, event.order, self._why_not(event.client, event.order))]
        if not flight.step("accept") or self._agreeing.holds_back:
            return []
        return self.send(event.client, flight)

    def send(self, client: str, flight: Flight) -> Steps:
        """Give it the model that its order begins with."""
        capabilities = self.present.get(client)
        if capabilities is None or not flight.step("send"):
            return []
        model, control = self._ledger.starts[flight.order.round]
        return [Send(client, flight.order, model, control, capabilities.holds)]

    def cohort(self, now: float) -> tuple[str, ...]:
        """Who is to agree on keys now; nobody while that is not due."""
        if self._agreeing.until is None:
            return ()
        unanswered, accepted = self.flights.at(("waiting", "offered")), self.flights.at(("accepted",))
        least = max(self._ledger.quorum, LEAST_SUMMED)
        due = self._agreeing.is_due(now, len(unanswered), len(accepted), least)
        return tuple(accepted) if due else ()

    def agreed(self, clients: Collection[str]) -> Steps:
        """These hold keys; they get the model, and the others are left out."""
        steps: Steps = []
        for client in self.flights.at(("waiting", "offered", "accepted")):
            flight = self.flights.get(client)
            if flight is not None and client in clients:
                steps += self.send(client, flight)
            elif flight is not None:
                steps += self.drop(client, flight.order, "failed", "holds no keys of the round")
        return steps

    def expire(self, now: float) -> Steps:
        """Give up orders whose own time has passed."""
        reason = f"no update within {self._task.round.deadline_s:g} s"
        expired = self.flights.expired(now) if self.is_async else []
        return [step for client, one in expired for step in self.drop(client, one.order, "late", reason)]

    def drop_stale(self) -> Steps:
        """Give up orders that are over the rounds that an update may be late."""
        reason = f"over {self.max_staleness} rounds late"
        asked = sorted(self._ledger.asked.items())
        late = [one for one in asked if self._ledger.round - one[1].round > self.max_staleness]
        return [step for client, order in late for step in self.drop(client, order, "late", reason)]

    def sent(self, event: events.Sent, now: float) -> Steps:
        """It has the model."""
        if (flight := self.flights.get(event.client, event.order)) is not None:
            self.flights.sent(flight, event.bytes)
        return []

    def declined(self, event: events.Declined, now: float) -> Steps:
        """It does not take the order."""
        return self.drop(event.client, event.order, "declined", event.reason)

    def failed(self, event: events.Failed, now: float) -> Steps:
        """The order came to nothing."""
        return self.drop(event.client, event.order, "failed", event.reason)

    def announced(self, event: events.Announced, now: float) -> Steps:
        """It has an update."""
        flight = self.flights.get(event.client, event.order)
        if flight is None:
            return self._late(event.client, event.order)
        if not flight.step("announce"):
            return []
        return [Fetch(event.client, event.order, event.digest, event.bytes)]

    def after_count(self, entry: entries.Counted) -> Steps:
        """An update is durable, in the ledger, or came when its order was over."""
        flight = self.flights.get(entry.client, entry.order)
        if flight is not None:
            self.flights.drop(entry.client)
        return self._late(entry.client, entry.order)

    def after_drop(self, entry: entries.Dropped) -> Steps:
        """An order came to nothing."""
        if self.flights.get(entry.client, entry.order) is not None:
            self.flights.drop(entry.client)
        told = f"{entry.client}: {entry.field + ': ' if entry.field else ''}{entry.reason}"
        if entry.kind != "refused":
            kind: Literal["late", "failed"] = "late" if entry.kind == "late" else "failed"
            return [Cancel(entry.client, entry.order, entry.reason), Notify(kind, told, entry.client)]
        reason = f"refused: {entry.field}: {entry.reason}"
        steps: Steps = [Acknowledge(entry.client, entry.order, counted=False, reason=reason)]
        if entry.quarantined is None:
            return [*steps, Notify("refused", told, entry.client)]
        until = "it is released" if entry.quarantined < 0 else f"round {entry.quarantined}"
        return [*steps, Notify("quarantined", f"{told}; not asked until {until}", entry.client)]

    def _late(self, client: str, order: OrderId) -> Steps:
        if self._ledger.was_counted(client, order):
            return [Acknowledge(client, order, counted=True)]
        return [Acknowledge(client, order, counted=False, reason=self._why_not(client, order))]

    def _why_not(self, client: str, order: OrderId) -> str:
        if order.run != self._ledger.run:
            return f"run {order.run[:16]} is not this one"
        return f"round {order.round} does not wait for it"

    def arrived(self, event: events.Arrived, now: float) -> Steps:
        """Its update is here."""
        client, order, update = event.client, event.order, event.update
        flight = self.flights.get(client, order)
        if flight is None:
            return self._late(client, order)
        staleness = self._ledger.round - order.round
        if staleness > self.max_staleness:
            return self.drop(client, order, "late", f"{staleness} rounds late", up_bytes=update.bytes)
        if not flight.step("keep"):
            return []
        return [
            entries.Counted(
                client=client,
                order=order,
                digest=update.digest,
                samples=update.samples,
                norm=update.norm,
                loss=update.loss,
                seconds=update.seconds,
                down_bytes=flight.down_bytes,
                up_bytes=update.bytes,
                children=update.children,
            )
        ]

    def refused(self, event: events.Refused, now: float) -> Steps:
        """Its update is bad."""
        rules = self._task.quarantine
        until = None
        if self._ledger.refusals.get(event.client, 0) + 1 >= rules.after:
            until = -1 if rules.rounds is None else self._ledger.round + rules.rounds + 1
        if self.flights.get(event.client, event.order) is None:
            return self._late(event.client, event.order)
        return self.drop(event.client, event.order, "refused", event.reason, event.field, event.bytes, until)

    def drop(
        self,
        client: str,
        order: OrderId,
        kind: entries.Out,
        reason: str,
        field: str = "",
        up_bytes: int = 0,
        until: int | None = None,
    ) -> Steps:
        """End an open order without an update."""
        flight = self.flights.get(client, order)
        if flight is None or not flight.step("keep"):
            return []
        return [
            entries.Dropped(
                client=client,
                order=order,
                kind=kind,
                reason=reason[:200],
                field=field[:200],
                down_bytes=flight.down_bytes,
                up_bytes=up_bytes,
                quarantined=until,
            )
        ]
