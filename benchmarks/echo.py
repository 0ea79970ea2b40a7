"""A bare ``grpc.aio`` bidirectional stream that sends back what it gets: the yardstick of messages."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

METHOD = "/bare.Echo/Stream"
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, _: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)


async def serve() -> None:
    """Serve on a free port, print it, and end with standard input."""
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


class EchoClient:
    """A client of an echo server in a process of its own."""

    async def __aenter__(self) -> EchoClient:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.echo",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        port = int(await self._process.stdout.readline())
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        self._call: Any = self._channel.stream_stream(METHOD)()
        return self

    async def round_trip(self, message: bytes) -> bytes:
        """Send a message and wait for its echo."""
        await self._call.write(message)
        return bytes(await self._call.read())

    async def stream(self, message: bytes, count: int) -> None:
        """Send messages one after another while their echoes come back."""
        sending = asyncio.ensure_future(self._send_all(message, count))
        for _ in range(count):
            await self._call.read()
        await sending

    async def _send_all(self, message: bytes, count: int) -> None:
        for _ in range(count):
            await self._call.write(message)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        await self._channel.close()
        await self._process.communicate(b"")


if __name__ == "__main__":
    asyncio.run(serve())
