"""Discovery on the local network without anybody's help: DNS-SD over multicast DNS (RFC 6762, 6763).

A node is an instance of ``_collab._tcp.local.``; its TXT record carries the rest.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from contextlib import suppress
from typing import Final

from zeroconf import Error as MdnsError
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from collab.discovery.base import Discovery, Gone, Report, Sighting
from collab.discovery.records import from_txt, to_txt
from collab.errors import ProtocolError

log = logging.getLogger("collab.discovery")
# It warns, with a traceback, of every interface without multicast; `trouble` says what matters.
logging.getLogger("zeroconf").setLevel(logging.ERROR)

SERVICE: Final = "_collab._tcp.local."
RECORD_TTL_S: Final = 60
"""Of our records.  Browsers ask again at 80 % of it (RFC 6762 5.2), so who is silent leaves within it."""
LOOPBACK: Final = ("127.0.0.1", "::1")
"""Interfaces for who is not to be seen by other hosts."""
_AGAIN_S: Final = 20.0
"""Between two reports of what the cache holds, which itself drops what is over."""
_INTERFACES_S: Final = 10.0
"""Between two looks at the interfaces: a network may come up after the node."""
_RETRY_S: Final = 5.0
_MAX_ASKED: Final = 64
"""Instances whose records are asked for at a time."""
_MAX_SEEN: Final = 1024
_ASK_MS: Final = 3000
_STOP_S: Final = 1.5
_LABEL_BYTES: Final = 60
"""Of an instance's name, which with a ``-2`` behind it must fit 63 (RFC 1035 2.3.4)."""


class MdnsDiscovery(Discovery):
    """Advertises and browses on the interfaces with these addresses, on all if none are given."""

    how = "mdns"

    def __init__(self, interfaces: tuple[str, ...] = ()) -> None:
        self._interfaces = interfaces
        self._me: Sighting | None = None
        self._report: Report | None = None
        self._gone: Gone | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._seen: dict[str, Sighting] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._changed_me = asyncio.Event()

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Open the sockets; browse and register behind it, which takes about a second."""
        self._me, self._report, self._gone = me, report, gone
        self._open()
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def update(self, me: Sighting) -> None:
        """Send the new records; after a registration that is under way."""
        if self._me is not None:
            self._me = me
            self._changed_me.set()

    async def stop(self) -> None:
        """Withdraw the records (RFC 6762 10.1) and close the sockets."""
        self._report = self._gone = None
        self._changed_me.set()
        tasks = [task for task in (self._running, *self._asking) if task is not None]
        self._running = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._close()

    # --- life ------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        looked = loop.time()
        self._changed_me.set()
        while self._report is not None:
            if self._zeroconf is None:
                await asyncio.sleep(_RETRY_S)
                self._open()
                self._changed_me.set()
                continue
            if self._changed_me.is_set():
                self._changed_me.clear()
                await self._advertise(self._zeroconf)
            with suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._changed_me.wait(), _AGAIN_S / 2)
            for seen in tuple(self._seen.values()):
                if self._report is not None:
                    self._report(seen)
            if not self._interfaces and loop.time() - looked > _INTERFACES_S:
                looked = loop.time()
                await self._follow_interfaces(self._zeroconf)

    def _open(self) -> None:
        """Have sockets and a browser, or say in `trouble` why not."""
        cause: Exception | str = f"none has one of {', '.join(self._interfaces)}"
        # zeroconf leaves sockets open where an address is none of this host's.
        present = [address for address in self._interfaces if _is_here(address)]
        for version in (IPVersion.All, IPVersion.V4Only, IPVersion.V6Only):
            given = [a for a in present if version in (IPVersion.All, _version(a))]
            if self._interfaces and not given:
                continue
            try:
                self._zeroconf = AsyncZeroconf(interfaces=given or InterfaceChoice.All, ip_version=version)
            except (OSError, MdnsError, RuntimeError) as error:
                cause = error
                continue
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])
            self.trouble = ""
            return
        if not self.trouble:
            log.warning("mdns: no interface takes multicast: %s", cause)
        self.trouble = f"mdns: no interface takes multicast ({cause}); give --peers or a --broker instead"

    async def _follow_interfaces(self, zeroconf: AsyncZeroconf) -> None:
        with suppress(MdnsError, OSError, RuntimeError):
            await zeroconf.async_update_interfaces(interfaces=InterfaceChoice.All)

    async def _close(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        browser, self._browser = self._browser, None
        if zeroconf is None:
            return
        try:
            with suppress(MdnsError, OSError, asyncio.TimeoutError, TimeoutError):
                if browser is not None:
                    await browser.async_cancel()
                if self._info is not None:
                    await asyncio.wait_for(_withdraw(zeroconf, self._info), _STOP_S)
        finally:
            closing = asyncio.ensure_future(zeroconf.async_close())
            with suppress(MdnsError, OSError):
                await asyncio.shield(closing)

    # --- advertising -------------------------------------------------------------------

    async def _advertise(self, zeroconf: AsyncZeroconf) -> None:
        if self._me is None:
            return
        try:
            if self._info is None:
                info = service_info(self._me)
                # Another instance of the name makes this one NAME-2; the TXT record keeps the name.
                sent = await zeroconf.async_register_service(info, allow_name_change=True)
            else:
                info = service_info(self._me, self._info.name)
                sent = await zeroconf.async_update_service(info)
            self._info = info
            await sent
            self.trouble = ""
        except (MdnsError, OSError) as error:
            self.trouble = f"mdns: this node cannot be advertised ({error}); give --peers or a --broker"
            log.warning("%s", self.trouble)

    # --- browsing ------------------------------------------------------------------------

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._forget(name)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._read(info)
        elif len(self._asking) < _MAX_ASKED and self._report is not None:
            task = asyncio.get_running_loop().create_task(self._ask(zeroconf, info))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def _forget(self, name: str) -> None:
        if self._seen.pop(name, None) is not None and self._gone is not None:
            self._gone(self.how, name)

    async def _ask(self, zeroconf: Zeroconf, info: AsyncServiceInfo) -> None:
        with suppress(MdnsError, OSError):
            if await info.async_request(zeroconf, _ASK_MS):
                self._read(info)

    def _read(self, info: AsyncServiceInfo) -> None:
        if self._report is None or (len(self._seen) >= _MAX_SEEN and info.name not in self._seen):
            return
        try:
            seen = from_txt(info.properties, self.how, 3 * _AGAIN_S, info.name)
        except ProtocolError as error:
            log.debug("mdns: %r: %s", info.name[:80], error)
            self._forget(info.name)
            return
        self._seen[info.name] = seen
        self._report(seen)


async def _withdraw(zeroconf: AsyncZeroconf, info: AsyncServiceInfo) -> None:
    await (await zeroconf.async_unregister_service(info))


def _is_here(address: str) -> bool:
    """Whether an address is of an interface of this host; a bound UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _version(address: str) -> IPVersion:
    return IPVersion.V6Only if ":" in address else IPVersion.V4Only


def service_info(me: Sighting, instance_name: str = "") -> AsyncServiceInfo:
    """The records of a node; the addresses are those in its endpoints."""
    addresses, port = _places(me.endpoints)
    return AsyncServiceInfo(
        SERVICE,
        instance_name or f"{me.name[:_LABEL_BYTES]}.{SERVICE}",
        port=port,
        properties=to_txt(me),
        server=f"collab-{me.instance or me.name[:40]}.local.",
        host_ttl=RECORD_TTL_S,
        other_ttl=RECORD_TTL_S,
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
    return list(addresses) or [LOOPBACK[0]], port
