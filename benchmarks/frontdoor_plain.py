"""A plain LiteRT server with the web framework of `collab serve`; a process of `frontdoor`.

The whole model in one process, raw float32 in the body and back, one thread: what somebody
writes in an afternoon.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from collab.graph import read_model
from collab.runtime.litert import LiteRT


def application(path: Path) -> Starlette:
    """JSON to `/json`, raw float32 to `/raw`."""
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

    return Starlette(routes=[Route("/raw", raw, methods=["POST"]), Route("/json", as_json, methods=["POST"])])


def main() -> None:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    app = application(Path(sys.argv[1]))
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
    print(json.dumps({"rest": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
    uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main()
