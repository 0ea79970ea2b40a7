"""A real mosquitto on loopback, with the configuration that this package writes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collab.security.broker import mosquitto_acl, mosquitto_config

START_S = 15.0


def program() -> str:
    """Where mosquitto is; its absence fails a test."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail("mosquitto is missing: apt-get install mosquitto", pytrace=False)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker process, which may be killed and started again at its port."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port = free_port()
        self.folder = folder
        acl, configuration = folder / "acl", folder / "mosquitto.conf"
        if settings.pop("acl", False):
            acl.write_text(mosquitto_acl())
            acl.chmod(0o600)
            settings["acl_file"] = str(acl)
        extra = settings.pop("extra", "")
        # A broker started by root would give up its rights, and could not read a temporary folder then.
        user = "user root\n"
        configuration.write_text(
            user + mosquitto_config(host="127.0.0.1", port=self.port, **settings) + extra
        )
        self._command = [program(), "-c", str(configuration)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"mosquitto does not start: {self.log[-2000:]}", pytrace=False)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.01)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        if process is not None:
            process.wait()

    def restart(self, how: int = signal.SIGTERM) -> None:
        """End it in the given way and start it again at the same port."""
        self.stop(how)
        self.start()

    async def restarted(self, how: int = signal.SIGTERM) -> None:
        """`restart`, while the event loop goes on."""
        await asyncio.to_thread(self.restart, how)


@contextlib.contextmanager
def mosquitto(**settings: Any) -> Iterator[Mosquitto]:
    """A running broker; ``settings`` are those of `mosquitto_config`, ``acl`` and ``extra`` lines."""
    with tempfile.TemporaryDirectory(prefix="collab-mosquitto-") as folder:
        broker = Mosquitto(Path(folder), **settings)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()
