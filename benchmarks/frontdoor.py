"""What the front door costs: `collab serve` beside the bare chain, and beside a plain server.

In turn in one run, at 1, 8 and 32 requests at a time: (chain) a chain of three nodes asked
by the Python API, (json), (binary) and (grpc) the same chain through `collab serve`, (plain)
the whole model behind Starlette in one process, with raw bodies, (echo) nothing behind the same
libraries: what the client and a framework take for themselves.  Clients are bare: asyncio
streams that write ready requests and read lengths, and one gRPC channel.  What is added is the
median of the differences within rounds, for the machine's speed changes between them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np

from benchmarks.figures import Figure, run
from benchmarks.soak import resident_mb
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.connect import reach
from collab.codec.pb import grpc_service_pb2 as pb
from collab.coordinator import planning
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.coordinator.local import LocalNodes
from collab.core.ids import PlanName
from collab.core.plan import Plan, to_json
from collab.graph import Graph, read_model

NODES = ("a", "b", "c")
CUTS = (10, 20)
AT_ONCE = (1, 8, 32)
ROUNDS = 6

Ask = Callable[[], Awaitable[bytes]]
"""One request; its answer's tensor."""


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[dict[str, Any]]:
    """A program that says in JSON where it serves."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        assert child.stdout is not None
        yield {**json.loads(await child.stdout.readline()), "pid": child.pid}
    finally:
        child.terminate()
        await child.communicate()


class Connection:
    """Asks ready requests over one connection, which it makes when it is first asked."""

    def __init__(self, url: str, path: str, body: bytes, *headers: str) -> None:
        self._place = urlsplit(url)
        lines = [f"POST {path} HTTP/1.1", f"host: {self._place.netloc}", f"content-length: {len(body)}"]
        self._request = "\r\n".join((*lines, *headers, "", "")).encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> bytes:
        """The body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._place.hostname, self._place.port)
        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await reader.readexactly(int(length.partition(b":")[2]))

    def close(self) -> None:
        """Close it; servers close one that is idle themselves."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(asks: Sequence[Ask], seconds: float) -> tuple[float, float]:
    """Median latency in ms and answers a second, one request at a time for each of `asks`."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one(ask: Ask) -> None:
        while (start := time.perf_counter()) < end:
            await ask()
            times.append((time.perf_counter() - start) * 1000)

    begun = time.perf_counter()
    await asyncio.gather(*map(one, asks))
    return statistics.median(times), len(times) / (time.perf_counter() - begun)


class Ways:
    """Every way to ask one model, each with as many askers as there are requests at a time."""

    def __init__(self, graph: Graph, x: np.ndarray) -> None:
        (self._given,), (self._made,) = graph.inputs, graph.outputs
        self._x = x
        self.asks: dict[str, list[Ask]] = {}
        self._connections: list[Connection] = []

    async def chain(self, cluster: Cluster, plan: Plan) -> None:
        """The Python API."""
        client = await cluster.open(plan, max(AT_ONCE))

        async def ask() -> bytes:
            result = await client.run({self._given.name: self._x})
            return np.asarray(result.outputs[self._made.name]).tobytes()

        self.asks["chain"] = [ask] * max(AT_ONCE)

    def rest(self, url: str, model: str) -> None:
        """JSON, and binary tensors."""
        tensor: dict[str, Any] = {"name": self._given.name, "shape": list(self._x.shape), "datatype": "FP32"}
        path = f"/v2/models/{model}/infer"
        plain = json.dumps({"inputs": [tensor | {"data": self._x.ravel().tolist()}]}).encode()
        self._connect("json", url, path, plain, lambda body: self._floats(json.loads(body)["outputs"][0]))
        told = tensor | {"parameters": {"binary_data_size": self._x.nbytes}}
        head = json.dumps({"inputs": [told], "parameters": {"binary_data_output": True}}).encode()
        length = f"inference-header-content-length: {len(head)}"
        size = self._made.nbytes
        body = head + self._x.tobytes()
        self._connect("binary", url, path, body, lambda body: body[-size:], length)

    def plain(self, url: str) -> None:
        """The plain server, with a model and with nothing."""
        self._connect("echo", url, "/echo", self._x.tobytes(), lambda body: b"")
        self._connect("plain", url, "/raw", self._x.tobytes(), lambda body: body)
        data = json.dumps({"data": self._x.ravel().tolist()}).encode()
        self._connect("plain json", url, "/json", data, lambda body: self._floats(json.loads(body)))

    def _floats(self, told: dict[str, Any]) -> bytes:
        return np.array(told["data"], np.float32).tobytes()

    def _connect(
        self, name: str, url: str, path: str, body: bytes, read: Callable[[bytes], bytes], *headers: str
    ) -> None:
        self.asks[name] = []
        for _ in range(max(AT_ONCE)):
            connection = Connection(url, path, body, *headers)
            self._connections.append(connection)

            async def ask(connection: Connection = connection) -> bytes:
                return read(await connection.ask())

            self.asks[name].append(ask)

    def grpc(self, channel: grpc.aio.Channel, bare: grpc.aio.Channel, model: str) -> None:
        """Raw contents over one channel, and the same message to a server that does not read it."""
        request = pb.ModelInferRequest(model_name=model, raw_input_contents=[self._x.tobytes()])
        request.inputs.add(name=self._given.name, datatype="FP32", shape=self._x.shape)
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )

        async def ask() -> bytes:
            return (await call(request)).raw_output_contents[0]

        echo: Any = bare.unary_unary("/any/Echo", pb.ModelInferRequest.SerializeToString, None)

        async def ask_bare() -> bytes:
            await echo(request)
            return b""

        self.asks["grpc"] = [ask] * max(AT_ONCE)
        self.asks["grpc echo"] = [ask_bare] * max(AT_ONCE)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()

    async def check(self) -> None:
        """All ways give the same bytes."""
        answers = {name: await asks[0]() for name, asks in self.asks.items()}
        assert len(set(filter(None, answers.values()))) == 1, "the ways answer differently"


