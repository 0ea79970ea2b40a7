"""Echo over a transport of ours: a server process and its client, at the level of connections.

``python -m benchmarks.ours ADDRESS NAME [IDENTITY-DIRECTORY] [inside]`` listens, prints its
contact address and ends with standard input.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from types import TracebackType

from collab.assembly import load_identity, transports
from collab.core.ids import NodeName
from collab.errors import LinkLost
from collab.link.secure import secure
from collab.node.memory import keep_large_buffers
from collab.transport.base import Connection, Security, Transport, split_address

WITHIN_S = 10.0
_NUMBERS = itertools.count(1)


def _transport(address: str, name: str, security: Security | None) -> Transport:
    return transports(name=NodeName(name), security=security)[split_address(address)[0]]


class OurEcho:
    """A connection to an echo server in a process of its own.

    With identities (directories of the client's and of the server's) the transport uses
    TLS; with ``inside`` TLS runs within the connection instead.
    """

    def __init__(
        self, address: str, identities: tuple[Path, Path] | None = None, inside: bool = False
    ) -> None:
        self._address = address
        self._identities = identities
        self._inside = inside
        self._number = next(_NUMBERS)

    async def __aenter__(self) -> OurEcho:
        # At a broker every end needs a name of its own.
        command = [sys.executable, "-m", "benchmarks.ours", self._address, f"server-{self._number}"]
        if self._identities is not None:
            command += [str(self._identities[1]), *(["inside"] if self._inside else [])]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        contact = (await self._process.stdout.readline()).decode().strip()
        security = load_identity(self._identities[0]) if self._identities is not None else None
        own = f"client-{self._number}"
        transport = _transport(contact, own, None if self._inside else security)
        self._connection: Connection = await transport.dial(await self.route(contact), WITHIN_S)
        if self._inside and security is not None:
            self._connection = await secure(self._connection, security, server_side=False, timeout_s=WITHIN_S)
        return self

    async def route(self, contact: str) -> str:
        """Where to dial."""
        return contact

    async def round_trip(self, message: bytes) -> None:
        """Send a message in the transport's frames and wait until all of it is back."""
        sending = asyncio.ensure_future(self._send(message))
        left = len(message)
        while left:
            left -= len(await self._connection.receive())
        await sending

    async def stream(self, message: bytes, count: int) -> None:
        """Send messages one after another while their echoes come back."""
        sending = asyncio.ensure_future(self._send_all(message, count))
        left = len(message) * count
        while left:
            left -= len(await self._connection.receive())
        await sending

    async def _send_all(self, message: bytes, count: int) -> None:
        for _ in range(count):
            await self._send(message)

    async def _send(self, message: bytes) -> None:
        view, most = memoryview(message), self._connection.max_frame_bytes
        for at in range(0, len(view), most):
            await self._connection.send([view[at : at + most]])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()
        await self._process.communicate(b"")


async def _serve(address: str, name: str, identity: Path | None, inside: bool) -> None:
    security = load_identity(identity)

    async def echo(connection: Connection) -> None:
        if inside and security is not None:
            connection = await secure(connection, security, server_side=True, timeout_s=WITHIN_S)
        try:
            while True:
                await connection.send([await connection.receive()])
        except LinkLost:
            return

    listener = await _transport(address, name, None if inside else security).listen(address, echo)
    print(listener.address, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await listener.close()


if __name__ == "__main__":
    keep_large_buffers()
    given = sys.argv[3:]
    directory = Path(given[0]) if given else None
    asyncio.run(_serve(sys.argv[1], sys.argv[2], directory, "inside" in given))
