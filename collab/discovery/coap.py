"""Discovery by CoAP multicast: nodes answer for ``/.well-known/core?rt=collab.node`` (RFC 7252 8, 6690).

aiocoap reads and writes the datagrams; the sockets are our own, because several nodes of one
host must all hear the group's requests and each must answer for itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

import aiocoap
from aiocoap import Message
from aiocoap.error import Error as CoapError

from collab.discovery.base import Discovery, Gone, Report, Sighting
from collab.discovery.records import RESOURCE_TYPE, from_links, parse_links, to_links
from collab.errors import ProtocolError

log = logging.getLogger("collab.discovery")

GROUPS: Final = {socket.AF_INET: "224.0.1.187", socket.AF_INET6: "ff02::fd"}
"""All CoAP nodes, of the Internet's version 4, and of a link (RFC 7252 12.8)."""
PORT: Final = 5683
TTL_S: Final = 60.0
ASK_S: Final = (0.0, 0.6, 20.0)
"""Pauses before the first, the second, and every further request."""
LEISURE_S: Final = 0.3
"""Within which answers are spread at random (RFC 7252 8.2: "leisure", for small groups)."""
AGAIN_S: Final = 2.0
"""Least time between two requests of this end, when newcomers make it ask out of turn."""
_ARRIVED: Final = "ep=*"
"""A further query by which a newcomer asks (RFC 6690 4.1: all that have the attribute), so that
others know that there is somebody new to ask; their own requests do not have it."""
_MAX_ANSWER: Final = 1024
"""Bytes of an answer, so that it is one datagram on every link (RFC 7252 4.6)."""
_MAX_WAITING: Final = 64
"""Answers that wait for their time; further requests are not answered."""
_MAX_DATAGRAM: Final = 4096
_TOKENS: Final = 8
"""Requests whose answers are still taken."""
_PER_WAKE: Final = 64
"""Datagrams read before others get their turn."""


class Request(NamedTuple):
    """What an answer repeats of the request that it is for."""

    token: bytes
    mid: int


class CoapDiscovery(Discovery):
    """Asks the group, and answers it, on the named devices; on all that are up if none are given."""

    how = "coap"

    def __init__(self, devices: tuple[str, ...] = ()) -> None:
        self._devices = devices
        self._me: Sighting | None = None
        self._report: Report | None = None
        self._hearing: list[socket.socket] = []
        self._asking: list[tuple[socket.socket, int]] = []
        self._tokens: deque[bytes] = deque(maxlen=_TOKENS)
        self._waiting: set[asyncio.TimerHandle] = set()
        self._newcomer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Open the sockets, and ask at once and again behind it.  Nobody says good-bye in CoAP."""
        self._me, self._report = me, report
        self._open()
        self._task = asyncio.get_running_loop().create_task(self._ask_again())

    async def update(self, me: Sighting) -> None:
        """Answer so from now on."""
        if self._me is not None:
            self._me = me

    async def stop(self) -> None:
        """Close the sockets; what others know of this node is over within its time to live."""
        self._report = None
        self._newcomer.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        for timer in self._waiting:
            timer.cancel()
        self._waiting.clear()
        self._close()

    # --- sockets -------------------------------------------------------------------------

    def _open(self) -> None:
        """Sockets for every device and family; `trouble` says so if there is none."""
        loop = asyncio.get_running_loop()
        cause: OSError | None = None
        for family, (index, _) in ((f, d) for f in GROUPS for d in self._indices()):
            try:
                asking = _asking_socket(family, index)
            except OSError as error:
                cause = error
                continue
            self._asking.append((asking, index))
            loop.add_reader(asking, self._read, asking, self._answered)
            try:
                hearing = _hearing_socket(family, index)
            except OSError as error:
                cause = error
                continue
            self._hearing.append(hearing)
            loop.add_reader(hearing, self._read, hearing, self._requested)
        if not self._asking or not self._hearing:
            self.trouble = f"coap: no interface takes multicast ({cause}); give --peers or a --broker instead"
            log.warning("%s", self.trouble)

    def _indices(self) -> Iterator[tuple[int, str]]:
        for index, name in socket.if_nameindex():
            if not self._devices or name in self._devices:
                yield index, name

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in (*self._hearing, *(sock for sock, _ in self._asking)):
            loop.remove_reader(sock)
            sock.close()
        self._hearing.clear()
        self._asking.clear()

    def _read(self, sock: socket.socket, use: Callable[[socket.socket, Message, Any], None]) -> None:
        for _ in range(_PER_WAKE):
            try:
                data, sender = sock.recvfrom(_MAX_DATAGRAM)
            except OSError:
                return
            message = decode(data)
            if message is not None:
                use(sock, message, sender)

    # --- asking --------------------------------------------------------------------------

    async def _ask_again(self) -> None:
        first, second, further = ASK_S
        arrived = self._me is not None
        await asyncio.sleep(first)
        self._ask(arrived)
        await asyncio.sleep(second)
        self._ask(arrived)
        while self._report is not None:
            with suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._newcomer.wait(), further)
                await asyncio.sleep(AGAIN_S + random.uniform(0, LEISURE_S))
            self._newcomer.clear()
            self._ask(arrived=False)

    def _ask(self, arrived: bool) -> None:
        token = secrets.token_bytes(8)
        self._tokens.append(token)
        request = encode_request(token, random.randrange(1 << 16), arrived)
        sent, cause = 0, None
        for sock, index in self._asking:
            try:
                sock.sendto(request, _group_address(sock.family, index))
                sent += 1
            except OSError as error:
                cause = error
        if sent:
            self.trouble = ""
        elif self._asking:
            self.trouble = f"coap: the group cannot be asked ({cause}); give --peers or a --broker instead"

    def _answered(self, _: socket.socket, message: Message, sender: Any) -> None:
        if self._report is None or message.token not in self._tokens or message.code != aiocoap.CONTENT:
            return
        try:
            links = parse_links(str(message.payload, "utf-8", "replace"))
        except ProtocolError as error:
            log.debug("coap: %s: %s", sender[0], error)
            return
        for seen in from_links(links, self.how, TTL_S):
            self._report(seen)

    # --- answering -----------------------------------------------------------------------

    def _requested(self, sock: socket.socket, message: Message, sender: Any) -> None:
        request = wanted(message)
        if request is None:
            return
        if _ARRIVED in message.opt.uri_query and message.token not in self._tokens:
            self._newcomer.set()
        if self._me is None or len(self._waiting) >= _MAX_WAITING:
            return
        loop = asyncio.get_running_loop()

        def answer() -> None:
            self._waiting.discard(timer)
            if self._me is not None:
                with suppress(OSError):
                    sock.sendto(encode_answer(self._me, request), sender)

        timer = loop.call_later(random.uniform(0, LEISURE_S), answer)
        self._waiting.add(timer)


# --- datagrams -----------------------------------------------------------------------------


def decode(data: bytes) -> Message | None:
    """The message in a datagram, or None for what is none; a multicast's errors are not answered."""
    try:
        return Message.decode(data)
    except (CoapError, ValueError):
        return None


