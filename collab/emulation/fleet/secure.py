"""Secure aggregation in a simulated run: the machines of both ends, and the round trips of their phases.

Names stand in for identities.  A phase is one moment; who is away then has dropped out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from collab.core.ids import Digest
from collab.errors import CollabError, NotLoaded
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated.compression.updates import decode_update
from collab.federated.ledger import Ledger
from collab.federated.masked import MaskedUpdates
from collab.federated.orders import OrderId
from collab.federated.privacy.identities import name_signer, name_verifier
from collab.federated.privacy.masking import Invitation, basis_of, encode_invitation, invite
from collab.federated.privacy.sessions import ClientSession, ServerSession
from collab.federated.server_work import ServerWork
from collab.federated.task import Task

TRAINABLE = Digest("0" * 64)
"""All simulated clients have the same."""

Later = Callable[[float, Callable[[], None]], None]


class FleetSums:
    """The sums of one run.

    Args:
        task: With secure aggregation.
        work: The server's.
        ledger: As it is now.
        later: Has something done after some seconds.
        feed: Tells the server's machine.
        trip_s: Seconds that a message of so many bytes to a client and its answer take.
    """

    def __init__(
        self,
        task: Task,
        work: ServerWork,
        ledger: Callable[[], Ledger],
        later: Later,
        feed: Callable[[on.Event], None],
        trip_s: Callable[[int], float],
    ) -> None:
        self._task = task
        self._work = work
        self._ledger = ledger
        self._later = later
        self._feed = feed
        self._trip_s = trip_s
        self._clients: dict[str, tuple[OrderId, ClientSession]] = {}
        self._away: set[str] = set()
        self.updates: MaskedUpdates | None = None

    def gone(self, name: str) -> None:
        """A client is away, and its secrets are lost."""
        self._clients.pop(name, None)
        self._away.add(name)

    def back(self, name: str) -> None:
        """It is there again."""
        self._away.discard(name)

    def masked(self, name: str, order: OrderId, update: bytes) -> bytes:
        """What a client sends in the place of an update; raises `NotLoaded` without keys of its round."""
        held = self._clients.get(name)
        if held is None or held[0] != order:
            raise NotLoaded("secure aggregation: this client holds no keys of the round; it is left out")
        found = decode_update(update)
        return held[1].masked(found.delta, found.samples)

    def judge(
        self, name: str, order: OrderId, digest: Digest, data: bytes, samples: int
    ) -> on.Arrived | on.Refused:
        """See `MaskedUpdates.judge`."""
        if self.updates is None:
            return on.Refused(name, order, "masked", "no vector is due", len(data))
        return self.updates.judge(name, order, digest, data, samples=samples)

    def settled(self, name: str, order: OrderId, counted: bool) -> None:
        """See `MaskedUpdates.settled`."""
        if self.updates is not None:
            self.updates.settled(name, order, counted)

    def agree(self, action: do.Agree) -> None:
        """Keys, shares, and the shares of the others."""
        ledger, secure = self._ledger(), self._task.secure
        assert secure is not None
        self.updates = None
        orders = {client: ledger.asked[client] for client in action.clients}
        masking, length = self._work.masking(ledger.model, ledger.state)
        basis = basis_of(TRAINABLE, ledger.model, self._task.training, masking)
        session = f"{ledger.run}/{action.round}/{action.attempt}"
        threshold = secure.threshold_of(len(orders))
        invitation = invite(session, action.clients, threshold, length, basis, masking)

        def done() -> None:
            try:
                ready = self._agreed(invitation, orders, basis)
                self._feed(on.Agreed(action.round, ready, action.attempt))
            except CollabError as error:
                self._feed(on.AggregationFailed(action.round, str(error), action.attempt))

        a_client = 256  # bytes of keys and shares, about
        self._later(3 * self._trip_s(a_client * len(orders)), done)

    def _agreed(self, invitation: Invitation, orders: Mapping[str, OrderId], basis: bytes) -> tuple[str, ...]:
        server, data = ServerSession(invitation, name_verifier()), encode_invitation(invitation)
        keys = {}
        for name in sorted(orders.keys() - self._away):
            client = ClientSession(name, data, lambda masking: basis, name_signer(name), name_verifier())
            self._clients[name] = orders[name], client
            keys[name] = client.again(data) or b""
        inboxes = self._phase(server, self._answers(self._phase(server, keys)))
        self.updates = MaskedUpdates(server, orders)
        return tuple(sorted(self._answers(inboxes)))

    def open(self, action: do.Sum) -> None:
        """Who has survived, and what has to be known of the others."""

        def done() -> None:
            ledger, updates = self._ledger(), self.updates
            assert updates is not None
            try:
                replies = updates.close(action.clients)
                replies = self._phase(updates.session, self._answers(replies))
                self._phase(updates.session, self._answers(replies))
                found = updates.outcome()
                kept = (ledger.model, ledger.state, found.total, len(found.survivors))
                self._feed(on.Summed(action.round, self._work.keep_sum(*kept)))
            except CollabError as error:
                self._feed(on.AggregationFailed(action.round, str(error)))

        self._later(2 * self._trip_s(256 * len(action.clients)), done)

    def _phase(self, server: ServerSession, said: Mapping[str, bytes]) -> dict[str, bytes]:
        for name, data in said.items():
            server.take(name, data)
        return server.close()

    def _answers(self, messages: Mapping[str, bytes]) -> dict[str, bytes]:
        """Of those who are there."""
        return {
            name: self._clients[name][1].take(data)
            for name, data in messages.items()
            if name in self._clients
        }
