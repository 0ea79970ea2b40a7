"""Nodes and commands as processes, started as a script would start them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch

from collab.assembly import build_cluster
from collab.cli.main import main

ROOT = Path(__file__).parents[2]
NO_CONFIG = ROOT / "build" / "no-config"
"""Where no identity of the user's is."""
START_S = 30.0
STOP_S = 20.0
COMMAND_S = 60.0


def environment(**extra: str) -> dict[str, str]:
    """The environment of a process under test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLAB_")}
    return clean | {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(NO_CONFIG), **extra}


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """Lines on standard error that report one."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def collab(*arguments: object, code: int | None = 0, env: dict[str, str] | None = None) -> Finished:
    """Run a command to its end; ``code`` is the exit code that it must have."""
    done = subprocess.run(
        [sys.executable, "-m", "collab", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    finished = Finished(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in finished.err, finished.err
    assert code is None or finished.code == code, (finished, arguments)
    return finished


def command(*arguments: object) -> Finished:
    """Run a command in this process: quicker, for the many that fail early."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["collab", *map(str, arguments)]),
        patch.object(sys, "stdout", out),
        patch.object(sys, "stderr", err),
    ):
        try:
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
    return Finished(code, out.getvalue(), err.getvalue())


class NodeProcess:
    """``collab node`` as a child process, ended by its own handle."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *options: str,
        wrapper: Sequence[str] = (),
        python: str = sys.executable,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.store = folder / name
        self.log = folder / f"{name}.log"
        self.endpoint = ""
        self.events: list[dict[str, Any]] = []
        self.ready_s = 0.0
        self.may_complain = False
        """Whether a traceback in its log is expected."""
        self._command = [*wrapper, python, "-m", "collab", "node", "--name", name, "--store", str(self.store)]
        self._options = options
        self.env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    @property
    def place(self) -> str:
        """HOST:PORT."""
        return self.endpoint.removeprefix("grpc://")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    @property
    def resident_bytes(self) -> int:
        """Resident memory as the kernel counts it."""
        pages = (Path("/proc") / str(self.process.pid) / "statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def begin(self) -> None:
        """Start the process; after the first time at the same address."""
        options = self._options
        if "--listen" not in options and "--no-listen" not in options:
            options = ("--listen", self.place or "127.0.0.1:0", *options)
        if "--discovery" not in options:
            options = ("--discovery", "none", *options)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--json", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(**self.env),
            )
        self._unread = b""
        self._started = time.monotonic()

    def start(self) -> NodeProcess:
        """Start and wait until it says that it is ready."""
        self.begin()
        return self.await_ready()

    def await_ready(self, within_s: float = START_S) -> NodeProcess:
        """Wait for the event of a process that was begun."""
        event = self.await_event(within_s)
        self.ready_s = time.monotonic() - self._started
        assert event is not None, f"node {self.name} did not start: {self.text()}"
        assert event["event"] == "ready", event
        self.endpoint = event["endpoints"][0]
        return self

    def await_event(self, within_s: float) -> dict[str, Any] | None:
        """The next JSON line; None if the process ended without one."""
        stdout = self.process.stdout
        assert stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._unread:
            readable, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"node {self.name}: no event within {within_s} s: {self.text()}"
            data = os.read(stdout.fileno(), 65536)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal to this process and no other."""
        self.process.send_signal(number)

    def wait(self, within_s: float = STOP_S) -> int:
        """Wait for its end; reads the events that are left."""
        process = self.process
        try:
            code = process.wait(within_s)
            while self.await_event(1.0) is not None:
                pass
            return code
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
            self._process = None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self._process is None:
            return 0
        if self.process.poll() is None:
            self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def __enter__(self) -> NodeProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process is not None and self.process.poll() is None:
                self.send(signal.SIGCONT)
            self.stop()
        finally:
            if kind is None and not self.may_complain:
                for text in ("Traceback", "never retrieved", "Exception ignored"):
                    assert text not in self.text(), self.text()


@contextmanager
def running(nodes: Sequence[NodeProcess]) -> Iterator[list[NodeProcess]]:
    """Start nodes at once, and end each."""
    with ExitStack() as stack:
        for node in nodes:
            node.begin()
            stack.push(node)
        for node in nodes:
            node.await_ready()
        yield list(nodes)


def peers(nodes: Sequence[NodeProcess]) -> str:
    """As --peers takes them."""
    return ",".join(node.place for node in nodes)


def deployed(nodes: Sequence[NodeProcess]) -> dict[str, list[tuple[str, int, str, str]]]:
    """Plan, epoch, digest and state of everything on each node."""

    async def ask() -> dict[str, list[tuple[str, int, str, str]]]:
        async with build_cluster() as cluster:
            views = await cluster.describe(await cluster.reach([node.place for node in nodes]))
            return {
                name: sorted((p.plan, p.epoch, p.digest, p.state) for p in view.description.plans)
                for name, view in views.items()
            }

    return asyncio.run(ask())
