"""A gateway's part of a round: its children train, and one sum of their updates goes on.

Sums are of whole numbers, so a model that was made over gateways has the bits of one that
was made of all updates.  Children are asked as a server asks: they name this node in
``training.gateways``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from collab.client.remote_client import RemoteClient
from collab.core.ids import Digest
from collab.errors import BackendError, CollabError, LinkLost, PeerUnreachable
from collab.federated.aggregate.rounds import RoundAggregator
from collab.federated.compression.models import encode_model
from collab.federated.compression.updates import decode_update
from collab.federated.exchange import read_weights
from collab.federated.gate import Gate
from collab.federated.orders import OrderId, SumRules, Work, seed_of
from collab.federated.server_work import Broadcast
from collab.federated.update import Update
from collab.link.links import Links
from collab.node.training_files import Made
from collab.node.training_offer import Ask
from collab.node.training_work import Product

_SHARE: Final = 0.8
"""Of the time that is left for an order, for the children; the rest is for the sum and its way."""
_AGAIN_S: Final = 0.2

OffLoop = Callable[..., Awaitable[Any]]
_Counted = dict[str, OrderId]
"""The last order of each child whose update is in a sum that counted."""


@dataclass
class _Came:
    """What came of one child."""

    client: RemoteClient | None
    update: Update | None = None
    steps: int = 0
    reason: str = ""


class Gateway:
    """The children of one node."""

    def __init__(self, children: Sequence[str], links: Links, off_loop: OffLoop, scratch: Path) -> None:
        self._children = children
        self._links = links
        self._off_loop = off_loop
        self._scratch = scratch
        self._clients: dict[str, RemoteClient] = {}

    async def enrol(self, run: str, trainable: tuple[Digest, bytes]) -> int:
        """Examples of the children that are there."""
        found = await asyncio.gather(
            *(self._reach(address, run, trainable) for address in self._children), return_exceptions=True
        )
        return sum(client.samples for client in found if isinstance(client, RemoteClient))

    async def _reach(self, address: str, run: str, trainable: tuple[Digest, bytes]) -> RemoteClient:
        """A child, linked and enrolled."""
        client = self._clients.get(address)
        if client is None or client.run != run:
            link = self._links.get(client.name) if client is not None else None
            link = link or await self._links.connect(address)
            await asyncio.to_thread(self._scratch.mkdir, parents=True, exist_ok=True)
            client = self._clients[address] = RemoteClient(link.peer.name, run, trainable, self._scratch)
            client.link = link
        elif client.link is None or client.link.ended is not None:
            client.link = await self._links.connect(address, client.name)
        await client.enrol()
        return client

    async def train(self, ask: Ask, trainable: tuple[Digest, bytes], weights: bytes, state: bytes) -> Product:
        """Have the children train, and sum what is good; raises `BackendError` when nothing is."""
        rules, begun = ask.sums, time.monotonic()
        if rules is None:
            raise BackendError("the server does not say how to sum; upgrade it, or ask the children")
        counted = msgspec.json.decode(state, type=_Counted) if state else {}
        came = await self._all(ask, rules, trainable, weights, counted)
        good, partial = await self._off_loop(_summed, ask.order, rules, weights, came)
        for one in came:
            if one.client is not None and one not in good:
                with suppress(CollabError):
                    await one.client.end(ask.order, False)
        if not good:
            reasons = "; ".join(f"{a}: {c.reason}" for a, c in zip(self._children, came, strict=True))
            raise BackendError(f"no child has sent an update: {reasons}"[:400])
        updates = [one.update for one in good if one.update is not None]
        samples = sum(update.samples for update in updates)
        losses = [(u.metrics["loss"], u.samples) for u in updates if "loss" in u.metrics]
        weight = sum(count for _, count in losses)
        made = Made(
            steps=sum(one.steps for one in good),
            samples=samples,
            seconds=time.monotonic() - begun,
            metrics={"loss": sum(loss * count for loss, count in losses) / weight} if weight else {},
        )
        return Product(
            partial, msgspec.json.encode(counted | {update.client: ask.order for update in updates}), made
        )

    async def _all(
        self,
        ask: Ask,
        rules: SumRules,
        trainable: tuple[Digest, bytes],
        weights: bytes,
        counted: _Counted,
    ) -> list[_Came]:
        """What came of each child in time, in the settings' order."""
        packed = await asyncio.to_thread(lambda: encode_model(read_weights(weights)).data)

        async def broadcast(digest: Digest, holds: tuple[Digest, ...]) -> Broadcast:
            return Broadcast(packed, None)

        deadline_s = ask.work.deadline_s * _SHARE
        tasks = [
            asyncio.ensure_future(self._child(address, ask, rules, trainable, counted, broadcast))
            for address in self._children
        ]
        try:
            await asyncio.wait(tasks, timeout=deadline_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [
            task.result() if not task.cancelled() and task.exception() is None else _Came(None, reason="late")
            for task in tasks
        ]

    async def _child(
        self,
        address: str,
        ask: Ask,
        rules: SumRules,
        trainable: tuple[Digest, bytes],
        counted: _Counted,
        broadcast: Callable[[Digest, tuple[Digest, ...]], Awaitable[Broadcast]],
    ) -> _Came:
        """One child's update; a lost link is made again until the time is over."""
        order = ask.order
        while True:
            try:
                client = await self._reach(address, order.run, trainable)
                training = replace(ask.work.training, seed=seed_of(rules.seed, client.name, order))
                deadline_s = ask.work.deadline_s * _SHARE
                work = Work(ask.work.model, training, deadline_s, None, counted.get(client.name))
                state = await client.offer(order, work, ask.encoding)
                if state.state == "declined":
                    return _Came(None, reason=state.reason)
                if state.state == "accepted":
                    await client.send(order, broadcast)
                state = await client.outcome(order, lambda _: None)
                if state.state == "failed":
                    return _Came(None, reason=state.reason)
                if state.state == "done":
                    data = await client.fetch(Digest(state.update), int(state.update_bytes))
                    update = await asyncio.to_thread(decode_update, data)
                    return _Came(client, update, int(state.steps))
            except (LinkLost, PeerUnreachable):
                pass
            except CollabError as error:
                return _Came(None, reason=str(error))
            await asyncio.sleep(_AGAIN_S)

    async def settle(self, order: OrderId, counted: bool) -> None:
        """Tell the children what became of the sum; who does not hear it learns it from the next offer."""
        for client in self._clients.values():
            with suppress(CollabError):
                await client.end(order, counted)

    async def leave(self, run: str) -> None:
        """The run is over."""
        for address in [a for a, client in self._clients.items() if client.run == run]:
            with suppress(CollabError):
                await self._clients.pop(address).leave(OrderId(run, 0))


def _summed(order: OrderId, rules: SumRules, weights: bytes, came: list[_Came]) -> tuple[list[_Came], bytes]:
    """Who passed the gate, and the sum of their updates."""
    model = read_weights(weights)
    enrolled = {str(one.client.name): one.client.samples for one in came if one.client is not None}
    gate = Gate(rules.gate, model, order.round, enrolled)
    aggregator = RoundAggregator(rules.aggregation, model)
    good = []
    for one in came:
        if one.client is None or one.update is None:
            continue
        refusal = gate.judge(one.update, one.client.name)
        if refusal is not None:
            one.reason = str(refusal)
            continue
        aggregator.add(one.update)
        good.append(one)
    return good, aggregator.partial() if good else b""
