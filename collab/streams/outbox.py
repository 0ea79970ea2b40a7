"""What waits for a sink: bounded, tried again, counted."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

from collab.errors import CollabError, PeerError
from collab.streams.backoff import pause_s
from collab.streams.sinks.base import Sink

log = logging.getLogger("collab.streams")


class Outbox:
    """Delivers answers to one sink, in their order.  ``start`` before use, ``close`` after.

    Every answer is `delivered` or `lost`, once; those that wait are neither yet.
    """

    def __init__(self, name: str, sink: Sink, rng: Random | None = None) -> None:
        self.name = name
        self.delivered = 0
        self.lost = 0
        self.trouble = ""
        """Why answers do not arrive at present."""
        self._sink = sink
        self._rng = rng or Random()
        self._waiting: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._in_hand = 0
        self._closing = False
        self._open = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collab-sink")
        self._work: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sink; raises what that raises, unless it is that it is away."""
        try:
            await self._off_loop(self._sink.open)
            self._open = True
        except PeerError as error:
            self._fail(error)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        self._work = asyncio.ensure_future(self._deliver())

    async def put(self, answer: bytes) -> None:
        """Have an answer delivered; waits for room where the sink loses none."""
        while len(self._waiting) >= self._sink.waiting:
            if self._sink.loses:
                self._waiting.popleft()
                self.lost += 1
                continue
            self._changed.clear()
            await self._changed.wait()
        self._waiting.append(answer)
        self._changed.set()

    @property
    def waiting(self) -> int:
        """Answers that are not delivered yet."""
        return len(self._waiting) + self._in_hand

    async def close(self, within_s: float) -> None:
        """Deliver what waits, for so long at most; what is left is lost.  Never raises."""
        self._closing = True
        self._changed.set()
        if self._work is not None:
            await asyncio.wait((self._work,), timeout=within_s)
            self._sink.stop()
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        self.lost += self.waiting
        self._waiting.clear()
        self._in_hand = 0
        self._changed.set()
        await asyncio.shield(self._off_loop(self._sink.close))
        self._thread.shutdown(wait=False)

    async def _deliver(self) -> None:
        while True:
            while not self._waiting:
                if self._closing:
                    return
                self._changed.clear()
                await self._changed.wait()
            batch = [self._waiting.popleft() for _ in range(min(self._sink.batch, len(self._waiting)))]
            self._in_hand = len(batch)
            self._changed.set()
            if await self._tried(batch):
                self.delivered += len(batch)
                self.trouble = ""
            else:
                self.lost += len(batch)
            self._in_hand = 0

    async def _tried(self, batch: Sequence[bytes]) -> bool:
        """Whether answers were delivered, after as many tries as the sink allows."""
        for failures in range(1, self._sink.tries + 1):
            try:
                if not self._open:
                    await self._off_loop(self._sink.open)
                    self._open = True
                await self._off_loop(self._sink.write, batch)
                return True
            except PeerError as error:
                await self._failed(error)
                if failures < self._sink.tries:
                    await asyncio.sleep(pause_s(failures, self._rng))
            except CollabError as error:
                await self._failed(error)
                return False
        return False

    async def _failed(self, error: CollabError) -> None:
        self._fail(error)
        self._open = False
        await self._off_loop(self._sink.close)

    def _fail(self, error: CollabError) -> None:
        text = str(error)
        if text != self.trouble:
            log.warning("sink %s: %s", self.name, text)
        self.trouble = text

    async def _off_loop(self, function: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
