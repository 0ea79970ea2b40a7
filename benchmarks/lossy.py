"""A UDP hop that delays every datagram and loses some.

``python -m benchmarks.lossy PORT DELAY-MS LOSS SEED`` prints its own port; datagrams from
its first peer go to PORT, answers go back.  It ends with standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from collections import deque
from types import TracebackType


class _Hop:
    def __init__(self, target: int, delay_s: float, loss: float, seed: int) -> None:
        self._target = ("127.0.0.1", target)
        self._delay_s, self._loss, self._rng = delay_s, loss, random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, socket.socket, bytes, tuple[str, int]]] = deque()
        self._client: tuple[str, int] | None = None
        self.near, self._far = _opened(), _opened()
        self._loop.add_reader(self.near, self._from, self.near)
        self._loop.add_reader(self._far, self._from, self._far)

    def _from(self, source: socket.socket) -> None:
        for _ in range(256):
            try:
                data, peer = source.recvfrom(65536)
            except BlockingIOError:
                break
            if source is self.near:
                self._client = peer
                target, way = self._target, self._far
            else:
                assert self._client is not None
                target, way = self._client, self.near
            if self._rng.random() >= self._loss:
                self._waiting.append((self._loop.time() + self._delay_s, way, data, target))
                if len(self._waiting) == 1:
                    self._loop.call_later(self._delay_s, self._due)

    def _due(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now + 0.0003:
            _, way, data, target = self._waiting.popleft()
            with contextlib.suppress(BlockingIOError):  # a full queue loses datagrams, as elsewhere
                way.sendto(data, target)
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._due)


def _opened() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind(("127.0.0.1", 0))
    return made


class LossyHop:
    """The hop in a process of its own."""

    def __init__(self, target: int, delay_ms: float, loss: float, seed: int = 1) -> None:
        self._arguments = (str(target), str(delay_ms), str(loss), str(seed))
        self.port = 0

    async def __aenter__(self) -> LossyHop:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.lossy", *self._arguments, stdin=pipe, stdout=pipe
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._process.communicate(b"")


async def _main() -> None:
    target, delay_ms, loss, seed = sys.argv[1:]
    hop = _Hop(int(target), float(delay_ms) / 1000, float(loss), int(seed))
    print(hop.near.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
