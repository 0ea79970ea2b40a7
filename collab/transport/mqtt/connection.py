"""A session over a broker as a connection: the state machine, and who waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

from paho.mqtt.properties import Properties

from collab.codec.wire import Buffer
from collab.errors import LimitExceeded, LinkLost, PeerUnreachable, ProtocolError
from collab.transport.aio import timeout
from collab.transport.base import Connection
from collab.transport.mqtt.packet import Packet
from collab.transport.mqtt.session import Out, Session, State

CLOSE_TIMEOUT_S: Final = 1.0
KINDS: Final = ("mqtt-qos0", "mqtt", "mqtt-qos2")
"""Names that plans use, by quality of service."""


class Switchboard(Protocol):
    """What carries the packets of many connections."""

    def publish(self, connection: MqttConnection, out: Sequence[Out]) -> None:
        """Publish packets to the other end."""

    def over(self, connection: MqttConnection) -> None:
        """The session has ended; called once."""

    async def closed(self) -> None:
        """Return when what is no longer used is closed."""


class MqttConnection(Connection):
    """Either end of a session."""

    def __init__(self, board: Switchboard, session: Session, peer: str, qos: int, address: str) -> None:
        self.session = session
        self.peer = peer
        self.peer_instance = ""
        """Which process of the peer's name it is; empty until it has answered."""
        self.dialling: tuple[str, Properties] | None = None
        """Topic and properties of the connect, at the end that dialled."""
        self.qos = qos
        self.kind = KINDS[qos]
        self.address = address
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when both ends have agreed; fails with what keeps them from it."""
        self.opened.add_done_callback(_seen)
        self.over = asyncio.Event()
        """Set when the session has ended."""
        self._board = board
        self._stopped = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    @property
    def max_frame_bytes(self) -> int:  # type: ignore[override]
        """What both ends agreed on."""
        return self.session.frame_bytes

    # --- frames ------------------------------------------------------------------

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Copy the frame, publish it, and keep it until the other end has it."""
        session = self.session
        size = sum(map(len, parts))
        if size > session.frame_bytes:
            raise LimitExceeded(f"frame of {size} bytes is over {session.frame_bytes}")
        while session.live and not session.has_room(size):
            self._room.clear()
            await self._room.wait()
        if not session.live:
            raise self._lost()
        self._do(session.send(parts, time.monotonic()))

    async def receive(self) -> Buffer:
        """The next frame; taking it opens the window."""
        session = self.session
        while not self._stopped:
            frame, out = session.take(time.monotonic())
            if frame is not None:
                self._do(out)
                return frame
            if session.finished:
                break
            self._arrived.clear()
            await self._arrived.wait()
        if isinstance(session.error, ProtocolError):
            raise ProtocolError(f"connection to {self.address}: {session.error}")
        raise self._lost()

    def _lost(self) -> LinkLost:
        return LinkLost(f"connection to {self.address}: {self.session.error or 'it has ended'}")

    # --- ends --------------------------------------------------------------------

    async def close(self) -> None:
        """End it behind what was sent; waits for the other end to have that."""
        if not self.over.is_set():
            self._stopped = True
            self._do(self.session.close(time.monotonic()))
            try:
                async with timeout(CLOSE_TIMEOUT_S):
                    await self.over.wait()
            except (TimeoutError, asyncio.TimeoutError):
                pass
        self.abort()
        await self._board.closed()

    def abort(self) -> None:
        """End it now and tell the other end."""
        self._stopped = True
        self._do(self.session.abort())

    def fail(self, cause: str) -> None:
        """Give up a dial that nobody answers."""
        if not self.opened.done():
            self.opened.set_exception(PeerUnreachable(cause))
        self.abort()

    # --- events ------------------------------------------------------------------

    def packet(self, packet: Packet) -> None:
        """A packet of this session arrived."""
        self._do(self.session.receive(packet, time.monotonic()))

    def resumed(self) -> None:
        """This end is back at the broker."""
        self._do(self.session.resumed(time.monotonic()))

    def absent(self) -> None:
        """The broker says that nobody listens at the other end."""
        self.session.absent(time.monotonic())
        self._do(())

    def _tick(self) -> None:
        self._timer = None
        self._do(self.session.tick(time.monotonic()))

    def _do(self, out: Sequence[Out]) -> None:
        """Publish, and tell who waits."""
        session = self.session
        if out:
            self._board.publish(self, out)
        self._arrived.set()
        self._room.set()
        if session.finished:
            self._finish()
        else:
            if session.state is State.OPEN and not self.opened.done():
                self.opened.set_result(None)
            self._arm()

    def _arm(self) -> None:
        """Have a timer that fires no later than the session's deadline; early ones are harmless."""
        due = self.session.deadline()
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        # The loop's clock is time.monotonic.
        self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _finish(self) -> None:
        if self.over.is_set():
            return
        self.over.set()
        if self._timer is not None:
            self._timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(self.session.error or LinkLost("it has ended"))
        self._board.over(self)


def _seen(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
