"""How good a federated run's models are: measured by its clients, or by the server on its own data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from collab.client.remote_client import MakeBroadcast, RemoteClient
from collab.coordinator.federated_clients import Clients
from collab.core.ids import Digest
from collab.errors import CollabError, PeerUnreachable
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated.orders import OrderId

if TYPE_CHECKING:
    from collab.coordinator.swap import Swapper

Metrics = Mapping[str, float]

EvaluateHere = Callable[[Digest], tuple[int, dict[str, float]]]
"""Samples and metrics of a model on the server's own data; blocks."""


class Evaluations:
    """One run's.

    Args:
        clients: That are asked.
        broadcast: Makes what they lack of a model.
        deadline_s: Of an evaluation.
        here: None where the server has no data of its own.
        off_loop: Runs what blocks.
        swaps: Wants clients to measure the weights that run, too; None where none do.
    """

    def __init__(
        self,
        clients: Clients,
        broadcast: MakeBroadcast,
        deadline_s: float,
        here: EvaluateHere | None,
        off_loop: Callable[..., Awaitable[Any]],
        swaps: Swapper | None,
    ) -> None:
        self._clients = clients
        self._broadcast = broadcast
        self._deadline_s = deadline_s
        self._here = here
        self._off_loop = off_loop
        self._swaps = swaps

    async def at(self, action: do.Evaluate, name: str) -> on.Evaluated | on.EvaluationFailed:
        """What came of it at a client; at the server where the name is empty."""
        try:
            samples, metrics = await (self._at_client(action, name) if name else self._at_server(action))
            return on.Evaluated(action.round, name, samples, metrics)
        except CollabError as error:
            return on.EvaluationFailed(action.round, name, str(error))

    async def _at_server(self, action: do.Evaluate) -> tuple[int, Metrics]:
        assert self._here is not None
        found: tuple[int, Metrics] = await self._off_loop(self._here, action.model)
        return found

    async def _at_client(self, action: do.Evaluate, name: str) -> tuple[int, Metrics]:
        client = self._clients[name]
        running, beside = await self._beside(action, client)
        samples, metrics = await self._asked(client, OrderId(client.run, action.round), action.model)
        if self._swaps is not None and running is not None:
            self._swaps.measured(action.round, running, (samples, beside, metrics))
        return samples, metrics

    async def _beside(self, action: do.Evaluate, client: RemoteClient) -> tuple[Digest | None, Metrics]:
        """The weights that run and a client's metrics of them; None where those are not asked for or lack."""
        running = await self._swaps.beside() if self._swaps is not None else None
        with suppress(CollabError):
            if running is not None and running != action.model:
                order = OrderId(client.run, action.round, 1)
                return running, (await self._asked(client, order, running))[1]
        return None, {}

    async def _asked(self, client: RemoteClient, order: OrderId, model: Digest) -> tuple[int, Metrics]:
        state = await client.evaluate(order, model, self._deadline_s, self._broadcast)
        if state.state != "done":
            raise PeerUnreachable(state.reason or state.state)
        return int(state.samples), {metric.name: metric.value for metric in state.metrics}
