"""``collab serve`` as a child process, and plans for it as files."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from collab.assembly import build_cluster
from collab.cli.files import write_plan
from collab.coordinator.deploy import Blobs, deploy
from collab.core.plan import Plan
from tests.integration.processes import START_S, STOP_S, environment


class ServeProcess:
    """``collab serve`` until it is left; ``rest`` is a URL and ``grpc`` HOST:PORT."""

    def __init__(
        self, folder: Path, plans: Sequence[Path], *options: str, env: dict[str, str] | None = None
    ) -> None:
        self.log = folder / f"serve-{time.monotonic_ns()}.log"
        self.plans = tuple(plans)
        self._arguments = [*map(str, plans), *options]
        if "--listen" not in options:
            self._arguments += ["--listen", "127.0.0.1:0"]
        if "--grpc" not in options:
            self._arguments += ["--grpc", "127.0.0.1:0"]
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.event: dict[str, Any] = {}

    @property
    def rest(self) -> str:
        """Where REST is."""
        return str(self.event["rest"])

    @property
    def grpc(self) -> str:
        """Where gRPC is."""
        return str(self.event["grpc"])

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    def __enter__(self) -> ServeProcess:
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collab", "serve", *self._arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(**self._env),
            )
        stdout = self.process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], START_S)
        line = stdout.readline() if readable else b""
        if not line:
            self.stop()
            raise AssertionError(self.log.read_text())
        self.event = json.loads(line)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        process = self.process
        process.send_signal(number)
        try:
            return process.wait(STOP_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
            self._process = None

    def kill(self) -> None:
        """End it at once."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            assert self.stop() == 0, self.log.read_text()
        assert kind is not None or "Traceback" not in self.log.read_text(), self.log.read_text()


def plan_file(folder: Path, plan: Plan) -> Path:
    """A plan as people keep it."""
    path = folder / f"{plan.name}.yaml"
    write_plan(path, plan)
    return path


async def bring_up(plan: Plan, blobs: Blobs) -> None:
    """Deploy a plan, and leave it."""
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
