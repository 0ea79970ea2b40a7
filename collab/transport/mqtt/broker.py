"""One connection to one broker, shared by all who use it and renewed when it breaks.

paho-mqtt speaks the protocol; the event loop moves its bytes, so no thread stands
between a frame and the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from collab.codec.wire import Buffer
from collab.errors import CollabError, PeerUnreachable, Refused
from collab.transport.aio import timeout
from collab.transport.mqtt.address import BrokerAddress
from collab.transport.mqtt.client import PACKET_BYTES, Client
from collab.transport.mqtt.opening import open_socket

log = logging.getLogger("collab.transport")

NO_SUBSCRIBERS: Final = 0x10
"""Reason code "No matching subscribers" (MQTT 5 3.4.2.1)."""
UNAUTHORISED: Final = frozenset({0x86, 0x87, 0x8C})
"""Bad user name or password, not authorised, bad authentication method (MQTT 5 3.2.2.2)."""
KEEPALIVE_S: Final = 5
"""Between signs of life toward the broker, which gives up after one and a half (MQTT 5 3.1.2.10)."""
RECEIVE_MAXIMUM: Final = 256
"""Messages that the broker may have under way to us unacknowledged (MQTT 5 3.1.2.11.3)."""
CONNECT_TIMEOUT_S: Final = 10.0
FLUSH_TIMEOUT_S: Final = 1.0
BACKOFF_S: Final = (0.05, 2.0)
"""First and longest pause before the next try to reconnect; each is drawn between half and all of it."""
_DEFAULT_INFLIGHT: Final = 65535
"""Receive maximum of a broker that names none (MQTT 5 3.2.2.3.3)."""
_CORK: Final[int | None] = getattr(socket, "TCP_CORK", None)
"""Socket option that holds segments back until all is written (Linux tcp(7))."""

Received = Callable[[str, Buffer, "Properties | None"], None]
"""Called with topic, payload and properties of each message; without properties in inboxes of processes."""
Published = Callable[[int], None]
"""Called with the reason code of the broker's acknowledgement."""


