"""Open orders as one incarnation of the server sees them: how far each is.  Nothing here is persisted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from collab.federated.orders import OrderId

Stage = Literal["waiting", "offered", "accepted", "sending", "training", "fetching", "keeping"]

TRANSITIONS: dict[tuple[Stage, str], Stage] = {
    ("waiting", "offer"): "offered",
    ("offered", "offer"): "offered",
    ("offered", "accept"): "accepted",
    ("accepted", "send"): "sending",
    ("sending", "sent"): "training",
    ("training", "accept"): "accepted",
    ("sending", "accept"): "accepted",
    **{(stage, "lose"): "waiting" for stage in ("offered", "accepted", "sending", "training", "fetching")},
    **{(stage, "announce"): "fetching" for stage in ("offered", "accepted", "sending", "training")},
    **{
        (stage, "keep"): "keeping"
        for stage in ("waiting", "offered", "accepted", "sending", "training", "fetching")
    },
}
"""Where each step leads; others change nothing.  ``keeping``: an order's end is being persisted."""


@dataclass(slots=True)
class Flight:
    """One open order."""

    order: OrderId
    stage: Stage = "waiting"
    expires: float | None = None
    down_bytes: int = 0

    def step(self, name: str) -> bool:
        """Take a step, if it can be taken now."""
        following = TRANSITIONS.get((self.stage, name))
        if following is None:
            return False
        self.stage = following
        return True


class Flights:
    """All open orders by client."""

    def __init__(self) -> None:
        self._by_client: dict[str, Flight] = {}
        self.down_bytes = 0
        """Sent for orders that are open."""

    def follow(self, asked: Mapping[str, OrderId], expires: float | None = None) -> None:
        """Take over what the ledger says is open; what is new gets this expiry."""
        for client in [c for c, flight in self._by_client.items() if asked.get(c) != flight.order]:
            self.drop(client)
        for client, order in asked.items():
            if client not in self._by_client:
                self._by_client[client] = Flight(order, expires=expires)

    def get(self, client: str, order: OrderId | None = None) -> Flight | None:
        """A client's open order, if it is this one."""
        flight = self._by_client.get(client)
        return flight if flight is not None and order in (None, flight.order) else None

    def drop(self, client: str) -> None:
        """Its order is over."""
        flight = self._by_client.pop(client, None)
        self.down_bytes -= flight.down_bytes if flight is not None else 0

    def sent(self, flight: Flight, size: int) -> None:
        """A client has the model of its order."""
        flight.step("sent")
        flight.down_bytes += size
        self.down_bytes += size

    def add(self, client: str, order: OrderId, expires: float | None) -> Flight:
        """Follow a new order."""
        flight = self._by_client[client] = Flight(order, expires=expires)
        return flight

    def at(self, stages: Iterable[Stage]) -> list[str]:
        """Clients whose orders are at one of some stages, sorted."""
        wanted = set(stages)
        return sorted(client for client, flight in self._by_client.items() if flight.stage in wanted)

    def expired(self, now: float) -> list[tuple[str, Flight]]:
        """Orders whose time has passed and whose end is not known."""
        return [
            (client, flight)
            for client, flight in sorted(self._by_client.items())
            if flight.expires is not None and flight.expires <= now and flight.stage != "keeping"
        ]

    @property
    def next_expiry(self) -> float | None:
        """When the first of them expires."""
        times = [
            flight.expires
            for flight in self._by_client.values()
            if flight.expires is not None and flight.stage != "keeping"
        ]
        return min(times, default=None)
