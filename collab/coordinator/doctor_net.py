"""Probes of the network: ports, address families, multicast."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
from typing import Final, NamedTuple

from collab.coordinator.doctor import Multicast, Port
from collab.transport.base import is_loopback

_GROUP: Final = ("224.0.0.251", 5353)
"""Of multicast DNS (RFC 6762 3)."""
_SERVICE: Final = (b"_collab", b"_tcp", b"local")
_NO_WAY: Final = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
)
_MAX_PLACES: Final = 8
"""Addresses of one host that are tried."""


class PortSeen(NamedTuple):
    """What connecting to a port came to, and the error in words."""

    port: Port
    detail: str = ""
    family: int = 0
    """Of the address that was tried last, or that was open."""


async def try_port(host: str, port: int, timeout_s: float) -> PortSeen:
    """Connect by TCP to all addresses of a host, one after another, until one is open."""
    loop = asyncio.get_running_loop()
    try:
        places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return PortSeen(Port.UNKNOWN_HOST, str(getattr(error, "strerror", None) or error))
    seen = PortSeen(Port.UNKNOWN_HOST, "no address")
    for family, _, _, _, place in places[:_MAX_PLACES]:
        tried = await _connect(family, place, timeout_s)
        if tried.port is Port.OPEN:
            return tried
        # A closed port says more than a missing route of another family.
        if seen.port in (Port.UNKNOWN_HOST, Port.NO_ROUTE):
            seen = tried
    return seen


async def _connect(family: int, place: tuple[object, ...], timeout_s: float) -> PortSeen:
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(sock, place), timeout_s)
            return PortSeen(Port.OPEN, "", family)
    except (asyncio.TimeoutError, TimeoutError):
        return PortSeen(Port.SILENT, f"no answer within {timeout_s:g} s", family)
    except OSError as error:
        port = Port.NO_ROUTE if error.errno in _NO_WAY else Port.REFUSED
        return PortSeen(port, error.strerror or str(error), family)


async def other_family(host: str, port: int, closed: int, timeout_s: float) -> str:
    """``host:port`` of the other address family at which the port is open; empty if none is known.

    A host that is a number of this device's loopback has the other one's; a name has all of its addresses.
    """
    wanted = socket.AF_INET if closed == socket.AF_INET6 else socket.AF_INET6
    if is_loopback(host):
        numbers = ["127.0.0.1" if wanted == socket.AF_INET else "::1"]
    else:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, family=wanted, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return ""
        numbers = [str(place[0]) for *_, place in found[:_MAX_PLACES]]
    for number in numbers:
        if (await try_port(number, port, timeout_s)).port is Port.OPEN:
            return f"[{number}]:{port}" if ":" in number else f"{number}:{port}"
    return ""


# --- multicast -----------------------------------------------------------------------


class _Echo(asyncio.DatagramProtocol):
    """Waits for one datagram that was sent from here."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self.seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        if data == self._wanted and not self.seen.done():
            self.seen.set_result(None)


async def try_multicast(timeout_s: float) -> Multicast:
    """Send a query for nodes to the group of mDNS and see whether it comes back to this device."""
    # A query with a number of its own (RFC 6762 18.1: receivers ignore it) for PTR records.
    name = b"".join(bytes((len(label),)) + label for label in _SERVICE) + b"\0"
    query = secrets.token_bytes(2) + bytes((0, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + name + bytes((0, 12, 0, 1))
    with contextlib.ExitStack() as stack:
        try:
            receiver = stack.enter_context(_receiver())
            senders = [stack.enter_context(sender) for sender in _senders(receiver)]
        except OSError as error:
            return Multicast(False, False, error.strerror or str(error))
        loop = asyncio.get_running_loop()
        transport, echo = await loop.create_datagram_endpoint(lambda: _Echo(query), sock=receiver)
        try:
            failed = _send(senders, query)
            if len(failed) == len(senders):
                return Multicast(False, False, failed[0] if failed else "no interface")
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(echo.seen, timeout_s)
                return Multicast(True, True, "")
            return Multicast(True, False, "")
        finally:
            transport.close()


def _receiver() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("", _GROUP[1]))
    except OSError:
        sock.close()
        raise
    return sock


def _senders(receiver: socket.socket) -> list[socket.socket]:
    """A socket for each interface that takes part in multicast; the receiver joins there."""
    import ifaddr

    made: list[socket.socket] = []
    last = OSError(errno.ENODEV, "no interface with an IPv4 address")
    for adapter in ifaddr.get_adapters():
        for number in (ip.ip for ip in adapter.ips if isinstance(ip.ip, str)):
            own = socket.inet_aton(number)
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                group = socket.inet_aton(_GROUP[0]) + own
                with contextlib.suppress(OSError):  # two addresses of one interface
                    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            except OSError as error:
                sock.close()
                last = error
            else:
                made.append(sock)
    if not made:
        raise last
    return made


def _send(senders: list[socket.socket], query: bytes) -> list[str]:
    """Send by every interface; the errors."""
    failed = []
    for sender in senders:
        try:
            sender.sendto(query, _GROUP)
        except OSError as error:
            failed.append(error.strerror or str(error))
    return failed
