"""What an update costs on the link, and what requests see of it.

``deltas``: of packaged models, the digits model with another head, and a Fashion-MNIST model in int8,
its head or all of it trained on with images that it had not seen (`benchmarks.releases_models` makes
them); "near the former" are weights that stay where they are within one rounding step; the yardstick is
the full file under zstd.  ``breaks``: a download that breaks thirty times; the yardstick is python-tuf's
own fetcher over the same server with breaks at the same places.  ``sources``: a release of 10 MB from a
web server and from a node over each transport.  ``rollouts``: releases into a plan that runs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import zstandard

from benchmarks.figures import Figure, run
from benchmarks.releases_rollouts import measure_rollouts
from benchmarks.releases_sources import measure as measure_sources
from collab.assets import path as asset
from collab.errors import PeerError
from collab.updates.bundle.manifest import About, Port
from collab.updates.bundle.write import Parts, encode_bundle
from collab.updates.fetch.deltas import apply_delta, make_delta
from collab.updates.fetch.download import Counted, Downloads
from collab.updates.fetch.http import HttpSource

ASSETS = Path(__file__).parent / "assets" / "releases"
SIZE = 50_000_000
BREAKS = 30
PARTS = ("deltas", "breaks", "sources", "rollouts")
PAIRS = (
    ("head, int8", "base_int8", "head_int8", 0.10),
    ("fine-tune, int8", "base_int8", "tuned_int8", 0.15),
    ("fine-tune near the former, int8", "base_int8", "tuned_near_int8", 0.15),
    ("fine-tune at ten times the rate, int8", "base_int8", "tuned_hard_int8", 0.15),
    ("the same near the former, int8", "base_int8", "tuned_hard_near_int8", 0.15),
)


class Server(BaseHTTPRequestHandler):
    """Serves one file with ranges; breaks the connection at each place once."""

    data = b""
    breaks: Sequence[int] = ()
    sent = 0

    def do_GET(self) -> None:
        cls = type(self)
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        stop, cls.breaks = (cls.breaks[0], cls.breaks[1:]) if cls.breaks else (len(cls.data), ())
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(cls.data) - 1}/{len(cls.data)}")
        self.send_header("Content-Length", str(len(cls.data) - start))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(memoryview(cls.data)[start:stop])
        cls.sent += stop - start
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(data: bytes, breaks: Sequence[int]) -> Iterator[str]:
    Server.data, Server.breaks, Server.sent = data, breaks, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ours(data: bytes, breaks: Sequence[int]) -> int:
    """Bytes that the server sent until the file was here; every attempt begins from the disk alone."""
    digest = hashlib.sha256(data).hexdigest()
    with tempfile.TemporaryDirectory() as folder, serving(data, breaks) as address:
        while True:
            downloads = Downloads(Path(folder), counted=Counted())
            with suppress(PeerError):
                downloads.fetch(digest, len(data), lambda offset: HttpSource(address).open("file", offset))
                return Server.sent


def python_tuf(data: bytes, breaks: Sequence[int]) -> int:
    """The same with the library's fetcher."""
    from tuf.api.exceptions import DownloadError
    from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
    from urllib3.exceptions import HTTPError

    with serving(data, breaks) as address:
        while True:
            # What breaks while it is read leaves the library as an error of urllib3.
            with (
                suppress(DownloadError, HTTPError),
                Urllib3Fetcher().download_file(f"{address}/file", len(data)) as file,
            ):
                if len(file.read()) == len(data):
                    return Server.sent


def packaged(model: bytes, version: str) -> bytes:
    kind = "float32"
    ports = (
        (Port(name="image", shape=(1, 28, 28, 1), dtype=kind),),
        (Port(name="p", shape=(1, 10), dtype=kind),),
    )
    return encode_bundle(Parts(About(name="digits", version=version), model, *ports))


def another_head(model: bytes) -> bytes:
    """The same model with other numbers for all weights of its last layer."""
    from ai_edge_litert import schema_py_generated as schema

    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    graph = parsed.subgraphs[0]
    codes = [code.builtinCode for code in parsed.operatorCodes]
    dense = [op for op in graph.operators if codes[op.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED]
    old = bytes(parsed.buffers[graph.tensors[dense[-1].inputs[1]].buffer].data)
    weights = np.frombuffer(old, np.float32)
    fresh = np.random.default_rng(3).normal(0, weights.std(), weights.size).astype(np.float32)
    assert model.count(old) == 1
    return model.replace(old, fresh.tobytes())


def pairs() -> Iterator[tuple[str, bytes, bytes, float]]:
    """What is compared: a name, the model before and after, the most that a delta may cost."""
    shipped = asset("digits.tflite").read_bytes()
    yield "head, float32", shipped, another_head(shipped), 0.10
    for name, base, target, most in PAIRS:
        before, after = ((ASSETS / f"{file}.tflite").read_bytes() for file in (base, target))
        yield name, before, after, most


def deltas() -> Iterator[Figure]:
    costs = []
    for name, base, target, most in pairs():
        # A version that is one character longer moves everything behind it.
        old, new = packaged(base, "9"), packaged(target, "10")
        made = make_delta(old, new)
        cost = 1.0 if made is None else made[0].size / len(new)
        costs.append(cost)
        kind = "full file" if made is None else made[0].kind
        alone = len(zstandard.ZstdCompressor(level=19).compress(new)) / len(new)
        yield Figure(
            f"{name}: share of the full file", cost, "", f"<= {most}", alone, f"{len(new)} bytes, {kind}"
        )
        if made is not None:
            delta, data = made
            times = []
            for _ in range(5):
                start = time.perf_counter()
                apply_delta(delta, old, data, len(new), hashlib.sha256(new).hexdigest())
                times.append((time.perf_counter() - start) * 1000)
            yield Figure(f"{name}: applying", statistics.median(times), "ms", "", None, "digests included")
    noise, shipped = np.random.default_rng(0).bytes(1 << 20), asset("digits.tflite").read_bytes()
    for before, after in ((noise, shipped), (shipped, noise), (shipped, shipped[:9000])):
        made = make_delta(before, after)
        costs.append(1.0 if made is None else made[0].size / len(after))
    yield Figure(
        "largest share of all, unrelated files too",
        max(costs),
        "",
        "<= 1.0",
        None,
        "full file where no delta pays",
    )


async def measure(options: argparse.Namespace) -> list[Figure]:
    wanted = options.parts or PARTS
    figures = list(deltas()) if "deltas" in wanted else []
    if "breaks" in wanted:
        figures.append(broken(options.quick))
    if "sources" in wanted:
        figures += await measure_sources(options.quick)
    if "rollouts" in wanted:
        figures += await measure_rollouts(options.quick)
    return figures


def broken(quick: bool) -> Figure:
    rng = random.Random(11)
    data = rng.randbytes(SIZE)
    runs = 1 if quick else 5
    over = []
    for _ in range(runs):
        breaks = sorted(rng.sample(range(1, SIZE), BREAKS))
        over.append(ours(data, breaks) / SIZE)
    yardstick = python_tuf(data, breaks) / SIZE
    how = f"the worst of {runs}; yardstick python-tuf's fetcher"
    return Figure(
        f"50 MB with {BREAKS} breaks: sent, share of the file", max(over), "", "<= 1.01", yardstick, how
    )


if __name__ == "__main__":
    run(measure, __doc__, PARTS)
