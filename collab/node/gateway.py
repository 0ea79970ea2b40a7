"""A gateway's part of a round: its children train, and one sum of their updates goes on.

Sums are of whole numbers, so a model that was made over gateways has the bits of one that
was made of all updates.  Children are asked as a server asks: they name this node in
``training.gateways``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from collab.client.remote_client import RemoteClient
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest
from collab.errors import BackendError, CollabError, LinkLost, PeerUnreachable
from collab.federated.aggregate.rounds import RoundAggregator
from collab.federated.children import MAX_NAME, MAX_REASON, Kind
from collab.federated.compression.models import encode_model
from collab.federated.compression.updates import decode_update
from collab.federated.evaluating import Evaluating
from collab.federated.exchange import read_weights
from collab.federated.gate import Gate, Refusal, malformed
from collab.federated.orders import OrderId, SumRules, Work, seed_of
from collab.federated.records import Behind
from collab.federated.server_work import Broadcast
from collab.federated.task import Privacy
from collab.federated.update import Update
from collab.link.links import Links
from collab.node.training_files import Made
from collab.node.training_offer import Ask
from collab.node.training_work import Product

_SHARE: Final = 0.8
"""Of the time that is left for an order, for the children; the rest is for the sum and its way."""
_AGAIN_S: Final = 0.2

T = TypeVar("T")

OffLoop = Callable[..., Awaitable[Any]]
_Counted = dict[str, OrderId]
"""The last order of each child whose update is in a sum that counted."""


@dataclass
class _Came:
    """What came of one child."""

    told: Behind
    client: RemoteClient | None = None
    update: Update | None = None
    """One that counts, unless the gate refuses it."""
    steps: int = 0


def _left(name: str, kind: Kind, reason: str, field: str = "") -> _Came:
    told = Behind(client=name[:MAX_NAME], kind=kind, reason=reason[:MAX_REASON], field=field[:MAX_REASON])
    return _Came(told)


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
            reasons = "; ".join(f"{c.told.client}: {c.told.reason}" for c in came)
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
            children=tuple(one.told for one in came),
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
        broadcast = await _broadcast(weights)

        async def child(address: str) -> _Came:
            return await self._child(address, ask, rules, trainable, counted, broadcast)

        deadline_s = _for_children_s(ask.work)
        found = await self._within(deadline_s, child)
        late = f"no update within {deadline_s:.3g} s"
        return [
            one if isinstance(one, _Came) else _left(self._name_of(address), "late", late)
            for address, one in zip(self._children, found, strict=True)
        ]

    async def _within(self, deadline_s: float, work: Callable[[str], Awaitable[T]]) -> list[T | None]:
        """Do something with every child at once; None of those that were not ready or failed."""
        tasks = [asyncio.ensure_future(work(address)) for address in self._children]
        try:
            await asyncio.wait(tasks, timeout=deadline_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [None if task.cancelled() or task.exception() is not None else task.result() for task in tasks]

    def _name_of(self, address: str) -> str:
        client = self._clients.get(address)
        return client.name if client is not None else address

    async def evaluate(self, ask: Ask, trainable: tuple[Digest, bytes], weights: bytes) -> Made:
        """What weights are worth on what the children hold out; raises `BackendError` when none says."""
        begun, deadline_s = time.monotonic(), ask.work.deadline_s * _SHARE
        found, broadcast = Evaluating(self._children, math.inf), await _broadcast(weights)
        reasons: list[str] = []

        async def child(address: str) -> None:
            try:
                client = await self._reach(address, ask.order.run, trainable)
                state = await client.evaluate(ask.order, ask.work.model, deadline_s, broadcast)
            except CollabError as error:
                reasons.append(f"{self._name_of(address)}: {error}")
                return
            if state.state == "done":
                metrics = {metric.name: metric.value for metric in state.metrics}
                found.answered(address, int(state.samples), metrics)
            else:
                reasons.append(f"{client.name}: {state.reason or state.state}")

        await self._within(deadline_s, child)
        metrics = found.outcome()
        if not metrics:
            raise BackendError(f"no child has evaluated: {'; '.join(reasons) or 'all are late'}"[:400])
        samples = int(metrics.pop("samples"))
        return Made(samples=samples, seconds=time.monotonic() - begun, metrics=metrics)

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
                deadline_s = _for_children_s(ask.work)
                work = Work(ask.work.model, training, deadline_s, None, counted.get(client.name))
                state = await client.offer(order, work, ask.encoding, _private(ask))
                if state.state == "declined":
                    return _left(client.name, "declined", state.reason)
                if state.state == "accepted":
                    await client.send(order, broadcast)
                state = await client.outcome(order, lambda _: None)
                if state.state == "failed":
                    return _left(client.name, "failed", state.reason)
                if state.state == "done":
                    data = await client.fetch(Digest(state.update), int(state.update_bytes))
                    return await asyncio.to_thread(_came, client, state, data)
            except (LinkLost, PeerUnreachable):
                pass
            except CollabError as error:
                return _left(self._name_of(address), "failed", str(error))
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


async def _broadcast(weights: bytes) -> Callable[[Digest, tuple[Digest, ...]], Awaitable[Broadcast]]:
    """The model as every child gets it, whole."""
    packed = await asyncio.to_thread(lambda: encode_model(read_weights(weights)).data)

    async def broadcast(digest: Digest, holds: tuple[Digest, ...]) -> Broadcast:
        return Broadcast(packed, None)

    return broadcast


def _came(client: RemoteClient, state: pb.TrainingState, data: bytes) -> _Came:
    """An update as it was read."""
    name = str(client.name)
    try:
        update = decode_update(data)
    except CollabError as error:
        return _Came(_refused(malformed(name, error)), client)
    loss = update.metrics.get("loss")
    told = Behind(
        client=name, kind="counted", samples=update.samples, loss=loss, seconds=max(0.0, state.seconds)
    )
    return _Came(told, client, update, int(state.steps))


def _refused(refusal: Refusal) -> Behind:
    return _left(refusal.client, "refused", refusal.message, refusal.field).told


def _for_children_s(work: Work) -> float:
    """How long the children may take: a sum that comes when the round is closed is of no use."""
    due_s = work.deadline_s if work.due_s is None else min(work.due_s, work.deadline_s)
    return due_s * _SHARE


def _private(ask: Ask) -> Privacy | None:
    """The noise that each child adds to its own update, if any."""
    if not ask.clip:
        return None
    return Privacy(clip=ask.clip, noise_multiplier=ask.noise_multiplier, place="local")


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
            one.told = _refused(refusal)
            continue
        aggregator.add(one.update)
        good.append(one)
    return good, aggregator.partial() if good else b""
