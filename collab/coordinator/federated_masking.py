"""Secure rounds of a federated run: what `SecureSums` needs to know of clients, terms and weights."""

from __future__ import annotations

from collections.abc import Mapping

from collab.coordinator.federated_clients import Clients
from collab.coordinator.federated_secure import OffLoop, SecureSums, Tell
from collab.core.ids import Digest
from collab.errors import CollabError
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated.ledger import Ledger
from collab.federated.orders import OrderId
from collab.federated.privacy.identities import name_verifier, verifier
from collab.federated.privacy.masking import basis_of, invite
from collab.federated.server_work import ServerWork
from collab.federated.task import SecureAggregation, Task
from collab.transport.base import Security


class SecureRounds:
    """One run's; errors of its phases are told as the events that they end in.

    Args:
        rules: The task's of secure aggregation.
        trainable: Digest of the model's file.
        security: Identities; None where names stand in for them.
        left_out: Says in one line why a client is left out: its name, the line.
    """

    def __init__(
        self,
        clients: Clients,
        task: Task,
        rules: SecureAggregation,
        trainable: Digest,
        security: Security | None,
        work: ServerWork,
        off_loop: OffLoop,
        left_out: Tell,
    ) -> None:
        self._training = task.training
        self._rules = rules
        self._trainable = trainable
        self._work = work
        self._off_loop = off_loop
        self._left_out = left_out
        verify = verifier(security) if security is not None else name_verifier()

        async def ask(name: str, order: OrderId, message: bytes) -> bytes:
            return await clients[name].mask(order, message)

        self._sums = SecureSums(ask, off_loop, verify, left_out, task.round.deadline_s)

    async def agree(self, action: do.Agree, ledger: Ledger) -> on.Agreed | on.AggregationFailed:
        """Have the clients of a round agree on keys before they train."""
        orders: Mapping[str, OrderId] = {client: ledger.asked[client] for client in action.clients}
        session = f"{ledger.run}/{action.round}/{action.attempt}"
        try:
            masking, length = await self._off_loop(self._work.masking, ledger.model, ledger.state)
            basis = basis_of(self._trainable, ledger.model, self._training, masking)
            threshold = self._rules.threshold_of(len(orders))
            invitation = invite(session, action.clients, threshold, length, basis, masking)
            clients = await self._sums.agree(invitation, orders)
            return on.Agreed(action.round, clients, action.attempt)
        except CollabError as error:
            return on.AggregationFailed(action.round, str(error), action.attempt)

    def judge(
        self, name: str, order: OrderId, digest: Digest, data: bytes, *, samples: int
    ) -> on.Arrived | on.Refused:
        """See `SecureSums.judge`; blocks."""
        return self._sums.judge(name, order, digest, data, samples=samples)

    def settled(self, name: str, order: OrderId, counted: bool) -> None:
        """See `SecureSums.settled`."""
        self._sums.settled(name, order, counted)

    async def open(self, action: do.Sum, ledger: Ledger) -> on.Summed | on.AggregationFailed:
        """Open the sum of a round that is closed, and keep it."""
        try:
            outcome = await self._sums.open(action.clients)
            for name in outcome.liars:
                self._left_out(name, "gave wrong shares of others' secrets; the sum is right without them")
            kept = (ledger.model, ledger.state, outcome.total, len(outcome.survivors))
            return on.Summed(action.round, await self._off_loop(self._work.keep_sum, *kept))
        except CollabError as error:
            return on.AggregationFailed(action.round, str(error))