def encode_request(token: bytes, mid: int, arrived: bool = False) -> bytes:
    """A non-confirmable request to the group (RFC 7252 8.1), of a newcomer if it has ``arrived``."""
    message = Message(
        code=aiocoap.GET,
        _mtype=aiocoap.NON,
        _mid=mid,
        _token=token,
        uri_path=(".well-known", "core"),
        uri_query=(f"rt={RESOURCE_TYPE}", *((_ARRIVED,) if arrived else ())),
    )
    return bytes(message.encode())


def wanted(message: Message) -> Request | None:
    """What to repeat in an answer, if a message asks for nodes."""
    asks = (
        message.code == aiocoap.GET
        and message.mtype == aiocoap.NON
        and message.opt.uri_path == (".well-known", "core")
        and f"rt={RESOURCE_TYPE}" in message.opt.uri_query
        and len(message.opt.uri_query) <= 1 + (_ARRIVED in message.opt.uri_query)
    )
    return Request(message.token, message.mid) if asks else None


def encode_answer(me: Sighting, request: Request) -> bytes:
    """The node's links; endpoints that no longer fit are left out."""
    text = to_links(me)
    endpoints = me.endpoints
    while len(text.encode()) > _MAX_ANSWER and len(endpoints) > 1:
        endpoints = endpoints[:-1]
        text = to_links(Sighting(me.name, endpoints, me.cluster, me.software, me.role, instance=me.instance))
    message = Message(
        code=aiocoap.CONTENT,
        _mtype=aiocoap.NON,
        _mid=random.randrange(1 << 16),
        _token=request.token,
        payload=text.encode(),
        content_format=aiocoap.numbers.ContentFormat.LINKFORMAT,
    )
    return bytes(message.encode())


# --- multicast sockets ---------------------------------------------------------------------


def _group_address(family: int, index: int) -> tuple[Any, ...]:
    if family == socket.AF_INET:
        return (GROUPS[socket.AF_INET], PORT)
    return (GROUPS[socket.AF_INET6], PORT, 0, index)


def _asking_socket(family: int, index: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET:
            # struct ip_mreqn of ip(7): group, address, device.
            device = struct.pack("=4s4si", bytes(4), bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, device)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        return sock
    except BaseException:
        sock.close()
        raise


def _hearing_socket(family: int, index: int) -> socket.socket:
    """A socket bound to the group itself: unicast requests to the port belong to whoever serves CoAP there.

    What it sends has the device's own address (RFC 7252 8.2), as nobody is bound to a group.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(_group_address(family, index))
        group = ipaddress.ip_address(GROUPS[socket.AddressFamily(family)]).packed
        if family == socket.AF_INET:
            joined = struct.pack("=4s4si", group, bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        else:
            joined = group + struct.pack("@I", index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
        return sock
    except BaseException:
        sock.close()
        raise
