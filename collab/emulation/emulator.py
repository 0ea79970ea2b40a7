"""Start a network of hosts, put processes into it, change its links, read its counters.

    with EmulatedNetwork(star({"a": profile_named("lte"), "b": profile_named("wifi6")})) as net:
        subprocess.run([*net.inside("a"), "ping", "-c", "3", net.address("b")])

Everything lives in namespaces of a process of its own, which ends, and cleans up, when this
one does, however that happens.  The host's own network is not touched.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import msgspec

from collab.emulation.ability import PATH, BackendName, Choice, machine_lacks
from collab.emulation.cgroups import remove_group
from collab.emulation.counters import EmulatorCounts
from collab.emulation.devices import Limits
from collab.emulation.namespaces import end_processes_in
from collab.emulation.network import Network, without_service
from collab.emulation.profile import LinkProfile, check
from collab.emulation.traces import Opportunities, RateTrace, Trace
from collab.emulation.wire import Answer, Change, Count, Restart, Setup
from collab.errors import BackendError, ConfigError, from_wire

MTU: Final = 1500
LEAST_MTU: Final = 576
MOST_MTU: Final = 65_000
MAX_HOSTS: Final = 200
"""Each is a namespace and a few descriptors."""
MAX_LINKS: Final = 4096
_ANSWER_S: Final = 30.0
_JOIN: Final = (
    'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1" || exit 126; shift; n=$((n-1)); done; exec "$@"'
)
"""Puts a shell into groups, of which the count and the files come first, and becomes the command."""
_NONE: Mapping[str, Trace] = {}
_NO_LIMITS: Mapping[str, Limits] = {}


Net = TypeVar("Net", bound="EmulatedNetwork")


class EmulatedNetwork:
    """Hosts in namespaces, joined by emulated links, as a context manager.

    Entering raises BackendError where the machine cannot, ConfigError for a network that
    cannot be.  Its methods block for milliseconds and are for one thread at a time.

    Args:
        network: hosts, links, junctions.
        seed: of every random draw: the same packets meet the same fates (userspace only).
        backend: ``auto`` takes netem where the kernel has it and it can do the network.
        mtu: of every host's device.
        offload: let hosts send TCP in packets of up to 64 KiB, which count and are lost as the
            segments that they stand for; several times the throughput.
        limits: CPU and memory of hosts, by control groups.
        traces: what the files that profiles name hold.
    """

    def __init__(
        self,
        network: Network,
        *,
        seed: int = 0,
        backend: BackendName = "auto",
        mtu: int = MTU,
        offload: bool = True,
        limits: Mapping[str, Limits] = _NO_LIMITS,
        traces: Mapping[str, Trace] = _NONE,
    ) -> None:
        if not LEAST_MTU <= mtu <= MOST_MTU:
            raise ConfigError(f"mtu: {mtu}; give {LEAST_MTU} to {MOST_MTU}")
        for what, count, most in (
            ("hosts", len(network.hosts), MAX_HOSTS),
            ("links", len(network.links), MAX_LINKS),
        ):
            if count > most:
                raise ConfigError(f"{what}: there are {count}; the emulator takes {most}, so simulate them")
        for host in limits:
            network.address(host)
        for link in network.links:
            check(link.profile)
        self.network = network
        self.choice: Choice | None = None
        """The back end and why it is that one, after entering."""
        self._wanted: BackendName = backend
        self._seed, self._mtu, self._offload = seed, mtu, offload
        self._limits, self._traces = dict(limits), dict(traces)
        self._process: subprocess.Popen[bytes] | None = None
        self._made = Answer()
        self._namespaces: list[int] = []
        self._unread = b""

    def __enter__(self: Net) -> Net:
        missing = machine_lacks()
        if missing:
            raise BackendError(missing)
        setup = Setup(
            network=self.network,
            backend=self._wanted,
            seed=self._seed,
            mtu=self._mtu,
            offload=self._offload,
            limits=self._limits,
            traces={name: trace for name, trace in self._traces.items() if isinstance(trace, RateTrace)},
            opportunities={n: t for n, t in self._traces.items() if isinstance(t, Opportunities)},
        )
        root = Path(__file__).parents[2]
        inherited = os.environ.get("PYTHONPATH")
        path = f"{root}{os.pathsep}{inherited}" if inherited else str(root)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "collab.emulation.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PATH": PATH, "PYTHONPATH": path},
            bufsize=0,
        )
        try:
            self._made = self._ask(setup)
            self.choice = self._made.choice
            for descriptor in self._made.namespaces.values():
                # Open here too, so that no other namespace can get its number before all is cleaned up.
                place = f"/proc/{self._process.pid}/fd/{descriptor}"
                self._namespaces.append(os.open(place, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ANSWER_S)
        process.kill()
        process.wait()
        process.stdout.close()
        self._clean_up()

    def _clean_up(self) -> None:
        """What the process does itself unless it was killed."""
        held, self._namespaces = self._namespaces, []
        end_processes_in({os.fstat(namespace).st_ino for namespace in held})
        for namespace in held:
            os.close(namespace)
        for files in self._made.groups.values():
            for file in files:
                remove_group(Path(file).parent)
        self._made = Answer()

    def address(self, host: str) -> str:
        """Where other hosts reach it; of one behind a NAT its outside address."""
        return str(self.network.outside(host))

    def inside(self, host: str) -> tuple[str, ...]:
        """What stands before a command to run it on a host, under its limits."""
        process = self._running()
        self.network.address(host)
        enter = ("nsenter", f"--net=/proc/{process.pid}/fd/{self._made.namespaces[host]}", "--")
        files = self._made.groups.get(host)
        if not files:
            return enter
        return ("sh", "-c", _JOIN, "collab-limits", str(len(files)), *files, *enter)

    def change(self, one: str, other: str, profile: LinkProfile) -> None:
        """Another profile for a link, for what is sent after this returns; what is under way arrives.

        Raises ConfigError, and changes nothing, if there is no such link or profile.
        """
        check(profile)
        changed = self.network.changed(one, other, profile)
        self._ask(Change(one, other, profile))
        self.network = changed

    def cut(self, one: str, other: str) -> None:
        """Let nothing pass a link until `mend`; raises ConfigError if there is none."""
        self._ask(Change(one, other, without_service(self.network.link(one, other).profile)))

    def mend(self, one: str, other: str) -> None:
        """Give a link the profile again that it had, or was given, last."""
        self._ask(Change(one, other, self.network.link(one, other).profile))

    def restart(self, seed: int | None = None) -> None:
        """Count time, packets and random numbers from 0 again, with another seed if one is given.

        Links keep the profiles of now.
        """
        self._ask(Restart(seed))

    def counts(self) -> EmulatorCounts:
        """What has happened since the start, or since `restart`."""
        return msgspec.json.decode(self._ask(Count()).counts, type=EmulatorCounts)

    @property
    def process_id(self) -> int:
        """Of the emulator's own process."""
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BackendError("the emulated network does not run; enter it first")
        return self._process

    def _ask(self, question: object) -> Answer:
        process = self._running()
        assert process.stdin is not None
        gone = BackendError(f"the emulator (process {process.pid}) does not answer; start the network again")
        left = memoryview(msgspec.json.encode(question) + b"\n")
        try:
            while left:
                left = left[process.stdin.write(left) :]
        except BrokenPipeError as error:
            raise gone from error
        line = self._line()
        if line is None:
            raise gone
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise from_wire(answer.code, answer.error)
        return answer

    def _line(self) -> bytes | None:
        stdout = self._running().stdout
        assert stdout is not None
        while b"\n" not in self._unread:
            readable, _, _ = select.select([stdout], [], [], _ANSWER_S)
            data = os.read(stdout.fileno(), 1 << 20) if readable else b""
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line
