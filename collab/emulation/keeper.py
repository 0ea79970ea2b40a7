"""The emulator's process: holds namespaces, carries packets, and cleans up when its starter is gone.

It is started as ``python -m collab.emulation.keeper`` with commands at standard input.  The
end of that input, however the starter ended, ends what still runs in the hosts, their
control groups, and this process; with its descriptors the namespaces are gone.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from typing import Final

import msgspec

from collab.emulation.ability import Choice, choose_backend
from collab.emulation.backend import Backend
from collab.emulation.cgroups import Groups, machine_hierarchy
from collab.emulation.namespaces import end_processes_in, leave_network
from collab.emulation.netem import Netem, inexpressible, kernel_has_netem
from collab.emulation.traces import Trace
from collab.emulation.userspace import Userspace, make_precise
from collab.emulation.wire import MAX_LINE, Answer, Change, Command, Restart, Setup
from collab.errors import CollabError

_COMMANDS: Final = msgspec.json.Decoder(Command)


class _Lines:
    """Standard input, line by line, and answers at standard output."""

    def __init__(self) -> None:
        self._unread = b""

    def fileno(self) -> int:
        return 0

    def read(self) -> list[bytes] | None:
        """Whole lines that have come; None at the end."""
        data = os.read(0, 1 << 20)
        if not data or len(self._unread) > MAX_LINE:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return lines

    def serve(self, backend: Backend) -> bool:
        lines = self.read()
        if lines is None:
            return False
        return all(answer(_performed(backend, line)) for line in lines)


def answer(what: Answer) -> bool:
    """Write one; False when nobody reads them any more."""
    left = memoryview(msgspec.json.encode(what) + b"\n")
    try:
        while left:
            left = left[os.write(1, left) :]
    except BrokenPipeError:
        return False
    return True


def _performed(backend: Backend, line: bytes) -> Answer:
    try:
        command = _COMMANDS.decode(line)
        if isinstance(command, Change):
            backend.change(command.one, command.other, command.profile)
        elif isinstance(command, Restart):
            backend.restart(command.seed)
        else:
            return Answer(counts=msgspec.Raw(msgspec.json.encode(backend.counts())))
    except CollabError as error:
        return Answer(error=str(error), code=error.code)
    return Answer()


def _chosen(setup: Setup) -> Choice:
    if setup.backend == "userspace":
        return choose_backend(setup.backend, False, ())
    return choose_backend(setup.backend, kernel_has_netem(), inexpressible(setup.network))


def _made(setup: Setup, choice: Choice) -> Backend:
    if choice.backend == "netem":
        return Netem(setup.network, setup.mtu)
    traces: dict[str, Trace] = {**setup.traces, **setup.opportunities}
    return Userspace(setup.network, setup.seed, setup.mtu, traces, offload=setup.offload)


def _emulate(setup: Setup, control: _Lines, stack: ExitStack) -> None:
    leave_network()
    groups = Groups(machine_hierarchy())
    groups.sweep()
    stack.callback(groups.remove)
    files = {
        host: groups.make(number, setup.limits[host])
        for number, host in enumerate(setup.network.hosts)
        if host in setup.limits and setup.limits[host].controllers
    }
    choice = _chosen(setup)
    backend = _made(setup, choice)
    stack.callback(backend.close)
    stack.callback(lambda: end_processes_in(backend.inodes))
    make_precise()
    if answer(Answer(namespaces=backend.namespaces, groups=files, choice=choice)):
        backend.run(control)


def main() -> None:
    """Read the set-up, and run until standard input ends."""
    # A signal at the terminal is for the one who started this, whose end is seen at standard input.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control = _Lines()
    first: list[bytes] | None = []
    while first == []:
        first = control.read()
    if first is None:
        return
    with ExitStack() as stack:
        try:
            setup = msgspec.json.decode(first[0], type=Setup)
            _emulate(setup, control, stack)
        except CollabError as error:
            answer(Answer(error=str(error), code=error.code))


if __name__ == "__main__":
    main()
