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

import msgspec
from zeroconf import Error as MdnsError
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from collab.discovery.base import (
    MAX_ENDPOINTS,
    Discovery,
    Gone,
    Report,
    Sighting,
    checked,
    is_endpoint,
)
from collab.errors import ProtocolError

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
_AGAIN_S: Final = 20.0
"""What still holds is reported again so often."""
_RETRY_S: Final = 5.0
"""Between two attempts where no interface takes multicast."""
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
        self._gone: Gone | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Browse and register in the background, which takes about half a second."""
        self._report, self._gone = report, gone
        self._me = me
        self._attempt()

    def _attempt(self) -> None:
        """Open the sockets and begin; later where no interface takes multicast now."""
        loop = asyncio.get_running_loop()
        try:
            self._zeroconf = self._open()
        except OSError as error:
            self.trouble = (
                f"mdns: no interface takes multicast: {error}; give --peers, or a broker with --broker"
            )
            self._timer = loop.call_later(_RETRY_S, self._attempt)
            return
        self.trouble = ""
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])
        self._timer = loop.call_later(_AGAIN_S, self._again)
        if self._me is not None:
            self._spawn(self._advertise())

    def _again(self) -> None:
        for seen in self._seen.values():
            if self._report is not None:
                self._report(seen)
        self._timer = asyncio.get_running_loop().call_later(_AGAIN_S, self._again)

    def _open(self) -> AsyncZeroconf:
        error = OSError("no interface")
        for version in (IPVersion.All, IPVersion.V4Only, IPVersion.V6Only):
            given = [a for a in self._interfaces if version in (IPVersion.All, _version(a))]
            if self._interfaces and not given:
                continue
            try:
                return AsyncZeroconf(interfaces=given or InterfaceChoice.All, ip_version=version)
            except (OSError, MdnsError, RuntimeError) as failed:
                error = failed if isinstance(failed, OSError) else OSError(str(failed))
        raise error

    async def update(self, me: Sighting) -> None:
        """Send the new records; waits for a registration that is under way."""
        if self._me is not None:
            self._me = me
            await self._advertise()

    async def stop(self) -> None:
        """Withdraw the records (RFC 6762 10.1) and close the sockets."""
        zeroconf, self._zeroconf = self._zeroconf, None
        self._report = self._gone = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
                self.trouble = ""
            except (MdnsError, OSError) as error:
                self.trouble = f"mdns: this node cannot be advertised: {error}"
                log.warning("%s", self.trouble)

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
        if self._report is None:
            return
        try:
            seen = read_txt(info.name, info.properties)
        except ProtocolError as error:
            log.debug("mdns: %r is no node: %s", info.name[:80], error)
            self._forget(info.name)
            return
        if len(self._seen) < _MAX_SEEN or info.name in self._seen:
            self._seen[info.name] = seen
            self._report(seen)

    def _forget(self, name: str) -> None:
        seen = self._seen.pop(name, None)
        if seen is not None and self._gone is not None:
            self._gone(self.how, seen.source)

    def _spawn(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _withdraw(zeroconf: AsyncZeroconf, info: AsyncServiceInfo) -> None:
    await (await zeroconf.async_unregister_service(info))


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
    entries = {"txtvers": "1", "name": me.name}
    for key in ("cluster", "software", "role", "instance"):
        value = getattr(me, key)
        if value:
            entries[key] = value
    room = _TXT_BYTES - sum(len(key) + len(value) + 2 for key, value in entries.items())
    for number, endpoint in enumerate(filter(is_endpoint, me.endpoints[:MAX_ENDPOINTS])):
        entry = len(f"e{number}={endpoint}".encode())
        if entry > _STRING_BYTES or entry + 1 > room:
            continue
        entries[f"e{number}"] = endpoint
        room -= entry + 1
    return entries


def read_txt(source: str, properties: Mapping[bytes, bytes | None]) -> Sighting:
    """The sighting in the TXT record of an instance; raises `ProtocolError` if it is no node's."""

    def text(key: str) -> str:
        return str((properties.get(key.encode()) or b"")[:_STRING_BYTES], "utf-8", "replace")

    if text("txtvers") != "1" or not text("name"):
        raise ProtocolError("TXT record: no name, or txtvers is not 1")
    found = Sighting(
        name=text("name"),
        endpoints=tuple(text(f"e{number}") for number in range(MAX_ENDPOINTS)),
        how=MdnsDiscovery.how,
        ttl_s=3 * _AGAIN_S,
        source=source,
    )
    more = {key: text(key) for key in ("cluster", "software", "role", "instance")}
    return checked(msgspec.structs.replace(found, **more))
