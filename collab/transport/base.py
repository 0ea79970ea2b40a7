"""What a transport is: it carries frames, whole and in order, between two ends.

An address is ``scheme://place``.  The address listened on and the address to be
contacted at may differ (port 0, a wildcard host).  A transport knows nothing of
nodes, tensors or identities; sessions over it are `collab.link`'s.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from collab.codec.wire import Buffer
from collab.core.identity import Pem, Principal
from collab.errors import UsageError


class Security(Protocol):
    """What proves this end's identity and checks the other's."""

    @property
    def principal(self) -> Principal:
        """Who this end is."""
        ...

    def context(self, *, server_side: bool, alpn: str = "", hostname: bool = False) -> ssl.SSLContext:
        """Mutual TLS 1.3 with the cluster's authority as the only root; shared, so not to be altered.

        It offers one application protocol (RFC 7301) if asked to.  Host names are checked
        only if asked for, as of a broker: between nodes `check` says who the other end is.
        """
        ...

    def check(self, certificate: bytes) -> Principal:
        """Who a certificate (DER) names, once the handshake has verified its chain.

        Raises `Refused` if it is revoked, expired or names nobody of this cluster.
        """
        ...

    def pem(self) -> Pem:
        """Key and certificates for libraries that make contexts of their own."""
        ...


class Connection(ABC):
    """One end of an established connection.

    Frames arrive whole, once and in the order in which they were sent, until the
    connection ends; what was sent shortly before an end may be lost.  One task may
    send while another receives; two tasks must not send at once, nor receive.
    """

    max_frame_bytes: int
    """Longest frame that `send` takes."""
    address: str
    """Where the other end is, for people."""
    principal: Principal | None = None
    """Who the other end is, where the transport itself authenticates both ends and encrypts
    everything between them; None where it does not."""
    certificate: bytes = b""
    """What the other end has shown, DER, where ``principal`` says who it is."""
    kind: str = ""
    """Name of the transport that plans use for this connection, such as ``grpc``."""
    loopback: bool = False
    """Whether the bytes stay on this machine."""
    relayed: bool = False
    """Whether a third node hands the frames on."""

    @abstractmethod
    async def send(self, parts: Sequence[Buffer]) -> None:
        """Send the concatenation of ``parts`` as one frame.

        Returns when the transport has taken it, which it delays while the other end
        does not read (back-pressure).  The buffers may be reused afterwards.
        Raises `LinkLost` if the connection has ended.  A cancelled send may or may
        not have taken place; abort the connection then.
        """

    @abstractmethod
    async def receive(self) -> Buffer:
        """The next frame; the buffer belongs to the caller.

        Raises `LinkLost` once the connection has ended, whoever ended it, and
        `ProtocolError` if the other end sends what is no frame.  A cancelled receive
        may lose a frame; abort the connection then.
        """

    @abstractmethod
    async def close(self) -> None:
        """End the connection after frames already sent were handed over; safe to repeat.

        Waits a bounded time for the other end.  Never raises.
        """

    @abstractmethod
    def abort(self) -> None:
        """End the connection now, dropping what is under way; safe to repeat, never raises."""


Accept = Callable[[Connection], Awaitable[None]]
"""Serves one accepted connection; the connection ends when it returns or raises.

It is cancelled when the listener closes.  What it raises concerns nobody else: errors of
this package are its way to end, others are logged.
"""


class Listener(ABC):
    """Accepts connections until it is closed."""

    address: str
    """Contact address, with the port that was really bound."""

    @abstractmethod
    async def close(self) -> None:
        """Stop accepting and end the accepted connections; safe to repeat, never raises."""


class Transport(ABC):
    """Makes connections over one protocol."""

    scheme: str
    """Of its addresses; the name that plans use for it unless its connections say otherwise."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of its connections in plans."""
        return (self.scheme,)

    @abstractmethod
    async def listen(self, address: str, accept: Accept) -> Listener:
        """Accept connections at an address, each served by its own call of ``accept``.

        Raises `UsageError` for an address that cannot be parsed or bound.
        """

    @abstractmethod
    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Connect to a listener's contact address.

        Raises `PeerUnreachable`, naming the address and the cause, within about
        ``timeout_s`` seconds; `UsageError` for an address that cannot be parsed.
        """


def split_address(address: str) -> tuple[str, str]:
    """Scheme and place of an address; a bare ``host:port`` means gRPC."""
    scheme, separator, place = address.partition("://")
    if not separator:
        scheme, place = "grpc", address
    if not scheme or not place:
        raise UsageError(f"address {address!r}: write it as scheme://place, such as grpc://10.0.0.7:7070")
    return scheme, place


def split_host_port(place: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``; raises `UsageError`."""
    host, separator, port = place.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"address {place!r}: write it as HOST:PORT with a port of 0 to 65535")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise UsageError(f"address {place!r}: put an IPv6 address into brackets, as in [::1]:7070")
    return host.strip("[]"), int(port)


def place_host(place: str) -> str:
    """The host in ``[user[:password]@]HOST[:PORT][/path][?query]``; raises `UsageError`."""
    authority = place.partition("?")[0].partition("/")[0].rpartition("@")[2]
    return split_host_port(authority)[0]


def is_loopback(host: str) -> bool:
    """Whether a host names this machine's loopback interface."""
    if host in ("localhost", "inproc"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def contact_host(host: str) -> str:
    """Where others reach a host that was listened on, ready for an address.

    For a wildcard this is the device's address on the way to the default route, or
    loopback where there is none.
    """
    wildcards = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    if host in wildcards:
        host = _own_address(socket.AF_INET6 if host == "::" else socket.AF_INET) or wildcards[host]
    return f"[{host}]" if ":" in host else host


def _own_address(family: socket.AddressFamily) -> str | None:
    # Connecting a UDP socket chooses a route and sends nothing (documentation addresses, RFC 5737, 3849).
    target = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return None
