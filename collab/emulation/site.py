"""A scenario's hosts with everything that runs on them: network, identities, broker, nodes, requesters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import msgspec

from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.emulation.ability import BackendName
from collab.emulation.counters import EmulatorCounts
from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.hosted import HostedBroker, HostedDesk, HostedNode
from collab.emulation.network import Network
from collab.emulation.orders import DeskSettings
from collab.emulation.placing import limits_of
from collab.emulation.profiles import profile_named
from collab.emulation.scenario import Scenario
from collab.emulation.timeline import Happening, SetLink
from collab.emulation.traces import Trace
from collab.errors import CollabError
from collab.security.authority import Authority, enrol_here
from collab.security.broker import mosquitto_config
from collab.security.certificates import certificate_pem
from collab.transport.aio import TaskGroup

PORT: Final = 7070
_HERE: Final = "127.0.0.1"
_RELAYS: Final = 2
_OTHER_PORT: Final = 7071
_BROKER_PORT: Final = 7072
_KINDS: Final = {"coap+tcp": ("coap+tcp", "coaps+tcp"), "coap+udp": ("coap+udp", "coap+udp")}
"""Schemes of a transport without and with certificates."""

Made = TypeVar("Made", bound="Site")
T = TypeVar("T")


async def _whole(action: Callable[[], T]) -> T:
    """A call in a thread that is not left in the middle: the emulator serves one at a time."""
    work = asyncio.ensure_future(asyncio.to_thread(action))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with suppress(CollabError):
            await work
        raise


class Site:
    """Entered, it runs; left, nothing of it does.

    Args:
        scenario: checked.
        network: of it.
        model: its file.
        traces: by the names in links' profiles.
        backend: of the emulator.
        folder: for identities, stores and logs; the caller's.
    """

    def __init__(
        self,
        scenario: Scenario,
        network: Network,
        model: Path,
        traces: Mapping[str, Trace],
        backend: BackendName,
        folder: Path,
    ) -> None:
        self.scenario, self.network, self.folder = scenario, network, folder
        self._model = model
        self.net = EmulatedNetwork(
            network,
            seed=scenario.seed,
            backend=backend,
            limits=limits_of(scenario.machines),
            traces=traces,
        )
        self.nodes: dict[str, HostedNode] = {}
        self.desks: list[HostedDesk] = []
        self._down: set[str] = set()
        self._identities: dict[str, Path] = {}
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self: Made) -> Made:
        try:
            if self.scenario.cluster.secured:
                await asyncio.to_thread(self._enrol)
            self._stack.push_async_callback(asyncio.to_thread, self.net.__exit__, None, None, None)
            await _whole(self.net.__enter__)
            await self.open_links()
            if self.scenario.cluster.broker:
                await self._begin(await asyncio.to_thread(self._broker))
            # Those behind a NAT join others, which have to be there.
            for behind in (False, True):
                names = [n for n in self.network.hosts if (n in self.network.behind_nat) == behind]
                found = {name: self._node(name) for name in names}
                await self._together(tuple(found.values()))
                self.nodes |= found
            askers = dict.fromkeys(self.scenario.requesters)
            self.desks = [await asyncio.to_thread(self._desk, host) for host in askers]
            await self._together(self.desks)
        except BaseException:
            await asyncio.shield(self._stack.aclose())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._stack.aclose())

    async def _together(self, processes: Sequence[HostedNode | HostedDesk]) -> None:
        async with TaskGroup() as group:
            for process in processes:
                group.create_task(self._begin(process))

    async def _begin(self, process: HostedNode | HostedDesk | HostedBroker) -> None:
        self._stack.push_async_callback(process.end)
        await process.start()

    # --- what runs ---------------------------------------------------------------------

    def _enrol(self) -> None:
        """A cluster of this run's own, and an identity for every process of it."""
        authority = Authority.create(self.folder / "authority", "emulated")
        for number, host in enumerate(self.network.hosts):
            self._identities[host] = self.folder / f"identity-{number}"
            enrol_here(authority, self._identities[host], host, "node")
        for number, host in enumerate(dict.fromkeys(self.scenario.requesters)):
            self._identities[f"@{host}"] = self.folder / f"requester-{number}"
            enrol_here(authority, self._identities[f"@{host}"], f"requester-{number}", "operator")
        if self.scenario.cluster.broker:
            address = self.net.address(self.scenario.cluster.broker)
            certificate, key = authority.issue_server([address])
            for name, data in (
                ("ca.crt", certificate_pem(authority.certificate)),
                ("server.crt", certificate),
                ("server.key", key),
            ):
                (self.folder / name).write_bytes(data)

    def _broker(self) -> HostedBroker:
        host = self.scenario.cluster.broker
        address, config = self.net.address(host), self.folder / "mosquitto.conf"
        files = ("ca.crt", "server.crt", "server.key") if self.scenario.cluster.secured else ("", "", "")
        authority, certificate, key = (str(self.folder / name) if name else "" for name in files)
        text = mosquitto_config(
            host=address, port=_BROKER_PORT, authority=authority, certificate=certificate, key=key
        )
        # Started by root it would give up its rights, and could not read a temporary folder then.
        config.write_text("user root\n" + text, "utf-8")
        return HostedBroker(self.folder, self.net.inside(host), config, address, _BROKER_PORT)

    def _node(self, name: str) -> HostedNode:
        cluster, address = self.scenario.cluster, self.net.address(name)
        hidden = name in self.network.behind_nat
        if hidden:
            # For who asks on the same host.  Elsewhere another node is at this address, or nobody, which
            # is noticed at once, and the next address is tried.
            address = _HERE
        listen = [f"{address}:{PORT}"]
        if cluster.broker:
            scheme = "mqtts" if cluster.secured else "mqtt"
            listen.append(f"{scheme}://{self.net.address(cluster.broker)}:{_BROKER_PORT}")
        elif cluster.transport in _KINDS:
            listen.append(f"{_KINDS[cluster.transport][cluster.secured]}://{address}:{_OTHER_PORT}")
        options = ["--insecure", "--insecure-network"]
        if cluster.secured:
            options = ["--identity", str(self._identities[name])]
        if hidden:
            options += ["--join", ",".join(f"{self.net.address(host)}:{PORT}" for host in self._relays())]
        stretch = self.scenario.machines[name].stretch
        if stretch != 1:
            options += ["--stretch", f"{stretch:g}"]
        return HostedNode(name, self.folder, self.net.inside(name), listen, options)

    def _relays(self) -> list[str]:
        """Hosts through which those behind a NAT can be reached: who asks first."""
        places = dict.fromkeys((*self.scenario.requesters, *self.network.hosts))
        return [host for host in places if host not in self.network.behind_nat][:_RELAYS]

    def _desk(self, host: str) -> HostedDesk:
        scenario = self.scenario
        identity = self._identities.get(f"@{host}")
        settings = DeskSettings(
            host=host,
            endpoints={name: node.endpoints for name, node in self.nodes.items()},
            model=str(self._model),
            identity=None if identity is None else str(identity),
            attempts=scenario.cluster.attempts,
            hedge=scenario.cluster.hedge,
            deadline_ms=scenario.workload.deadline_ms,
            seed=scenario.seed,
        )
        file = self.folder / f"desk-{host}.json"
        file.write_bytes(msgspec.json.encode(settings))
        return HostedDesk(host, self.folder, self.net.inside(host), file)

    def refs(self) -> dict[NodeName, NodeRef]:
        """Nodes as plans name them."""
        return {
            NodeName(name): NodeRef(name=NodeName(name), endpoints=node.endpoints)
            for name, node in self.nodes.items()
        }

    # --- what happens to it ------------------------------------------------------------

    async def open_links(self) -> None:
        """Let all links carry what they can, for what is no part of a measurement."""
        fast = profile_named("loopback")
        for link in self.network.links:
            await self._change(SetLink(link.one, link.other, fast))

    async def set_links(self) -> None:
        """Give all links the profiles of the scenario."""
        for link in self.network.links:
            await self._change(SetLink(link.one, link.other, link.profile))

    async def let(self, happening: Happening) -> None:
        """Let something happen."""
        if isinstance(happening, SetLink):
            await self._change(happening)
            return
        if happening.verb == "kill":
            self._down.add(happening.host)
        await self.nodes[happening.host].do(happening.verb)
        if happening.verb == "start":
            self._down.discard(happening.host)

    async def _change(self, change: SetLink) -> None:
        async with self._turn:
            await _whole(partial(self.net.change, change.one, change.other, change.profile))

    async def restart_links(self, seed: int) -> None:
        """Time, counts and chances of the links begin anew."""
        async with self._turn:
            await _whole(partial(self.net.restart, seed))

    async def counts(self) -> EmulatorCounts:
        """What links carried, and how late the emulator was."""
        async with self._turn:
            return await _whole(self.net.counts)

    async def repair(self) -> list[str]:
        """Have all nodes run again; a line for each that ended without being killed."""
        found = []
        for name, node in self.nodes.items():
            await node.do("continue")
            if name in self._down:
                await node.start()
            elif node.ended:
                found.append(f"node {name} ended by itself, as with less memory than it needs")
                await node.end()
                await node.start()
        self._down.clear()
        return found
