"""A release of 10 MB from a web server and from a node over each transport: a part of `releases`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.figures import Figure
from collab.assembly import build_cluster
from collab.client.releases import LinkReads, open_source
from collab.link.link import Link
from collab.updates.fetch.base import Source
from collab.updates.fetch.download import Downloads
from collab.updates.fetch.http import HttpSource
from tests.mosquitto import mosquitto

SIZE = 10_000_000
PATH = "targets/digits/stable/1.collab"
LISTEN = {
    "gRPC": "grpc://127.0.0.1:0",
    "MQTT": "mqtt://127.0.0.1:{broker}",
    "CoAP/TCP": "coap+tcp://127.0.0.1:0",
    "CoAP/UDP": "coap+udp://127.0.0.1:0",
}


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def line(child: subprocess.Popen[bytes]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().decode()


@contextmanager
def servers(folder: Path, repository: Path) -> Iterator[dict[str, str]]:
    """A web server and one node at four addresses, each a process of its own; addresses by name."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(acl=False))
        listen = ",".join(address.format(broker=broker.port) for address in LISTEN.values())
        config = folder / "node.toml"
        config.write_text(f'[serve_releases]\nfolders = {{ main = "{repository}" }}\n', "utf-8")
        named = ("--name", "giver", "--listen", listen, "--store", str(folder / "store"))
        rest = ("--discovery", "none", "--config", str(config), "--insecure", "--json")
        node = stack.enter_context(process("-m", "collab", "node", *named, *rest))
        web = stack.enter_context(
            process("-u", "-m", "http.server", "0", "-b", "127.0.0.1", "-d", str(repository))
        )
        endpoints = json.loads(line(node))["endpoints"]
        found = dict(zip(LISTEN, endpoints, strict=True))
        port = line(web).split(" port ")[1].split()[0]
        yield {"HTTP": f"http://127.0.0.1:{port}", **found}


@asynccontextmanager
async def sources(places: dict[str, str]) -> AsyncIterator[dict[str, tuple[Source, Link | None]]]:
    """What is read, and the link that carries it: one cluster each, so that one link carries one source."""
    made: dict[str, tuple[Source, Link | None]] = {}
    async with AsyncExitStack() as stack:
        for name, place in places.items():
            if name == "HTTP":
                made[name] = (HttpSource(place), None)
                continue
            cluster = await stack.enter_async_context(build_cluster())
            reads = await stack.enter_async_context(LinkReads(cluster.links))
            await cluster.reach([place])
            (link,) = cluster.links.all()
            made[name] = (open_source(f"node:{link.peer.name}/main", reads=reads), link)
        yield made


def fetch(source: Source, digest: str) -> float:
    """Seconds of one download with its digest and its syncs."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        Downloads(Path(folder)).fetch(digest, SIZE, lambda offset: source.open(PATH, offset))
        return time.perf_counter() - begun


async def measure(quick: bool) -> list[Figure]:
    data = random.Random(4).randbytes(SIZE)
    digest = hashlib.sha256(data).hexdigest()
    runs = 3 if quick else 9
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name) / "repository"
        (repository / PATH).parent.mkdir(parents=True)
        (repository / PATH).write_bytes(data)
        with servers(Path(name), repository) as places:
            async with sources(places) as found:
                return await _compare(found, digest, runs)


async def _compare(found: dict[str, tuple[Source, Link | None]], digest: str, runs: int) -> list[Figure]:
    seconds: dict[str, list[float]] = {name: [] for name in found}
    carried = {name: 0 for name in found}
    for turn in range(runs + 1):
        for name, (source, link) in found.items():
            before = link.carried_bytes[1] if link is not None else 0
            took = await asyncio.to_thread(fetch, source, digest)
            if turn:  # the first one warms up
                seconds[name].append(took)
                carried[name] += link.carried_bytes[1] - before if link is not None else SIZE
    web = statistics.median(seconds["HTTP"])
    figures = []
    for name, times in seconds.items():
        how = f"median of {runs}, interleaved, loopback, digest and sync included; yardstick HTTP"
        figures += [
            Figure(f"10 MB over {name}", statistics.median(times) * 1000, "ms", "", web * 1000, how),
            Figure(
                f"10 MB over {name}: of HTTP's time",
                statistics.median(a / b for a, b in zip(times, seconds["HTTP"], strict=True)),
                "",
                "",
                1.0,
                "median of the pairs",
            ),
            Figure(
                f"10 MB over {name}: bytes that came, share of the file",
                carried[name] / runs / SIZE,
                "",
                "<= 1.01",
                None,
                "as links count their frames; of HTTP the body alone",
            ),
        ]
    return figures
