"""Discovery on the local network without anybody's help: DNS-SD over multicast DNS (RFC 6762, 6763).

A node is an instance of ``_collab._tcp.local.``; its TXT record carries the rest.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from zeroconf import Error as MdnsError
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from collab.discovery.base import MAX_ENDPOINT, MAX_ENDPOINTS, MAX_TEXT, Discovery, Report, Sighting, sighting
from collab.errors import InputError, PeerUnreachable

log = logging.getLogger("collab.discovery")

SERVICE: Final = "_collab._tcp.local."
TTL_S: Final = 60
"""Of our records.  Others ask again at 80 % of it (RFC 6762 5.2), so the silent leave within it."""
_TXT_BYTES: Final = 1200
"""Of a TXT record that fits into a packet of Ethernet with the others (RFC 6763 6.2: 1300)."""
_STRING_BYTES: Final = 255
"""Of one entry of a TXT record (RFC 6763 6.1)."""
_MAX_ASKED: Final = 64
"""Instances whose records are asked for at a time."""
_MAX_SEEN: Final = 1024
_ASK_MS: Final = 3000
_STOP_S: Final = 1.5
_LOOPBACK: Final = ("127.0.0.1", "::1")


class MdnsDiscovery(Discovery):
    """Advertises and browses on the interfaces with these addresses, on all if none are given."""

    how = "mdns"

    def __init__(self, interfaces: tuple[str, ...] = ()) -> None:
        self._interfaces = interfaces
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._updating = asyncio.Lock()
        self._me: Sighting | None = None
        self._info: AsyncServiceInfo | None = None
        self._seen: dict[str, Sighting] = {}
        self._report: Report | None = None
        self._gone: Report | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Report) -> None:
        """Open the sockets; browse and register in the background, which takes about half a second."""
        self._report, self._gone = report, gone
        self._me = me
        self._zeroconf = self._open()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])
        if me is not None:
            self._spawn(self._advertise())

    def _open(self) -> AsyncZeroconf:
        error: OSError | MdnsError | None = None
        for version in (IPVersion.All, IPVersion.V4Only, IPVersion.V6Only):
            given = [a for a in self._interfaces if version in (IPVersion.All, _version(a))]
            if self._interfaces and not given:
                continue
            try:
                return AsyncZeroconf(interfaces=given or InterfaceChoice.All, ip_version=version)
            except (OSError, MdnsError, RuntimeError) as failed:
                error = failed if isinstance(failed, OSError) else OSError(str(failed))
        raise PeerUnreachable(
            f"mdns: no interface takes multicast: {error}; give --peers or a --broker instead"
        ) from error

    async def update(self, me: Sighting) -> None:
        """Send the new records; waits for a registration that is under way."""
        if self._me is None or self._zeroconf is None:
            return
        self._me = me
        await self._advertise()

    async def stop(self) -> None:
        """Withdraw the records (RFC 6762 10.1) and close the sockets."""
        zeroconf, self._zeroconf = self._zeroconf, None
        self._report = self._gone = None
        if zeroconf is None:
            return
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
            with suppress(MdnsError, OSError, asyncio.TimeoutError):
                if self._browser is not None:
                    await self._browser.async_cancel()
                if self._info is not None:
                    await asyncio.wait_for(_withdraw(zeroconf, self._info), _STOP_S)
        finally:
            with suppress(MdnsError, OSError):
                await asyncio.shield(zeroconf.async_close())

    # --- advertising ---------------------------------------------------------------

    async def _advertise(self) -> None:
        async with self._updating:
            me, zeroconf = self._me, self._zeroconf
            if me is None or zeroconf is None:
                return
            info = service_info(me, self._info.name if self._info is not None else "")
            try:
                if self._info is None:
                    # Another instance of the name makes this one NAME-2; the TXT record keeps the name.
                    sent = await zeroconf.async_register_service(info, allow_name_change=True)
                else:
                    sent = await zeroconf.async_update_service(info)
                self._info = info
                await sent
            except (MdnsError, OSError) as error:
                log.warning("mdns: this node cannot be advertised: %s", error)

    # --- browsing ------------------------------------------------------------------

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._forget(name)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._read(info)
        elif len(self._tasks) < _MAX_ASKED:
            self._spawn(self._ask(zeroconf, info))

    async def _ask(self, zeroconf: Zeroconf, info: AsyncServiceInfo) -> None:
        with suppress(MdnsError, OSError):
            if await info.async_request(zeroconf, _ASK_MS):
                self._read(info)

    def _read(self, info: AsyncServiceInfo) -> None:
        if self._report is None or (self._me is not None and self._is_me(info)):
            return
        try:
            seen = read_txt(info.properties)
        except InputError as error:
            log.debug("mdns: %r is no node: %s", info.name[:80], error)
            return
        if len(self._seen) >= _MAX_SEEN and info.name not in self._seen:
            return
        before = self._seen.get(info.name)
        if before is not None and _who(before) != _who(seen):
            self._forget(info.name)
        self._seen[info.name] = seen
        self._report(seen)

    def _is_me(self, info: AsyncServiceInfo) -> bool:
        said = info.properties.get(b"instance")
        return self._me is not None and bool(said) and said == self._me.instance.encode()

    def _forget(self, name: str) -> None:
        seen = self._seen.pop(name, None)
        if seen is not None and self._gone is not None:
            self._gone(seen)

    def _spawn(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _withdraw(zeroconf: AsyncZeroconf, info: AsyncServiceInfo) -> None:
    await (await zeroconf.async_unregister_service(info))


def _who(seen: Sighting) -> tuple[str, str, str]:
    return seen.name, seen.cluster, seen.instance


def _version(address: str) -> IPVersion:
    return IPVersion.V6Only if ":" in address else IPVersion.V4Only


def service_info(me: Sighting, instance_name: str = "") -> AsyncServiceInfo:
    """The records of a node; the addresses are those in its endpoints."""
    addresses, port = _places(me.endpoints)
    return AsyncServiceInfo(
        SERVICE,
        instance_name or f"{me.name}.{SERVICE}",
        port=port,
        properties=txt(me),
        server=f"collab-{me.instance or me.name}.local.",
        host_ttl=TTL_S,
        other_ttl=TTL_S,
        parsed_addresses=addresses,
    )


def _places(endpoints: tuple[str, ...]) -> tuple[list[str], int]:
    """Addresses in endpoints, and the first port, for browsers that know nothing of TXT records."""
    addresses: dict[str, None] = {}
    port = 0
    for endpoint in endpoints:
        authority = endpoint.partition("://")[2].partition("/")[0].rpartition("@")[2]
        host, _, number = authority.rpartition(":")
        try:
            addresses[str(ipaddress.ip_address(host.strip("[]")))] = None
            port = port or int(number)
        except ValueError:
            continue
    return list(addresses) or [_LOOPBACK[0]], port


def txt(me: Sighting) -> dict[str, str]:
    """Entries of a node's TXT record; endpoints that no longer fit are left out."""
    entries = {"txtvers": "1", "name": me.name, "role": me.role}
    for key, value in (("cluster", me.cluster), ("software", me.software), ("instance", me.instance)):
        if value:
            entries[key] = value[:MAX_TEXT]
    room = _TXT_BYTES - sum(len(key) + len(value) + 2 for key, value in entries.items())
    for number, endpoint in enumerate(me.endpoints[:MAX_ENDPOINTS]):
        entry = len(f"e{number}={endpoint}".encode())
        if entry > _STRING_BYTES or entry + 1 > room:
            continue
        entries[f"e{number}"] = endpoint
        room -= entry + 1
    return entries


def read_txt(properties: Mapping[bytes, bytes | None]) -> Sighting:
    """The sighting in a TXT record; raises `InputError` if it is no node's."""

    def text(key: str) -> str:
        return str((properties.get(key.encode()) or b"")[:MAX_ENDPOINT], "utf-8", "replace")

    if text("txtvers") != "1":
        raise InputError("TXT record: txtvers is not 1")
    return sighting(
        MdnsDiscovery.how,
        text("name"),
        [text(f"e{number}") for number in range(MAX_ENDPOINTS)],
        cluster=text("cluster"),
        software=text("software"),
        role=text("role"),
        instance=text("instance"),
    )
