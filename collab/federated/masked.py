"""Masked updates of one attempt of a round, from their arrival until they are in the sum.

A vector is added when the journal has its client, so that the sum is of those who are counted, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping

from collab.core.ids import Digest
from collab.errors import CollabError, ProtocolError
from collab.federated.events import Arrived, Refused
from collab.federated.orders import OrderId, UpdateRef
from collab.federated.privacy.secure_server import Outcome
from collab.federated.privacy.sessions import ServerSession


class MaskedUpdates:
    """Those of the cohort that holds keys.

    Args:
        session: At its phase of vectors.
        orders: By client.
    """

    def __init__(self, session: ServerSession, orders: Mapping[str, OrderId]) -> None:
        self.session = session
        self._orders = orders
        self._came: dict[str, bytes] = {}

    def judge(
        self, name: str, order: OrderId, digest: Digest, data: bytes, *, samples: int
    ) -> Arrived | Refused:
        """Whether a vector has the form that is due; more of it cannot be seen."""
        try:
            if self._orders.get(name) != order:
                raise ProtocolError(f"secure aggregation: no vector of client {name!r} is due")
            self.session.check_masked(name, data)
        except CollabError as error:
            return Refused(name, order, "masked", str(error), len(data))
        self._came[name] = data
        return Arrived(name, order, UpdateRef(digest, len(data), samples))

    def settled(self, name: str, order: OrderId, counted: bool) -> None:
        """It is counted, and added, or never will be."""
        if self._orders.get(name) == order and (data := self._came.pop(name, None)) is not None and counted:
            self.session.take(name, data)

    def close(self, clients: tuple[str, ...]) -> dict[str, bytes]:
        """End the phase of vectors; what to send next.

        Raises `Refused` when too few have come, `ProtocolError` if the sum is not of these clients.
        """
        survivors = self.session.close()
        if survivors.keys() != set(clients):
            raise ProtocolError("secure aggregation: the sum is not of the updates that were counted")
        return survivors

    def outcome(self) -> Outcome:
        """After the last phase."""
        found = self.session.outcome
        if found is None:
            raise ProtocolError("secure aggregation: the sum is not opened yet")
        return found
