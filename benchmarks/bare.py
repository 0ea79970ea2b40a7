"""Echo servers and clients over bare libraries: the yardsticks of transports.

Each server runs in a process of its own (``python -m benchmarks.bare KIND [ADDRESS]``),
prints its port and ends with standard input.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any

import aiocoap
import aiocoap.resource
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

BLOCK_BYTES = 1024
"""The largest block of RFC 7959."""
IN_FLIGHT = 8
"""Requests at a time where a library has no queue of its own."""


class Echo(ABC):
    """A client of an echo server that it starts."""

    kind: str

    def __init__(self, address: str = "") -> None:
        self._address = address
        self.port = 0

    async def __aenter__(self) -> Any:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.bare",
            self.kind,
            self._address,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        await self._process.communicate(b"")

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def round_trip(self, message: bytes) -> None:
        """Send a message and wait for its echo."""

    @abstractmethod
    async def stream(self, message: bytes, count: int) -> None:
        """Send messages while their echoes come back."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


# --- blocking TCP sockets -----------------------------------------------------------------


def _exactly(connection: socket.socket, view: memoryview) -> bool:
    while len(view):
        taken = connection.recv_into(view)
        if not taken:
            return False
        view = view[taken:]
    return True


class TcpEcho(Echo):
    """Length-prefixed messages over blocking sockets."""

    kind = "tcp"

    async def open(self) -> None:
        """Connect."""
        self._socket = socket.create_connection(("127.0.0.1", self.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def round_trip(self, message: bytes) -> None:
        """Send in a thread where both ends' buffers are too small for the message."""
        sender = None
        if len(message) > 1 << 16:
            sender = threading.Thread(target=self._send, args=(message,))
            sender.start()
        else:
            self._send(message)
        head = bytearray(4)
        _exactly(self._socket, memoryview(head))
        _exactly(self._socket, memoryview(bytearray(struct.unpack("<I", head)[0])))
        if sender is not None:
            sender.join()

    async def stream(self, message: bytes, count: int) -> None:
        """Send in a thread."""

        def send_all() -> None:
            for _ in range(count):
                self._send(message)

        sender = threading.Thread(target=send_all)
        sender.start()
        into = memoryview(bytearray(len(message) + 4))
        for _ in range(count):
            _exactly(self._socket, into)
        sender.join()

    def _send(self, message: bytes) -> None:
        self._socket.sendmsg([struct.pack("<I", len(message))])
        self._socket.sendall(message)

    async def close(self) -> None:
        """Disconnect."""
        self._socket.close()


def _serve_tcp() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = bytearray(4)
    with connection:
        while _exactly(connection, memoryview(head)):
            body = bytearray(struct.unpack("<I", head)[0])
            _exactly(connection, memoryview(body))
            connection.sendall(head)
            connection.sendall(body)


# --- paho-mqtt -----------------------------------------------------------------------------


def _paho(address: str, topic: str, arrived: Callable[[paho.Client, bytes], object]) -> paho.Client:
    """A client, QoS 1, without Nagle's delay, that has subscribed to a topic."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    ready = threading.Event()

    def opened(_: object, __: object, connection: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connected(*_: object) -> None:
        client.subscribe(topic, qos=1)

    def subscribed(*_: object) -> None:
        ready.set()

    def message(_: object, __: object, taken: paho.MQTTMessage) -> None:
        arrived(client, bytes(taken.payload))

    client.on_socket_open, client.on_connect = opened, connected
    client.on_subscribe, client.on_message = subscribed, message
    host, port = address.rpartition("/")[2].split(":")
    client.connect(host, int(port))
    client.loop_start()
    ready.wait()
    return client


class PahoEcho(Echo):
    """One publication a message."""

    kind = "paho"

    async def open(self) -> None:
        """Connect to the broker."""
        self._arrived = threading.Event()
        self._client = await asyncio.to_thread(
            _paho, self._address, "bare/pong", lambda _, __: self._one_arrived()
        )
        self._left = 1

    def _one_arrived(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._arrived.set()

    async def round_trip(self, message: bytes) -> None:
        """Publish and wait."""
        self._left = 1
        self._arrived.clear()
        self._client.publish("bare/ping", message, qos=1)
        self._arrived.wait()

    async def stream(self, message: bytes, count: int) -> None:
        """Publish all; paho keeps them and sends as fast as the broker takes them."""
        self._left = count
        self._arrived.clear()
        for _ in range(count):
            self._client.publish("bare/ping", message, qos=1)
        self._arrived.wait()

    async def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


def _serve_paho(address: str) -> None:
    client = _paho(address, "bare/ping", lambda own, payload: own.publish("bare/pong", payload, qos=1))
    print(0, flush=True)
    sys.stdin.read()
    client.disconnect()
    client.loop_stop()


# --- aiocoap -------------------------------------------------------------------------------


class CoapEcho(Echo):
    """POST and its answer: blocks of 1,024 bytes in lock-step over UDP, BERT over TCP."""

    def __init__(self, transport: str, through: int = 0) -> None:
        self.kind = f"coap-{transport}"
        self._scheme = "coap" if transport == "udp" else "coap+tcp"
        self.through = through
        """Port of what stands between, if something does."""
        super().__init__()

    async def open(self) -> None:
        """Make a client."""
        self._context = await aiocoap.Context.create_client_context()

    async def round_trip(self, message: bytes) -> None:
        """POST and wait for the whole answer."""
        uri = f"{self._scheme}://127.0.0.1:{self.through or self.port}/echo"
        request = aiocoap.Message(code=aiocoap.POST, uri=uri, payload=message)
        response = await self._context.request(request).response
        assert len(response.payload) == len(message), response

    async def stream(self, message: bytes, count: int) -> None:
        """Requests, some at a time; one where they take blocks, which aiocoap would mix up."""
        slots = asyncio.Semaphore(IN_FLIGHT if len(message) <= BLOCK_BYTES else 1)

        async def one() -> None:
            async with slots:
                await self.round_trip(message)

        await asyncio.gather(*(one() for _ in range(count)))

    async def close(self) -> None:
        """Close the client."""
        await self._context.shutdown()


class _EchoResource(aiocoap.resource.Resource):  # type: ignore[misc]
    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=aiocoap.CHANGED, payload=request.payload)


async def _serve_coap(transport: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = aiocoap.resource.Site()
    site.add_resource(["echo"], _EchoResource())
    only = ["udp6"] if transport == "udp" else ["tcpserver"]
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=only)
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await context.shutdown()


def main() -> None:
    """Serve until standard input ends."""
    kind, address = sys.argv[1], sys.argv[2]
    if kind == "tcp":
        _serve_tcp()
    elif kind == "paho":
        _serve_paho(address)
    else:
        asyncio.run(_serve_coap(kind.removeprefix("coap-")))


if __name__ == "__main__":
    main()
