"""A non-blocking UDP socket on the event loop that reads and writes in batches."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_SOCKET_BUFFER_BYTES: Final = 4 << 20
_BATCH: Final = 64
"""Reads in one go before others get the loop."""
_WAITING: Final = 4096
"""Datagrams kept while the socket takes none; more are dropped, as networks do."""
_READ_BYTES: Final = 65535
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
"""Linux: several datagrams of one size in one call (linux/udp.h)."""
_SEGMENTS: Final = 48
"""Datagrams in one call: at most 64, and 64 KiB together."""
_SIZE: Final = struct.Struct("=H")
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0

Address = Any
"""What the socket module calls an address; None for the one end of a connected socket."""


class Datagrams:
    """Sends and receives datagrams until it is closed."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[bytes, Address], None],
        batch_done: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._received = received
        self._batch_done = batch_done
        self._refused = refused
        self._waiting: deque[tuple[bytes, Address]] = deque()
        self._buffer = bytearray(_READ_BYTES)
        self._closed = False
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
        self._segments = self._offload()
        self._loop.add_reader(sock.fileno(), self._readable)

    def _offload(self) -> bool:
        """Whether the kernel splits and joins runs of datagrams of one size (Linux 5.0)."""
        try:
            self.socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            self.socket.getsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT)
        except OSError:
            return False
        return True

    # --- in -------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                if not self._read():
                    break
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                self._refused()
            except OSError:
                break
            if self._closed:
                return
        self._batch_done()

    def _read(self) -> bool:
        """Read once and hand on what there is; False once closed."""
        if not self._segments:
            self._received(*self.socket.recvfrom(_READ_BYTES))
            return not self._closed
        size, ancillary, _, address = self.socket.recvmsg_into((self._buffer,), _ANCILLARY_BYTES)
        step = size
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                step = _SIZE.unpack_from(value)[0] or size
        view = memoryview(self._buffer)
        for at in range(0, size, max(step, 1)):
            self._received(bytes(view[at : min(at + step, size)]), address)
            if self._closed:
                return False
        return True

    # --- out ------------------------------------------------------------------

    def send(self, datagrams: list[bytes], address: Address) -> None:
        """Send them in order, as far as the socket takes them; what does not fit waits, bounded."""
        if self._closed:
            return
        if self._waiting:
            room = _WAITING - len(self._waiting)
            self._waiting.extend((datagram, address) for datagram in datagrams[:room])
            return
        at = 0
        while at < len(datagrams):
            run = _run(datagrams, at) if self._segments else 1
            try:
                self._write(datagrams[at : at + run], address)
            except BlockingIOError:
                self._waiting.extend((datagram, address) for datagram in datagrams[at : at + _WAITING])
                self._loop.add_writer(self.socket.fileno(), self._writable)
                return
            except ConnectionRefusedError:
                self._refused()
                continue  # the error was about an earlier one
            except OSError:
                if run > 1:
                    self._segments = False  # the device or route cannot split
                    continue
            at += run

    def _write(self, run: list[bytes], address: Address) -> None:
        if len(run) == 1:
            if address is None:
                self.socket.send(run[0])
            else:
                self.socket.sendto(run[0], address)
            return
        ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SIZE.pack(len(run[0])))]
        self.socket.sendmsg(run, ancillary, 0, address)

    def _writable(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._loop.remove_writer(self.socket.fileno())
        while waiting and not self._waiting:
            datagram, address = waiting.popleft()
            self.send([datagram], address)
        self._waiting.extend(waiting)

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self.socket.fileno())
            self._loop.remove_writer(self.socket.fileno())
            self.socket.close()


def _run(datagrams: list[bytes], at: int) -> int:
    """How many datagrams from a position on can go in one call: equal sizes, the last may be shorter."""
    size = len(datagrams[at])
    end = min(at + _SEGMENTS, len(datagrams))
    for next_at in range(at + 1, end):
        length = len(datagrams[next_at])
        if length != size:
            return next_at - at + (length < size)
    return end - at
