"""Processes on the hosts of an emulated network: nodes, a broker, and those that ask."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from collab.coordinator.broker import find_mosquitto
from collab.emulation.orders import MAX_LINE, Answer, Asked, Done, Failed, Order
from collab.emulation.results import Asking
from collab.errors import PeerUnreachable, from_wire
from collab.transport.aio import timeout

START_S: Final = 90.0
"""Many start at once, on slow devices too."""
_ANSWER_S: Final = 600.0
_STOP_S: Final = 10.0
_LAST_S: Final = 1.0
"""Between the end of what a process says and its own."""
_ANSWERS: Final = msgspec.json.Decoder[Answer](Answer)


def environment(folder: Path) -> dict[str, str]:
    """Of a process that shall know nothing of this user's clusters."""
    root = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLAB_")}
    path = f"{root}{os.pathsep}{inherited}" if inherited else root
    return clean | {"PYTHONPATH": path, "XDG_CONFIG_HOME": str(folder / "no-config")}


class Hosted:
    """One process on a host; its log is in a folder."""

    def __init__(self, what: str, folder: Path, command: Sequence[str]) -> None:
        self.what = what
        self.log = folder / f"{what.replace(' ', '-')}.log"
        self._folder = folder
        self._command = tuple(command)
        self._process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> None:
        """Start the process."""
        log = await asyncio.to_thread(open, self.log, "ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment(self._folder),
                limit=MAX_LINE,
                # A signal at the terminal is for who started them.
                start_new_session=True,
            )
        finally:
            log.close()

    async def line(self, within_s: float) -> bytes:
        """What it says next; raises `PeerUnreachable` with the end of its log if it says nothing."""
        line = b""
        if self._process is not None and self._process.stdout is not None:
            with suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(within_s):
                    line = await self._process.stdout.readline()
        if not line:
            raise PeerUnreachable(f"{self.what} {await self._fate()}: {await self.last_words()}")
        return line

    async def _fate(self) -> str:
        """What became of a process that says nothing."""
        code = None
        if self._process is not None:
            with suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(_LAST_S):
                    code = await self._process.wait()
        if code is None:
            return "says nothing"
        if code == -signal.SIGKILL:
            return "was killed, as with less memory_mb than it needs"
        return f"ended with {code}"

    async def last_words(self) -> str:
        """The end of its log."""
        text = await asyncio.to_thread(self.log.read_text, "utf-8", "replace")
        return " ".join(text.split()[-40:]) or "its log is empty"

    @property
    def ended(self) -> bool:
        """Whether it was started and has ended."""
        return self._process is not None and self._process.returncode is not None

    def send(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def write(self, data: bytes) -> None:
        """Give it something to read."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        with suppress(ConnectionError):  # it has ended, which its answer, or none, will say
            await self._process.stdin.drain()

    async def end(self) -> None:
        """Kill it: what it knows is in a folder that goes, too."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        async with timeout(_STOP_S):
            await process.communicate()


class HostedNode(Hosted):
    """A ``collab node``; after the first time it starts at the same addresses."""

    def __init__(
        self, name: str, folder: Path, inside: Sequence[str], listen: Sequence[str], options: Sequence[str]
    ) -> None:
        command = [*inside, sys.executable, "-m", "collab", "node", "--name", name, "--json"]
        command += ["--listen", ",".join(listen), "--store", str(folder / f"store-{name}")]
        super().__init__(f"node {name}", folder, [*command, "--discovery", "none", *options])
        self.name = name
        self.endpoints: tuple[str, ...] = ()

    async def start(self) -> None:
        """Start, unless that has begun, and wait until it serves; raises `PeerUnreachable`."""
        if self._process is None:
            await self.spawn()
        event = json.loads(await self.line(START_S))
        if "error" in event:
            raise from_wire(event["error"]["code"], f"{self.what}: {event['error']['message']}")
        self.endpoints = tuple(event["endpoints"])

    async def do(self, verb: str) -> None:
        """What befalls it."""
        if verb == "kill":
            await self.end()
        elif verb == "start":
            await self.start()
        else:
            self.send(signal.SIGSTOP if verb == "stop" else signal.SIGCONT)


class HostedDesk(Hosted):
    """A process that asks; see `collab.emulation.desk`."""

    def __init__(self, host: str, folder: Path, inside: Sequence[str], settings: Path) -> None:
        command = [*inside, sys.executable, "-m", "collab.cli.desk", str(settings)]
        super().__init__(f"requester {host}", folder, command)
        self.host = host

    async def start(self) -> None:
        """Start and wait until it takes orders."""
        await self.spawn()
        answer = _ANSWERS.decode(await self.line(START_S))
        if isinstance(answer, Failed):
            raise from_wire(answer.code, f"{self.what}: {answer.message}")

    async def obey(
        self,
        order: Order,
        asked: Callable[[Asking], None] = lambda asking: None,
        within_s: float = _ANSWER_S,
    ) -> Done:
        """Have an order carried out, told of each request, with so long between two of them.

        Raises what the process reports, or `PeerUnreachable`.
        """
        await self.write(msgspec.json.encode(order) + b"\n")
        while True:
            answer = _ANSWERS.decode(await self.line(within_s))
            if isinstance(answer, Asked):
                asked(answer.asking)
            elif isinstance(answer, Failed):
                raise from_wire(answer.code, answer.message)
            elif isinstance(answer, Done):
                return answer


class HostedBroker(Hosted):
    """A mosquitto on a host."""

    def __init__(self, folder: Path, inside: Sequence[str], config: Path, host: str, port: int) -> None:
        super().__init__("broker", folder, [*inside, find_mosquitto(), "-c", str(config)])
        self._probe = [*inside, sys.executable, "-I", "-S", "-c", _PROBE, host, str(port)]

    async def start(self) -> None:
        """Start and wait until it takes connections; raises `PeerUnreachable`."""
        await self.spawn()
        probe = await asyncio.create_subprocess_exec(*self._probe, start_new_session=True)
        if await probe.wait():
            raise PeerUnreachable(f"the broker does not start: {await self.last_words()}")


_PROBE: Final = """
import socket, sys, time
for _ in range(500):
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
        break
    except OSError:
        time.sleep(0.02)
else:
    sys.exit(1)
"""
