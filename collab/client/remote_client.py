"""One client of a federated run as the server reaches it: offers, broadcasts, progress, downloads."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from collab.client.control import Control
from collab.client.training import TrainingControl, order_message
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest, NodeName
from collab.errors import Conflict, IntegrityError, PeerUnreachable, StoreError
from collab.federated.compression.settings import Compression
from collab.federated.orders import MAX_ORDER_S, Capabilities, OrderId, SumRules, Work
from collab.federated.server_work import Broadcast
from collab.federated.task import Privacy
from collab.link.link import Link

WAIT_S: Final = 15.0
"""How long one question for the state of an order may take to be answered."""

MakeBroadcast = Callable[[Digest, tuple[Digest, ...]], Awaitable[Broadcast]]


class RemoteClient:
    """A node that takes part; its link may come and go.  Raises what the node reports, or `PeerError`."""

    def __init__(self, name: NodeName, run: str, trainable: tuple[Digest, bytes], scratch: Path) -> None:
        self.name = name
        self.link: Link | None = None
        self.run = run
        self.samples = 0
        self.gateway = False
        """Whether it sends sums of what others send to it."""
        self.abilities: frozenset[str] = frozenset()
        self.state = ""
        """What it is at, for people."""
        self._trainable = trainable
        self._scratch = scratch
        self._lacks: dict[tuple[OrderId, bool], tuple[list[Digest], tuple[Digest, ...]]] = {}
        """What the node lacked and held when it took its order."""
        self._step_s: float | None = None
        self._rates: dict[str, float] = {}
        self._evaluation_bytes = 0
        """Sent for evaluations; the next order's model came with them."""

    @property
    def _training(self) -> TrainingControl:
        return TrainingControl(self._control)

    @property
    def _control(self) -> Control:
        if self.link is None or self.link.ended is not None:
            raise PeerUnreachable(f"node {self.name!r}: no link to it; is it running?")
        return Control(self.link)

    # --- joining -------------------------------------------------------------------

    async def enrol(self) -> Capabilities:
        """What it is able to do; sends the trainable model if it lacks it."""
        digest, data = self._trainable
        found = await self._training.describe(self.run, digest)
        if found.trainer and not found.ready:
            await self._control.put_blob(digest, data)
            found = await self._training.describe(self.run, digest)
        self.samples, self.abilities = int(found.samples), frozenset(found.encodings)
        self._step_s, self.gateway = found.step_s or None, found.children > 0
        return self.capabilities(found.refusal, tuple(Digest(held) for held in found.holds))

    def capabilities(self, refusal: str = "", holds: tuple[Digest, ...] = ()) -> Capabilities:
        """What is known of it by now."""
        return Capabilities(
            samples=self.samples,
            step_s=self._step_s,
            down_bytes_s=self._rates.get("down"),
            up_bytes_s=self._rates.get("up"),
            rtt_s=self.link.rtt_us / 1e6 if self.link is not None else 0.0,
            willing=not refusal,
            reason=refusal,
            holds=holds,
        )

    # --- an order --------------------------------------------------------------------

    async def offer(
        self,
        order: OrderId,
        work: Work,
        encoding: Compression,
        private: Privacy | None = None,
        sums: SumRules | None = None,
        masked: bool = False,
    ) -> pb.TrainingState:
        """Ask it to train, to add noise itself if privacy is local, and to mask what comes of it."""
        local = private if private is not None and private.place == "local" else None
        request = pb.OfferTrainingRequest(
            order=order_message(order),
            trainable=self._trainable[0],
            weights=work.model,
            control=work.control or "",
            training=msgspec.json.encode(work.training),
            encoding=msgspec.json.encode(encoding.for_peer(self.abilities)),
            deadline_s=min(max(work.deadline_s, 0.001), MAX_ORDER_S),
            counted=order_message(work.counted) if work.counted is not None else None,
            sums=msgspec.json.encode(sums) if sums is not None and self.gateway else b"",
            due_s=work.due_s if work.due_s is not None and self.gateway else 0.0,
            clip=local.clip if local is not None else 0.0,
            noise_multiplier=local.noise_multiplier if local is not None else 0.0,
            masked=masked,
        )
        return await self._offer(order, request)

    async def _offer(self, order: OrderId, request: pb.OfferTrainingRequest) -> pb.TrainingState:
        reply = await self._training.offer(request)
        lacks, holds = map(Digest, reply.lacks), tuple(map(Digest, reply.holds))
        evaluate = request.order.evaluate
        self._lacks = {key: value for key, value in self._lacks.items() if key[1] != evaluate}
        self._lacks[order, evaluate] = (list(lacks), holds)
        state: pb.TrainingState = reply.state
        return state

    async def send(self, order: OrderId, broadcast: MakeBroadcast, evaluate: bool = False) -> int:
        """Give it what it lacked, and have it begin; bytes of the blobs."""
        lacks, holds = self._lacks.pop((order, evaluate), ([], ()))
        begun, message = time.monotonic(), order_message(order, evaluate)
        parts, sent = await self._put(lacks, broadcast, holds)
        try:
            await self._training.begin(message, parts)
        except (Conflict, StoreError):
            if not any(part.base for part in parts):
                raise
            # It has lost what the difference is to.
            parts, more = await self._put(lacks, broadcast, ())
            await self._training.begin(message, parts)
            sent += more
        self._measure("down", sent, begun)
        if evaluate:
            self._evaluation_bytes += sent
            return sent
        sent, self._evaluation_bytes = sent + self._evaluation_bytes, 0
        return sent

    async def _put(
        self, lacks: list[Digest], broadcast: MakeBroadcast, holds: tuple[Digest, ...]
    ) -> tuple[list[pb.EncodedWeights], int]:
        parts, sent = [], 0
        for digest in lacks:
            made = Broadcast(self._trainable[1], None)
            if digest != self._trainable[0]:
                made = await broadcast(digest, holds)
            await self._control.put_blob(made.digest, made.data)
            sent += len(made.data)
            if digest != self._trainable[0]:
                parts.append(pb.EncodedWeights(weights=digest, blob=made.digest, base=made.base or ""))
        return parts, sent

    async def outcome(
        self, order: OrderId, progress: Callable[[pb.TrainingState], None], evaluate: bool = False
    ) -> pb.TrainingState:
        """Wait until it is done or failed, or does not know of the order."""
        while True:
            state = await self._training.status(order_message(order, evaluate), WAIT_S)
            progress(state)
            if state.state not in ("accepted", "training"):
                if state.steps:
                    self._step_s = state.seconds / state.steps
                return state

    async def fetch(self, digest: Digest, size: int) -> bytes:
        """Download an update, from where an earlier download of it ended; raises `IntegrityError`."""
        path = self._scratch / digest
        begun = time.monotonic()
        offset = await asyncio.to_thread(_size, path)

        def keep(at: int, data: bytes) -> None:
            with open(path, "ab") as file:
                file.truncate(at)
                file.write(data)

        if offset < size:
            await self._training.get_blob(digest, size, offset, keep)
        self._measure("up", size - offset, begun)
        return await asyncio.to_thread(_finished, path, digest)

    async def mask(self, order: OrderId, message: bytes) -> bytes:
        """Its answer to a message of a secure sum."""
        return await self._training.mask(order_message(order), message)

    async def end(self, order: OrderId, counted: bool) -> None:
        """It may forget what it keeps for an order."""
        await self._training.end(order_message(order), counted=counted)

    async def leave(self, order: OrderId) -> None:
        """The run is over."""
        await self._training.end(order_message(order), leave=True)

    async def evaluate(
        self, order: OrderId, model: Digest, deadline_s: float, broadcast: MakeBroadcast
    ) -> pb.TrainingState:
        """Have it evaluate weights on data that it holds out."""
        request = pb.OfferTrainingRequest(
            order=order_message(order, True),
            trainable=self._trainable[0],
            weights=model,
            deadline_s=min(deadline_s, MAX_ORDER_S),
        )
        state = await self._offer(order, request)
        if state.state == "accepted":
            await self.send(order, broadcast, evaluate=True)
            state = await self.outcome(order, lambda _: None, evaluate=True)
        return state

    def _measure(self, way: str, size: int, begun: float) -> None:
        seconds = time.monotonic() - begun
        if size > 4096 and seconds > 0:
            self._rates[way] = size / seconds


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _finished(path: Path, digest: Digest) -> bytes:
    data = path.read_bytes()
    path.unlink()
    if hashlib.sha256(data).hexdigest() != digest:
        raise IntegrityError(f"update {digest[:12]}: what came has another digest")
    return data
