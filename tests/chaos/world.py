"""A secured cluster of processes on emulated hosts, and what can be done to it while it runs."""

from __future__ import annotations

import asyncio
import json
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from collab.security.broker import mosquitto_config
from tests.chaos.client import Settings
from tests.chaos.schedule import BROKER, Fault, Kind
from tests.identities import Identities
from tests.integration.processes import NodeProcess, environment
from tests.mosquitto import program
from tests.shaped import Shape, ShapedNetwork

LINK: Final = Shape(0.5, 1000)
"""Every link, while nothing is wrong with it."""
PORT: Final = 7000
ANSWER_S: Final = 60.0
START_S: Final = 90.0
"""Several start at once, and others work meanwhile."""
CUTS: Final = (10, 20)
KINDS: Final = {"coaps+tcp": "coap+tcp", "mqtts": "mqtt"}
"""What plans call transports by whose scheme addresses begin otherwise."""
REMEDY: Final = (
    "links are cut by nftables: run as root where it is installed (Debian: apt-get install nftables)"
)
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"

_RULES: Final = """
table inet chaos {
    set cut { type ipv4_addr; }
    chain input {
        type filter hook input priority 0; policy accept;
        ip saddr @cut drop
    }
}
"""


class ClientProcess:
    """A requester on a host; see `tests.chaos.client`."""

    def __init__(self, net: ShapedNetwork, host: str, settings: Settings, folder: Path) -> None:
        self.host = host
        self.log = folder / f"{host}.log"
        file = folder / f"{host}.json"
        file.write_bytes(msgspec.json.encode(settings))
        self._command = [*net.inside(host), sys.executable, "-m", "tests.chaos.client", str(file)]
        self._process: subprocess.Popen[str] | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> ClientProcess:
        with self.log.open("ab") as log:
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
            )
        assert await asyncio.to_thread(self._read, ANSWER_S) == "ready"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_finish, process)
            said = self.log.read_text(errors="replace")
            for text in ("Traceback", "never retrieved", "Exception ignored"):
                assert kind is not None or text not in said, said

    async def ask(self, what: str, patience_s: float = ANSWER_S, **more: Any) -> Any:
        """One command; its answer."""
        async with self._turn:
            return await asyncio.to_thread(self._ask, {"do": what, **more}, patience_s)

    def _ask(self, command: dict[str, Any], within_s: float) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read(within_s)

    def _read(self, within_s: float) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], within_s)
        line = self._process.stdout.readline() if readable else ""
        assert line, f"{self.host} does not answer: {self.log.read_text(errors='replace')[-3000:]}"
        return json.loads(line)


