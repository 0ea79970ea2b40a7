"""Two places for servers and clients, and what passes between them: namespaces joined by one cable.

Bytes are counted by the kernel on the cable, packet headers and acknowledgements included, so that it does
not matter who speaks which protocol, or what processes of one place say to each other.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.namespaces import Namespaces, run

SERVER: Final = "10.88.0.1"
DEVICES: Final = "10.88.0.2"


class Site:
    """Both places, with the processes in them; leaving ends all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._spaces = Namespaces()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Site:
        self._spaces.__enter__()
        self.server, self.devices = self._spaces.add("fs"), self._spaces.add("fd")
        self._cable, _ = self._spaces.join(self.server, f"{SERVER}/24", self.devices, f"{DEVICES}/24")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self._left():
            os.kill(pid, signal.SIGKILL)
        self._spaces.__exit__(kind, error, trace)

    def inside(self, space: str) -> tuple[str, ...]:
        """What stands before a command there."""
        return self._spaces.inside(space)

    def start(
        self, space: str, name: str, command: Sequence[object], env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """A process in one of the places; what it says goes into a file."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [*self.inside(space), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=self.folder,
            )
        self._processes.append(process)
        return process

    def bytes(self) -> int:
        """That have passed over the cable so far, both ways."""
        counters = (f"/sys/class/net/{self._cable}/statistics/{way}_bytes" for way in ("rx", "tx"))
        return sum(map(int, run(*self.inside(self.server), "cat", *counters).split()))

    def pids(self, space: str) -> list[int]:
        """Processes in one of the places."""
        return [int(line) for line in run("ip", "netns", "pids", space).split()]

    def _left(self) -> Iterable[int]:
        """What the processes have started and not ended."""
        return [*self.pids(self.server), *self.pids(self.devices)]


def peak_mb(pid: int) -> float:
    """Largest resident memory that a process has had, in 10^6 bytes; 0 when it is gone."""
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0][1]) * 1024 / 1e6 if found else 0.0


class Peaks:
    """Largest memory of all processes of two places together, and of each command line's kind."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._server: dict[int, float] = {}
        self._devices: dict[int, float] = {}

    def look(self) -> None:
        """Take note; short-lived processes are seen only if this is called while they run."""
        for space, peaks in ((self._site.server, self._server), (self._site.devices, self._devices)):
            for pid in self._site.pids(space):
                peaks[pid] = max(peak_mb(pid), peaks.get(pid, 0.0))

    @property
    def server_mb(self) -> float:
        """Of the largest process at the server's place."""
        return max(self._server.values(), default=0.0)

    def device_median_mb(self, count: int) -> float:
        """Median of the largest so many processes at the devices' place."""
        largest = sorted(self._devices.values(), reverse=True)[:count]
        return largest[len(largest) // 2] if largest else 0.0
