"""What it takes to put a round's model into a plan that runs, and what that costs running requests.

Three node processes train and answer at once; this process asks without a pause while
``collab fed run`` makes a model every round and swaps it in.  A swap's time is from the
model's being on the server's disk to the first request that it answers; latencies are of
requests that ended during a swap, and of those before and between swaps.  The yardstick is
the same plan under the same load while the nodes train and nothing is swapped.

    python -m benchmarks.federated_swap --quick
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, run
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.files import write_plan
from collab.client.follow import Follower
from collab.coordinator.deploy import deploy
from collab.coordinator.planning import build_chain
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.errors import CollabError
from collab.federated.trainers.litert import LiteRtEngine
from collab.graph import parse_model
from collab.planner.chain import Assignment
from collab.toolchain.trainable.bake import bake
from tests.integration.processes import ROOT, NodeProcess, environment, running

NAMES = ("a", "b", "c")
WORKERS = 2
CUTS = {"mlp": [1, 2], "cnn": [2, 4]}
_MADE = re.compile(r"round (\d+) of \d+,")
_RUNS = re.compile(r"round (\d+) runs as epoch (\d+):")
TASK = """
name: swap
model: {model}
rounds: {rounds}
clients: {{minimum: 3}}
training: {{epochs: {epochs}, batch_size: 20, learning_rate: 0.1}}
evaluation: {{every: 0, where: server, data: "{data}?held_out=0.9&scale=255"}}
"""


@dataclass
class Load:
    """Requests without end."""

    ended: list[tuple[float, int, float]] = field(default_factory=list)
    """When, by which epoch, and after how many ms."""
    failed: int = 0
    stopping: bool = False

    async def ask(self, client: Follower, x: np.ndarray) -> None:
        index = 0
        while not self.stopping:
            index = (index + 1) % len(x)
            try:
                result = await client.run({"x": x[index]}, 20.0)
            except CollabError:
                self.failed += 1
                continue
            self.ended.append((time.monotonic(), result.epoch, result.total_ms))


def nodes_of(folder: Path) -> list[NodeProcess]:
    """Three nodes with real digits, not started."""
    with np.load(asset("digits_heldout.npz")) as held_out:
        order = np.random.default_rng(1).permutation(len(held_out["labels"]))
        images, labels = held_out["images"][order], held_out["labels"][order]
    np.savez(folder / "server.npz", x=images[-200:], y=labels[-200:])
    found = []
    for number, name in enumerate(NAMES):
        np.savez(folder / f"{name}.npz", x=images[number:-200:3], y=labels[number:-200:3])
        config = folder / f"{name}.toml"
        config.write_text(f'[training]\ndata = "{folder / name}.npz?held_out=0.2&scale=255"\n')
        found.append(NodeProcess(name, folder, "--config", str(config)))
    return found


def plan_of(folder: Path, kind: str, nodes: list[NodeProcess]) -> tuple[Plan, dict[Any, bytes]]:
    """The untrained model, a stage on each node."""
    trainable = (ROOT / f"tests/data/trainable_{kind}.tflite").read_bytes()
    model = folder / f"{kind}.tflite"
    model.write_bytes(bake(trainable, LiteRtEngine(trainable).initial))
    plan, blobs = build_chain(
        PlanName(kind),
        model,
        parse_model(model.read_bytes()),
        CUTS[kind],
        Assignment(tuple((NodeName(name),) for name in NAMES)),
        [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes],
    )
    write_plan(folder / f"{kind}.yaml", plan)
    return plan, blobs


async def fed_run(
    folder: Path, kind: str, rounds: int, epochs: int, peers: str, swaps: bool
) -> dict[str, float]:
    """A run to its end; when each line that it says came, by the line's beginning."""
    out = folder / f"{kind}-{'swaps' if swaps else 'quiet'}"
    task = folder / f"{out.name}.yaml"
    text = TASK.format(
        model=ROOT / f"tests/data/trainable_{kind}.tflite",
        rounds=rounds,
        epochs=epochs,
        data=folder / "server.npz",
    )
    # Every model is let in: what is measured is the swap.
    more = f"deploy: {{plan: {kind}.yaml, minimum_gain: -1, tolerance: 1000}}\n" if swaps else ""
    await asyncio.to_thread(task.write_text, text + more)
    words = ("-m", "collab", "fed", "run", task, "--peers", peers, "--out", out)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, words),
        env=environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = {}
    async for line in process.stderr:
        said[line.decode()] = time.monotonic()
    if await process.wait():
        raise RuntimeError("".join(said))
    return said