def _finish(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class World:
    """Hosts, a node on each that belongs to a stage, and clients on others.

    Everything that takes time is a coroutine; what blocks runs in a thread.
    """

    def __init__(
        self,
        folder: Path,
        stages: Sequence[Sequence[str]],
        clients: Sequence[str] = ("client",),
        *,
        seed: int = 0,
        scheme: str = "grpc",
        options: Sequence[str] = (),
    ) -> None:
        self.stages = tuple(map(tuple, stages))
        self.names = [name for stage in stages for name in stage]
        self._identities: dict[str, str] = {}
        self._folder = folder
        self._clients = clients
        self._scheme = scheme
        self._options = options
        brokers = [BROKER] if scheme == "mqtts" else []
        self.net = ShapedNetwork([*self.names, *clients, *brokers], {}, LINK, seed=seed)
        self.nodes: dict[str, NodeProcess] = {}
        self._stack = AsyncExitStack()
        self._shaping = asyncio.Lock()
        """The network's methods are for one thread at a time."""

    async def __aenter__(self) -> World:
        assert shutil.which("nft", path=_PATH), REMEDY
        try:
            self._identities = await asyncio.to_thread(self._enrol)
            await asyncio.to_thread(self.net.__enter__)
            self._stack.push_async_callback(asyncio.to_thread, self.net.__exit__, None, None, None)
            for host in self.net.network.hosts:
                await self._nft(host, _RULES)
            if self._scheme == "mqtts":
                await asyncio.to_thread(self._stack.enter_context, self._broker())
            for name in self.names:
                self.nodes[name] = await asyncio.to_thread(self._node, name)
                self._stack.push_async_callback(asyncio.to_thread, _leave, self.nodes[name])
                await asyncio.to_thread(self.nodes[name].begin)
            for node in self.nodes.values():
                await asyncio.to_thread(node.await_ready, START_S)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def _enrol(self) -> dict[str, str]:
        """An identity for each host."""
        made = Identities(self._folder)
        if self._scheme == "mqtts":
            certificate, key = made.authority.issue_server([self.net.address(BROKER)])
            authority = made.of(self.names[0]).pem().authority
            (self._folder / BROKER).mkdir()
            for name, data in (("authority", authority), ("certificate", certificate), ("key", key)):
                (self._folder / BROKER / f"{name}.pem").write_bytes(data)
        roles = dict.fromkeys(self.names, "node") | dict.fromkeys(self._clients, "operator")
        return {name: str(made.directory(name, role)) for name, role in roles.items()}

    @contextmanager
    def _broker(self) -> Iterator[None]:
        """A broker that takes the cluster's certificates alone."""
        folder = self._folder / BROKER
        settings = mosquitto_config(
            host=self.net.address(BROKER),
            port=PORT,
            authority=str(folder / "authority.pem"),
            certificate=str(folder / "certificate.pem"),
            key=str(folder / "key.pem"),
        )
        (folder / "mosquitto.conf").write_text("user root\n" + settings)
        command = [*self.net.inside(BROKER), program(), "-c", str(folder / "mosquitto.conf")]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                yield
            finally:
                process.terminate()

    def _node(self, name: str) -> NodeProcess:
        listen = f"{self.net.address(name)}:{PORT}"
        if self._scheme != "grpc":
            listen = f"{self._scheme}://{listen}"
        if self._scheme == "mqtts":
            listen = f"mqtts://{self.net.address(BROKER)}:{PORT}"
        options = ("--identity", self._identities[name], "--listen", listen, *self._options)
        return NodeProcess(name, self._folder, *options, wrapper=self.net.inside(name))

    def client(self, host: str = "client", **settings: Any) -> ClientProcess:
        """A requester that is not started yet; the first to start deploys."""
        endpoints = {name: node.endpoint for name, node in self.nodes.items()}
        made = Settings(
            endpoints,
            [list(stage) for stage in self.stages],
            list(CUTS),
            self._identities[host],
            transport=KINDS.get(self._scheme, self._scheme),
            **settings,
        )
        return ClientProcess(self.net, host, made, self._folder)

    # --- faults ------------------------------------------------------------------

    async def inject(self, fault: Fault) -> None:
        """Let a fault happen, and repair it after its time."""
        repair = await self._harm(fault)
        try:
            await asyncio.sleep(fault.duration_s)
        finally:
            await repair

    async def _harm(self, fault: Fault) -> Any:
        """Begin a fault; what ends it, not started."""
        target, other = fault.target, fault.other
        if fault.kind in (Kind.KILL, Kind.RESTART, Kind.FREEZE):
            node = self.nodes[target]
            if fault.kind is Kind.FREEZE:
                node.send(signal.SIGSTOP)
                return asyncio.to_thread(node.send, signal.SIGCONT)
            await asyncio.to_thread(_kill if fault.kind is Kind.KILL else _drain, node)
            return asyncio.to_thread(_start, node)
        if fault.kind in (Kind.CUT, Kind.ONE_WAY):
            pairs = [(target, other), (other, target)][: 2 if fault.kind is Kind.CUT else 1]
            await self.cut(pairs)
            return self.mend(pairs)
        await self._shape(target, other, _shape(fault))
        return self._shape(target, other, LINK)

    async def cut(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Let no packet pass from the first to the second of each pair."""
        await self._cuts("add", pairs)

    async def mend(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Let packets pass again."""
        await self._cuts("delete", pairs)

    async def _cuts(self, verb: str, pairs: Sequence[tuple[str, str]]) -> None:
        for target in dict.fromkeys(target for _, target in pairs):
            sources = [self.net.address(one) for one, at in pairs if at == target]
            await self._nft(target, f"{verb} element inet chaos cut {{ {', '.join(sources)} }}")

    async def _nft(self, host: str, rules: str) -> None:
        done = await asyncio.to_thread(
            subprocess.run,
            [*self.net.inside(host), "nft", "-f", "-"],
            input=rules,
            text=True,
            capture_output=True,
            timeout=20,
            check=False,
            env=environment(PATH=_PATH),
        )
        assert done.returncode == 0, f"nft on {host}: {done.stderr}; {REMEDY}"

    async def _shape(self, one: str, other: str, shape: Shape) -> None:
        async with self._shaping:
            for source, target in ((one, other), (other, one)):
                await asyncio.to_thread(self.net.shape, source, target, **vars(shape))


def _start(node: NodeProcess) -> None:
    node.begin()
    node.await_ready(START_S)


def _kill(node: NodeProcess) -> None:
    node.kill()


def _drain(node: NodeProcess) -> None:
    assert node.stop() == 0, node.text()


def _leave(node: NodeProcess) -> None:
    node.__exit__(None, None, None)


def _shape(fault: Fault) -> Shape:
    changes: dict[Kind, dict[str, float]] = {
        Kind.LOSS: {"loss": fault.amount},
        Kind.CORRUPT: {"corrupt": fault.amount},
        Kind.DELAY: {"delay_ms": fault.amount},
        Kind.REORDER: {"reorder": fault.amount},
        Kind.DUPLICATE: {"duplicate": fault.amount},
    }
    return replace(LINK, **changes[fault.kind])
