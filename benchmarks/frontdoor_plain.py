"""A plain LiteRT server with the web framework of `collab serve`; a process of `frontdoor`.

The whole model in one process, raw float32 in the body and back, one thread: what somebody
writes in an afternoon.  And a server of each protocol that reads its request and answers some
bytes: what a client and a framework take for themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from collab.graph import read_model
from collab.runtime.litert import LiteRT

ANSWER = bytes(300)
"""As long as an answer of the demo model with its head."""


def application(path: Path, rest: str) -> Starlette:
    """JSON to `/json`, raw float32 to `/raw`, anything to `/echo`; says where it serves once it does."""
    graph = read_model(path)
    (given,) = graph.inputs
    stage = LiteRT().load(path)
    thread = ThreadPoolExecutor(1)

    async def answer(array: np.ndarray) -> np.ndarray:
        loop = asyncio.get_running_loop()
        (made,) = await loop.run_in_executor(thread, stage.run, [array.reshape(given.shape)])
        return made

    async def raw(request: Request) -> Response:
        made = await answer(np.frombuffer(await request.body(), np.float32))
        return Response(made.tobytes(), media_type="application/octet-stream")

    async def as_json(request: Request) -> Response:
        made = await answer(np.array(json.loads(await request.body())["data"], np.float32))
        return Response(json.dumps({"data": made.ravel().tolist()}), media_type="application/json")

    async def echo(request: Request) -> Response:
        await request.body()
        return Response(ANSWER, media_type="application/octet-stream")

    @contextlib.asynccontextmanager
    async def calls(app: Starlette) -> AsyncIterator[None]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Echo(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(json.dumps({"rest": rest, "grpc": f"127.0.0.1:{port}"}), flush=True)
        yield
        await server.stop(None)

    posts = {"/raw": raw, "/json": as_json, "/echo": echo}
    return Starlette(
        routes=[Route(path, answers, methods=["POST"]) for path, answers in posts.items()], lifespan=calls
    )


class _Echo(grpc.GenericRpcHandler):
    """Answers every method, without reading a message."""

    def service(self, handler_call_details: Any) -> Any:
        """The handler, made once."""
        return self._handler

    async def _answer(self, request: bytes, context: Any) -> bytes:
        return ANSWER

    def __init__(self) -> None:
        self._handler: Any = grpc.unary_unary_rpc_method_handler(self._answer)


def main() -> None:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    app = application(Path(sys.argv[1]), f"http://127.0.0.1:{listening.getsockname()[1]}")
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="on", log_config=None, access_log=False
    )
    uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main()