def figures(rows: dict[tuple[str, int], list[tuple[float, float]]]) -> list[Figure]:
    """Latency added at one request at a time, and throughput at each number."""

    def latency(way: str, count: int) -> float:
        return statistics.median(ms for ms, _ in rows[way, count])

    def rate(way: str, count: int) -> float:
        return statistics.median(rps for _, rps in rows[way, count])

    def beyond(way: str, yardstick: str) -> float:
        pairs = zip(rows[way, 1], rows[yardstick, 1], strict=True)
        return statistics.median(ms - least for (ms, _), (least, _) in pairs)

    found = []
    for way, echo, most in (
        ("json", "echo", "<= 2.0"),
        ("binary", "echo", "<= 1.0"),
        ("grpc", "grpc echo", "<= 1.0"),
    ):
        added, least, base = beyond(way, "chain"), latency(echo, 1), latency("chain", 1)
        how = f"{latency(way, 1):.2f} ms beside {base:.2f} ms of the bare chain"
        found.append(Figure(f"{way}: added to a request", added, "ms", most, base, how))
        how = "what the client and the bare framework take, with nothing behind them"
        found.append(Figure(f"{way}: of that, an echo takes", least, "ms", "", None, how))
    for count in AT_ONCE:
        base = rate("chain", count)
        found.append(Figure(f"chain: {count} at a time", base, "1/s", "", None, "the Python API"))
        for way in ("json", "binary", "grpc"):
            how = f"{rate(way, count):.0f} a second by the bare chain's"
            target = ">= 0.8" if way != "json" else ""
            name = f"{way}: {count} at a time, by the chain's"
            found.append(Figure(name, rate(way, count) / base, "times", target, base, how))
        for way, plain in (("binary", "plain"), ("json", "plain json")):
            yardstick = rate(plain, count)
            how = f"{rate(way, count):.0f} a second by the plain server's"
            name = f"{way}: {count} at a time, by the plain server's"
            found.append(Figure(name, rate(way, count) / yardstick, "times", "", yardstick, how))
    return found


def memory(idle: float, loaded: float) -> list[Figure]:
    """What the server holds, in MB."""
    how = "resident, with one model and both protocols, before the first request"
    then = f"the same after all of these, {max(AT_ONCE)} at a time at most"
    return [
        Figure("memory of the server, idle", idle, "MB", "", None, how),
        Figure("memory of the server, after the load", loaded, "MB", "", idle, then),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    seconds, rounds = (0.4, 3) if options.quick else (0.6, ROUNDS)
    file = asset("digits.tflite")
    graph = await asyncio.to_thread(read_model, file)
    with np.load(asset("digits_heldout.npz")) as held_out:
        x = (held_out["images"][0].astype(np.float32) / 255).reshape(graph.inputs[0].shape)
    rows: dict[tuple[str, int], list[tuple[float, float]]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-bench-")))
        local = await stack.enter_async_context(LocalNodes(NODES, folder))
        cluster = await stack.enter_async_context(build_cluster())
        views = await reach(cluster, local.endpoints)
        assignment = planning.default_assignment(len(NODES), views)
        plan, blobs = planning.build_chain(
            PlanName("digits"), file, graph, CUTS, assignment, [view.ref for view in views]
        )
        await deploy(cluster, plan.replace(credits=128), blobs)
        plan = plan.replace(credits=128)
        written = folder / "plan.yaml"
        await asyncio.to_thread(written.write_bytes, to_json(plan))
        places = ("--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--json")
        served = await stack.enter_async_context(process("collab", "serve", str(written), *places))
        plain = await stack.enter_async_context(process("benchmarks.frontdoor_plain", str(file)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(served["grpc"]))
        bare = await stack.enter_async_context(grpc.aio.insecure_channel(plain["grpc"]))
        ways = Ways(graph, x)
        stack.callback(ways.close)
        await ways.chain(cluster, plan)
        ways.rest(served["rest"], plan.name)
        ways.grpc(channel, bare, plan.name)
        ways.plain(plain["rest"])
        idle = resident_mb(served["pid"])
        await ways.check()
        for _ in range(rounds):
            for count in AT_ONCE:
                for name, asks in ways.asks.items():
                    ways.close()
                    rows.setdefault((name, count), []).append(await load(asks[:count], seconds))
        used = memory(idle, resident_mb(served["pid"]))
    return [*figures(rows), *used]


if __name__ == "__main__":
    run(measure, __doc__)
