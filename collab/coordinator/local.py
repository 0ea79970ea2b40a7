"""Node processes on this machine, for the demo, tests and measurements."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from collab.errors import PeerUnreachable
from collab.transport.aio import timeout

_STOP_S = 15.0


class LocalNode:
    """One node process; its log goes to a file beside its store.

    It listens on loopback, without an identity: the first address is the one to dial it at.
    ``python`` starts the interpreter, which may be one of another runtime class.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        options: Sequence[str] = (),
        *,
        listen: Sequence[str] = ("127.0.0.1:0",),
        python: Sequence[str] = (sys.executable,),
        start_s: float = 20.0,
    ) -> None:
        self.name = name
        self.endpoint = ""
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._options = tuple(options)
        self._listen = tuple(listen)
        self._python = tuple(python)
        self._start_s = start_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id; the node must have been started."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start and wait until it serves; after the first time at the same address.

        Raises `PeerUnreachable` with the end of its log if it does not come up.
        """
        first = self.endpoint.removeprefix("grpc://") or self._listen[0]
        command = [*self._python, "-m", "collab", "node", "--name", self.name, "--insecure"]
        command += ["--listen", ",".join((first, *self._listen[1:]))]
        command += ["--store", str(self._folder / self.name), "--json", *self._options]
        log = await asyncio.to_thread(open, self.log, "ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=dict(os.environ),
            )
        finally:
            log.close()
        assert self._process.stdout is not None
        try:
            async with timeout(self._start_s):
                line = await self._process.stdout.readline()
        except (TimeoutError, asyncio.TimeoutError):
            line = b""
        if not line:
            await self.stop(kill=True)
            text = await asyncio.to_thread(self.log.read_text, errors="replace")
            tail = " ".join(text.split()[-40:])
            raise PeerUnreachable(f"node {self.name!r} did not start: {tail or 'no log'}")
        self.endpoint = json.loads(line)["endpoints"][0]

    async def stop(self, kill: bool = False) -> int:
        """End the process by SIGTERM, or by SIGKILL if asked or if it does not end; its exit code."""
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            async with timeout(_STOP_S):
                await process.communicate()
        except (TimeoutError, asyncio.TimeoutError):
            process.kill()
            await process.communicate()
        self._process = None
        return process.returncode or 0


class LocalNodes:
    """Several node processes, all ended on leaving."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        options: Sequence[str] = (),
        listen: Sequence[str] = ("127.0.0.1:0",),
    ) -> None:
        self.nodes = {name: LocalNode(name, folder, options, listen=listen) for name in names}

    @property
    def endpoints(self) -> list[str]:
        """Addresses in the order of the names."""
        return [node.endpoint for node in self.nodes.values()]

    async def __aenter__(self) -> LocalNodes:
        try:
            await asyncio.gather(*(node.start() for node in self.nodes.values()))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        await asyncio.shield(
            asyncio.gather(*(node.stop() for node in self.nodes.values()), return_exceptions=True)
        )
