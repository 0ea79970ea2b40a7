"""What training on a node costs the requests that it answers meanwhile.

One node process with a plan of one stage and with examples; this process asks one request
after another, while another one runs a federated task of one client, and while it does not,
in turn.

    python -m benchmarks.training_beside --quick
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, arguments, machine, report
from collab.assembly import build_cluster
from collab.coordinator.deploy import deploy
from collab.coordinator.federated_folder import RunFolder
from tests.integration.models import Reference
from tests.integration.processes import ROOT, NodeProcess, environment

TASK = """
name: beside
model: model.tflite
rounds: 100000
training: {epochs: 20, batch_size: 32, learning_rate: 0.01}
evaluation: {every: 0}
"""


def prepare(folder: Path) -> NodeProcess:
    """Examples, a task, and a node that is not started."""
    rng = np.random.default_rng(0)
    x = rng.random((2000, 28, 28, 1), np.float32)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 10, len(x)))
    model = (ROOT / "tests/data/trainable_cnn.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(model)
    (folder / "task.yaml").write_text(TASK)
    (folder / "node.toml").write_text(f'[training]\ndata = "{folder}/data.npz"\n')
    return NodeProcess("n", folder, "--config", str(folder / "node.toml"))


@contextlib.asynccontextmanager
async def training(folder: Path, peer: str, number: int) -> AsyncIterator[None]:
    """A federated run that goes on until the block is left; entered once the node trains."""
    words = [
        "-m",
        "collab",
        "fed",
        "run",
        folder / "task.yaml",
        "--peers",
        peer,
        "--out",
        folder / f"{number}",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, words),
        env=environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        while b"asks" not in await process.stderr.readline():
            pass
        await asyncio.sleep(1.0)  # the model is sent and loaded
        yield
    finally:
        process.terminate()
        await process.communicate()
    kept = await asyncio.to_thread(RunFolder(folder / f"{number}").look)
    assert kept.ledger.asked, "the node has not trained all the time"


async def measure(folder: Path, node: NodeProcess, seconds: float, turns: int) -> dict[bool, list[float]]:
    """Latencies in ms, without and with training."""
    reference = Reference.of("digits")
    plan, blobs = reference.chain([], ["n"], {"n": node.endpoint})
    found: dict[bool, list[float]] = {False: [], True: []}
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, 1)

        async def ask(into: list[float]) -> None:
            until = time.perf_counter() + seconds
            while (begun := time.perf_counter()) < until:
                await client.run(reference.requests[len(into) % len(reference.requests)], 30.0)
                into.append((time.perf_counter() - begun) * 1000)

        await ask([])
        for turn in range(turns):
            await ask(found[False])
            async with training(folder, node.place, turn):
                await ask(found[True])
        await cluster.release(client)
    return found


def main() -> None:
    """Print the figures."""
    options, where = arguments(__doc__), machine()
    turns, seconds = (2, 4.0) if options.quick else (5, 10.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with prepare(folder) as node:
            found = asyncio.run(measure(folder, node, seconds, turns))
    how = f"{turns} times {seconds:g} s each way in turn, {os.cpu_count()} cores"
    figures = [
        Figure(
            f"latency p{share} while the node trains",
            float(np.percentile(found[True], share) / np.percentile(found[False], share)),
            "× of without",
            "",
            float(np.percentile(found[False], share)),
            f"{len(found[True])} and {len(found[False])} requests; {how}; the yardstick is in ms",
        )
        for share in (50, 95)
    ]
    report(figures, options, where)


if __name__ == "__main__":
    main()
