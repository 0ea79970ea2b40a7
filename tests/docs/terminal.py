"""A shell that commands of pages are typed into, on a network of its own."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.docs.pages import agrees

ROOT: Final = Path(__file__).parents[2]
ADDRESSES: Final = ("10.0.0.2", "10.0.0.5", "10.0.0.7", "10.0.0.8")
"""Machines of the pages: a broker, a laptop and two devices, all of them this one."""
COMMAND_S: Final = 60.0
STOP_S: Final = 20.0
_SHOWN: Final = 4000
"""Characters of the screen that a failure shows."""
_MARK: Final = "\x1e"
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
REMEDY: Final = (
    "commands of pages run on a network of their own: run this as root with util-linux and iproute2"
)


def environment(home: Path) -> dict[str, str]:
    """What somebody has who has just logged in: no settings of ours, and `collab` on the path."""
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        **kept,
        "PATH": path,
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "120",
    }


class Terminal:
    """A bash in a network namespace; everything that it started ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._home = folder.parent / f"{folder.name}-home"
        self.screen = ""
        """All output so far, without colours."""

    def __enter__(self) -> Terminal:
        self.folder.mkdir(exist_ok=True)
        self._home.mkdir(exist_ok=True)
        script, self._typed = os.pipe()
        try:
            self._shell = subprocess.Popen(
                ["unshare", "--net", "bash", f"/dev/fd/{script}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment(self._home),
                pass_fds=[script],
                start_new_session=True,
            )
        finally:
            os.close(script)
        assert self._shell.stdout is not None
        self._out = self._shell.stdout
        os.set_blocking(self._out.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        network = [
            "ip link set lo up",
            "ip link add net0 type veth peer name net1",
            *(f"ip addr add {address}/24 dev net0" for address in ADDRESSES),
            "ip link set net0 up",
            "ip link set net1 up",
        ]
        code = self.enter(" && ".join(network))
        assert code == 0, f"{REMEDY}\n{self.screen}"
        return self

    def enter(self, command: str, within_s: float = COMMAND_S) -> int:
        """Type a command and wait for the prompt; its exit code."""
        seen = self.screen.count(_MARK)
        text = f"{command}\nprintf '{_MARK}%s{_MARK}' $?\n"
        os.write(self._typed, text.encode())
        self._read_until(lambda: self.screen.count(_MARK) >= seen + 2, within_s, command)
        return int(self.screen.split(_MARK)[-2])

    def expect(self, shown: str, since: int, within_s: float = COMMAND_S) -> None:
        """Wait until the screen shows, after a place of it, what a page shows."""
        self._read_until(lambda: agrees(shown, self.screen[since:]), within_s, f"output like\n{shown}")

    def _read_until(self, done: Callable[[], bool], within_s: float, what: str) -> None:
        ends = time.monotonic() + within_s
        while not done():
            left = ends - time.monotonic()
            if left <= 0 or (self._selector.select(left) and not self._read()):
                raise AssertionError(
                    f"{what}: not within {within_s:g} s; the screen has\n{self.screen[-_SHOWN:]}"
                )

    def _read(self) -> bool:
        try:
            data = os.read(self._out.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        self.screen += _ESCAPES.sub("", data.decode("utf-8", "replace")).replace("\r", "\n")
        return bool(data)

    def running(self) -> list[str]:
        """Processes that were started here and have not ended, the shell itself left out."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                group = int((entry / "stat").read_text().rpartition(")")[2].split()[2])
                if group == self._shell.pid and int(entry.name) != self._shell.pid:
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return [command for command in found if command]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._typed)
        ends = time.monotonic() + STOP_S
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._shell.pid, number)
            except ProcessLookupError:
                break
            # The pipe ends when the last process that may write to it has.
            while time.monotonic() < ends and self._selector.select(ends - time.monotonic()):
                if not self._read():
                    break
            else:
                ends += STOP_S
                continue
            break
        self._shell.wait(STOP_S)
        self._selector.close()
        self._out.close()