class Broker:
    """A connection to a broker, kept up from `start` until its last user is gone."""

    def __init__(
        self, address: BrokerAddress, name: str, context: ssl.SSLContext | None, received: Received
    ) -> None:
        self.address = address
        self.instance = secrets.token_hex(8)
        """Tells this process and connection apart from others of the same name."""
        self.packet_bytes = PACKET_BYTES
        """Longest packet that the broker takes."""
        self.users = 0
        self.trouble = ""
        """Why it is not connected; empty while it is."""
        self.resumed: Callable[[], None] = lambda: None
        """Called when the connection is back after a loss."""
        self._name = name
        self._context = context
        self._received = received
        self._client: Client | None = None
        self._up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._up.add_done_callback(_seen)
        self._lost = asyncio.Event()
        self._topics: list[str] = []
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._published: dict[int, Published] = {}
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- users -------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nobody can use it any more."""
        return self._closing.is_set() or (self._task is not None and self._task.done())

    def acquire(self) -> None:
        """One more user; the first starts it."""
        self.users += 1
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def release(self) -> None:
        """One user less; the last ends it behind what was published."""
        self.users -= 1
        if not self.users:
            self._closing.set()
            self._lost.set()

    async def closed(self) -> None:
        """Return when it has ended, if its last user is gone."""
        if self._closing.is_set() and self._task is not None:
            await asyncio.wait((self._task,))

    async def ready(self) -> None:
        """Return when it is connected.  Raises `PeerUnreachable` or `Refused`."""
        await asyncio.shield(self._up)

    # --- messages ------------------------------------------------------------------

    def publish(
        self, topic: str, data: bytes, qos: int, properties: Properties | None, done: Published | None = None
    ) -> None:
        """Publish a message; dropped while the connection is away, as sessions send again."""
        client = self._client
        if client is None:
            return
        info = client.publish(topic, data, qos, properties=properties)
        if done is not None and qos and info.rc == paho.MQTT_ERR_SUCCESS:
            self._published[info.mid] = done
        self._flush(client)

    async def subscribe(self, topic: str) -> None:
        """Subscribe, now and after every reconnect.  Raises `PeerUnreachable` or `Refused`."""
        self._topics.append(topic)
        try:
            await self._subscribe(topic)
        except BaseException:
            self._topics.remove(topic)
            raise

    async def unsubscribe(self, topic: str) -> None:
        """End a subscription; waits a bounded time for the broker.  Never raises."""
        if topic in self._topics:
            self._topics.remove(topic)
        if self._client is not None:
            _, number = self._client.unsubscribe(topic)
            with contextlib.suppress(CollabError):
                await self._answer(number, FLUSH_TIMEOUT_S)

    async def _subscribe(self, topic: str) -> None:
        if self._client is None:
            raise self._away()
        # The publisher's quality of service decides, as the lesser of the two counts (MQTT 5 3.8.4).
        _, number = self._client.subscribe(topic, qos=2)
        if await self._answer(number) >= 0x80:
            raise Refused(
                f"{self.address}: the broker's access rules forbid {self._name!r} to read its own topic"
            )

    async def _answer(self, number: int | None, timeout_s: float = CONNECT_TIMEOUT_S) -> int:
        client = self._client
        if number is None or client is None:
            raise self._away()
        self._flush(client)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            async with timeout(timeout_s):
                return await answer
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"{self.address}: the broker does not answer a subscription") from error
        finally:
            self._answers.pop(number, None)

    def _away(self) -> PeerUnreachable:
        return PeerUnreachable(f"{self.address}: the connection to the broker is lost")

    # --- life ------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._keep_up()
        finally:
            await self._disconnect()
            self._fail(PeerUnreachable(f"{self.address}: closed here"))

    async def _keep_up(self) -> None:
        pause_s, known = BACKOFF_S[0], False
        while not self._closing.is_set():
            try:
                await self._unless_closing(self._connect())
            except CollabError as error:
                if not known:
                    self._closing.set()
                    self._fail(error)
                    return
                self.trouble = str(error)
                log.info("%s; trying again", error)
                self._drop()
                await self._pause(pause_s * random.uniform(0.5, 1))
                pause_s = min(2 * pause_s, BACKOFF_S[1])
                continue
            if self._closing.is_set():
                return
            pause_s, self.trouble = BACKOFF_S[0], ""
            if known:
                log.info("%s: connected again", self.address)
                self.resumed()
            known = True
            if not self._up.done():
                self._up.set_result(None)
            await self._until_lost()

    async def _unless_closing(self, work: Any) -> None:
        """Do some work and stop doing it when the last user goes."""
        working = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((working, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, closing):
                task.cancel()
            await asyncio.wait((working, closing))
        if not working.cancelled():
            working.result()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            async with timeout(seconds):
                await self._closing.wait()

    async def _until_lost(self) -> None:
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(1.0):
                    await self._lost.wait()
            if self._client is not None and not self._lost.is_set():
                self._client.loop_misc()
                self._flush(self._client)
        if self._closing.is_set():
            return
        self.trouble = f"{self.address}: the connection to the broker is lost"
        log.warning("%s; reconnecting", self.trouble)
        self._up = asyncio.get_running_loop().create_future()
        self._up.add_done_callback(_seen)
        self._drop()

    def _fail(self, error: CollabError) -> None:
        if not self._up.done():
            self._up.set_exception(error)

    def _drop(self) -> None:
        """Forget a connection that is lost."""
        client, self._client = self._client, None
        self._published.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._away())
        if client is not None:
            client.drop()

    async def _disconnect(self) -> None:
        client = self._client
        try:
            if client is not None and client.is_connected():
                client.disconnect()
                self._lost.clear()
                self._flush(client)
                async with timeout(FLUSH_TIMEOUT_S):
                    while client.socket() is not None and client.want_write() and not self._lost.is_set():
                        await self._lost.wait()
        except (TimeoutError, asyncio.TimeoutError):
            pass
        finally:
            self._drop()

    # --- connecting --------------------------------------------------------------------

    async def _connect(self) -> None:
        opened = await open_socket(self.address, self._context)
        self._lost.clear()
        client = Client(opened, f"{self._name}-{self.instance}", self._frame)
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connected.add_done_callback(_seen)
        self._attach(client, connected)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = PACKET_BYTES
        if self.address.credentials is not None:
            client.username_pw_set(*self.address.credentials)
        try:
            client.connect(
                self.address.host, self.address.port, KEEPALIVE_S, clean_start=True, properties=properties
            )
            self._client = client
            self._flush(client)
            async with timeout(CONNECT_TIMEOUT_S):
                await connected
            for topic in list(self._topics):
                await self._subscribe(topic)
        except (TimeoutError, asyncio.TimeoutError) as error:
            self._drop()
            raise PeerUnreachable(
                f"{self.address}: connected, but no answer; is it an MQTT broker?"
            ) from error
        except BaseException:
            self._client = client
            self._drop()
            opened.close()
            raise

    def _attach(self, client: Client, connected: asyncio.Future[None]) -> None:
        def on_connect(_: Any, __: Any, ___: Any, reason: Any, properties: Any) -> None:
            if connected.done():
                return
            if reason.is_failure:
                connected.set_exception(self._refusal(reason))
                return
            client.bound(getattr(properties, "ReceiveMaximum", _DEFAULT_INFLIGHT))
            self.packet_bytes = min(getattr(properties, "MaximumPacketSize", PACKET_BYTES), PACKET_BYTES)
            connected.set_result(None)

        def on_disconnect(_: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            if not connected.done():
                connected.set_exception(self._refusal(reason))
            if client is self._client:
                self._lost.set()

        loop = asyncio.get_running_loop()
        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_publish, client.on_message = self._on_publish, self._on_message
        client.on_subscribe = client.on_unsubscribe = self._on_answer
        client.on_socket_open = lambda _, __, sock: loop.add_reader(sock, self._readable, client)
        client.on_socket_close = lambda _, __, sock: _forget(loop, sock)

    def _on_publish(self, _: Any, __: Any, number: int, reason: Any, ___: Any) -> None:
        if self._published and (done := self._published.pop(number, None)) is not None:
            done(reason.value)

    def _on_answer(self, _: Any, __: Any, number: int, reasons: Any, ___: Any) -> None:
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(max((reason.value for reason in reasons), default=0))

    def _frame(self, topic: str, data: memoryview) -> bool:
        if not topic.endswith(self.instance, 0, topic.rfind("/")):
            return False
        self._received(topic, data, None)
        return True

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._received(topic, bytes(message.payload), message.properties)

    def _refusal(self, reason: Any) -> CollabError:
        if reason.value in UNAUTHORISED:
            return Refused(f"{self.address}: the broker refuses {self._name!r}: {str(reason).lower()}")
        hint = "; does it accept this end's certificate?" if self._context is not None else ""
        return PeerUnreachable(f"{self.address}: the broker ends the connection: {str(reason).lower()}{hint}")

    # --- bytes ---------------------------------------------------------------------------

    def _readable(self, client: Client) -> None:
        try:
            client.loop_read()
            sock: Any = client.socket()
            # What TLS has decrypted already makes no socket readable.
            while isinstance(sock, ssl.SSLSocket) and sock.pending():
                client.loop_read()
                sock = client.socket()
        except Exception:
            # paho raises a dozen kinds for what is no MQTT.
            log.warning("%s: the broker sends what cannot be read", self.address, exc_info=True)
            client.drop()
            if client is self._client:
                self._lost.set()
        if client.want_write():
            # Behind whom this woke: an answer takes the acknowledgement along.
            asyncio.get_running_loop().call_soon(self._flush, client)

    def _flush(self, client: Client) -> None:
        """Write what waits, as few segments as possible."""
        sock: Any = client.socket()
        if sock is None or not client.want_write():
            return
        corked = _CORK is not None and client.waiting > 1
        if corked:
            sock.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        client.loop_write()
        if client.socket() is None:
            return
        if corked:
            sock.setsockopt(socket.IPPROTO_TCP, _CORK, 0)
        if client.want_write():
            asyncio.get_running_loop().add_writer(sock, self._writable, client)

    def _writable(self, client: Client) -> None:
        client.loop_write()
        sock = client.socket()
        if sock is not None and not client.want_write():
            asyncio.get_running_loop().remove_writer(sock)
            if self._closing.is_set():
                self._lost.set()


def _seen(future: asyncio.Future[None]) -> None:
    """Nobody may be waiting for a failure."""
    if not future.cancelled():
        future.exception()


def _forget(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0 and not loop.is_closed():
        loop.remove_reader(sock)
        loop.remove_writer(sock)