@dataclass(frozen=True)
class Seen:
    """What a run with swaps showed; times in ms."""

    swap_ms: list[float]
    """From each model to the first request that it answered."""
    during_ms: list[float]
    """Requests that ended meanwhile."""
    beside_ms: list[float]
    """The others, while the nodes trained."""


def seen(load: Load, said: Mapping[str, float]) -> Seen:
    """Set requests beside the swaps that were under way when they ended."""
    made = {int(m[1]): at for line, at in said.items() if (m := _MADE.match(line))}
    runs = {int(m[2]): int(m[1]) for line in said if (m := _RUNS.match(line))}
    first: dict[int, float] = {}
    for when, epoch, _ in load.ended:
        first.setdefault(epoch, when)
    spans = [(made[round_], first[epoch]) for epoch, round_ in runs.items() if epoch in first]
    start, end = min(made.values()), max(at for _, at in spans)
    of_run = [(when, ms) for when, _, ms in load.ended if start <= when <= end + 1.0]
    within = [any(began <= when <= over for began, over in spans) for when, _ in of_run]
    return Seen(
        [(over - began) * 1000 for began, over in spans],
        [ms for (_, ms), is_in in zip(of_run, within, strict=True) if is_in],
        [ms for (_, ms), is_in in zip(of_run, within, strict=True) if not is_in],
    )


async def measured(kind: str, rounds: int, epochs: int) -> list[Figure]:
    """Figures of one model."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        nodes = await asyncio.to_thread(nodes_of, folder)
        await asyncio.to_thread(stack.enter_context, running(nodes))
        plan, blobs = await asyncio.to_thread(plan_of, folder, kind, nodes)
        peers = ",".join(node.place for node in nodes)
        with np.load(asset("digits_heldout.npz")) as held_out:
            x = held_out["images"].reshape(-1, 1, 28, 28, 1).astype(np.float32) / np.float32(255)
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.follow(plan, credits=WORKERS)
            load = Load()
            workers = [asyncio.ensure_future(load.ask(client, x)) for _ in range(WORKERS)]
            quiet = await fed_run(folder, kind, rounds, epochs, peers, swaps=False)
            until = time.monotonic()
            said = await fed_run(folder, kind, rounds, epochs, peers, swaps=True)
            load.stopping = True
            await asyncio.gather(*workers)
            await cluster.unfollow(client)
    began = min(at for line, at in quiet.items() if _MADE.match(line))
    alone = [ms for when, _, ms in load.ended if began <= when <= until]
    return figures(kind, seen(load, said), alone, load.failed)


def figures(kind: str, found: Seen, alone_ms: Sequence[float], failed: int) -> list[Figure]:
    """As they are reported."""
    during, beside, alone = (
        float(np.percentile(values, 95)) for values in (found.during_ms, found.beside_ms, alone_ms)
    )
    count = len(found.swap_ms)
    how = f"{kind}, three nodes that train and answer, {WORKERS} requests at a time, {count} swaps"
    median = float(np.median(found.swap_ms))
    return [
        Figure(
            f"{kind}: aggregate to first answer",
            median,
            "ms",
            "",
            None,
            f"{how}; worst {max(found.swap_ms):.0f}",
        ),
        Figure(f"{kind}: p95 during swaps", during, "ms", "", beside, f"{how}; beside: between swaps"),
        Figure(
            f"{kind}: p95 during swaps to without", during / alone, "times", "", alone, f"{how}; ms without"
        ),
        Figure(
            f"{kind}: requests lost",
            failed,
            "requests",
            "<= 0",
            None,
            f"{how}, {len(found.during_ms)} in them",
        ),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Both models; fewer rounds when it is to be quick."""
    rounds = 5 if options.quick else 20
    return [*await measured("mlp", rounds, 10), *await measured("cnn", rounds, 4)]


if __name__ == "__main__":
    run(measure, __doc__)
