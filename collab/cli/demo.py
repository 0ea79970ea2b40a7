"""``collab demo``: the main job on this machine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import AsJson
from collab.cli.output import emit, progress, say, show, table
from collab.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from collab.client.runner import PlanClient
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.workload import Report
    from collab.core.plan import Plan

LISTEN = {"mqtt": "", "coap+tcp": "coap+tcp://127.0.0.1:0", "coap+udp": "coap+udp://127.0.0.1:0"}
"""Where nodes listen for a transport besides gRPC; at the broker for MQTT."""
TRANSPORTS = ("grpc", "mqtt", "mqtt-qos0", "coap+tcp", "coap+udp", "mixed")
MIXED = ("mqtt", "coap+tcp", "grpc", "coap+udp")
"""Transports of the links of a mixed plan, in turn."""
NAMES = tuple("abcdefgh")
THROUGHPUT_REPEAT = 2
_WRITTEN = 100
"""Images that `--files` writes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "demo",
        epilog="Examples:\n\n    collab demo --nodes 3 --json\n\n    collab demo --files digits",
    )(demo)


def demo(
    nodes: Annotated[int, typer.Option(help="Node processes to start.")] = 3,
    transport: Annotated[
        str, typer.Option(help=f"How tensors travel: {', '.join(TRANSPORTS)} (a different one each link).")
    ] = "grpc",
    images: Annotated[int, typer.Option(help="Held-out images to answer.")] = 500,
    files: Annotated[
        Path | None,
        typer.Option(help="Write the model, 100 images and its answers to this folder, and run nothing."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Split a trained digit classifier over node processes and compare with the whole model."""
    if not 1 <= nodes <= len(NAMES):
        raise UsageError(f"--nodes {nodes}: give 1 to {len(NAMES)}")
    if transport not in TRANSPORTS:
        raise UsageError(f"--transport {transport!r}: use one of {', '.join(TRANSPORTS)}")
    if images < 2:
        raise UsageError(f"--images {images}: give at least 2")
    if files is not None:
        _write_files(files, json_)
        return
    outcome = asyncio.run(_demo(nodes, images, transport, quiet=json_))
    if json_:
        emit(outcome.to_json())
    else:
        show(*outcome.describe())
    if not outcome.equal:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Outcome:
    """What the demo found."""

    plan: Plan
    one_by_one: Report
    pipelined: Report
    accuracy: dict[str, float]
    whole_ms: float

    @property
    def equal(self) -> bool:
        """Whether every answer had the bytes of the whole model's."""
        reports = (self.one_by_one, self.pipelined)
        return all(r.requests and not r.failed and not r.wrong for r in reports)

    def to_json(self) -> dict[str, Any]:
        """As ``collab demo --json`` prints it."""
        return {
            "equal": self.equal,
            "compared": self.one_by_one.requests + self.pipelined.requests,
            "accuracy": self.accuracy,
            "latency_ms": {**self.one_by_one.percentiles(), "whole_model": round(self.whole_ms, 3)},
            "throughput_rps": round(self.pipelined.throughput_rps, 2),
            "throughput_rps_one_at_a_time": round(self.one_by_one.throughput_rps, 2),
            "hops": self.one_by_one.hops(self.plan),
            "nodes": [ref.name for ref in self.plan.nodes],
            "transports": [edge.transport for edge in self.plan.edges],
        }

    def describe(self) -> list[Any]:
        """The same for people."""
        from collab.cli.running import describe

        compared = self.one_by_one.requests + self.pipelined.requests
        wrong = self.one_by_one.wrong + self.pipelined.wrong
        failed = self.one_by_one.failed + self.pipelined.failed
        verdict = (
            "[bold green]identical[/]" if self.equal else f"[bold red]{wrong} differ, {failed} failed[/]"
        )
        rows = [
            ("whole model, this process", f"{self.accuracy['whole']:.1%}"),
            (
                f"{len(self.plan.stages)} stages on {len(self.plan.nodes)} nodes",
                f"{self.accuracy['distributed']:.1%}",
            ),
        ]
        return [
            table("accuracy on held-out images", ("", "correct"), rows),
            f"{compared} answers compared with the whole model's, every byte: {verdict}",
            f"\n[bold]one at a time[/] (the whole model in one process takes {self.whole_ms:.2f} ms)",
            *describe(self.one_by_one, self.plan),
            f"\n[bold]pipelined[/], {2 * len(self.plan.stages)} at a time: "
            f"{self.pipelined.throughput_rps:.0f} answers a second "
            f"against {self.one_by_one.throughput_rps:.0f} one at a time",
        ]


def _write_files(folder: Path, json_: bool) -> None:
    """The demo's model and data, to be used with the other commands wherever collab is installed."""
    import json

    import numpy as np

    from collab.cli.files import write_bytes, write_npz, write_text
    from collab.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--files {folder}: cannot be made: {error.strerror}") from error
    model, inputs, labels = _held_out(_WRITTEN)
    answers, _ = _whole_model(model, inputs)
    tensor = {
        "name": "image",
        "shape": list(inputs[0].shape),
        "datatype": "FP32",
        "data": [round(float(value), 6) for value in inputs[0].ravel()],
    }
    write_bytes(folder / "digits.tflite", model.read_bytes())
    write_npz(folder / "x.npz", {"image": inputs})
    write_npz(folder / "y.npz", {"probabilities": np.stack(answers)})
    write_npz(folder / "labelled.npz", {"image": inputs, "labels": labels})
    write_text(folder / "request.json", json.dumps({"inputs": [tensor]}) + "\n")
    names = ("digits.tflite", "x.npz", "y.npz", "labelled.npz", "request.json")
    if json_:
        emit({"files": [str(folder / name) for name in names]})
    else:
        say(f"{folder}: {', '.join(names)}")


async def _demo(count: int, images: int, transport: str, quiet: bool) -> Outcome:
    from collab.assembly import build_cluster
    from collab.coordinator.broker import LocalBroker
    from collab.coordinator.local import LocalNodes

    links = list(islice(cycle(MIXED if transport == "mixed" else (transport,)), count + 1))
    kinds = {kind.partition("-qos")[0] for kind in links}

    model, inputs, labels = _held_out(images)
    whole, whole_ms = _whole_model(model, inputs)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-demo-")))
        listen = ["127.0.0.1:0", *(LISTEN[kind] for kind in sorted(kinds & LISTEN.keys()))]
        if "mqtt" in kinds:
            broker = await stack.enter_async_context(LocalBroker(folder))
            listen = [address or broker.address for address in listen]
        if not quiet:
            say(f"starting {count} node processes")
        nodes = LocalNodes(NAMES[:count], folder, ("--discovery", "none"), listen)
        async with nodes as local, build_cluster() as cluster:
            plan, client = await _deploy(cluster, local.endpoints, model, links, quiet)
            return await _measure(plan, client, inputs, labels, whole, whole_ms)


def _held_out(images: int) -> tuple[Path, npt.NDArray[Any], npt.NDArray[Any]]:
    import numpy as np

    from collab.assets import path

    with np.load(path("digits_heldout.npz"), allow_pickle=False) as held_out:
        inputs = held_out["images"][:images].astype(np.float32) / np.float32(255)
        return path("digits.tflite"), inputs[:, None], held_out["labels"][:images]


def _whole_model(model: Path, inputs: npt.NDArray[Any]) -> tuple[list[npt.NDArray[Any]], float]:
    import time

    import numpy as np

    from collab.runtime.litert import LiteRT

    stage = LiteRT().load(model, 1)
    answers, times = [], []
    with progress("whole model", "images") as advance:
        for i, image in enumerate(inputs):
            start = time.perf_counter()
            answers.append(stage.run([image])[0])
            times.append((time.perf_counter() - start) * 1000)
            advance(i + 1, len(inputs))
    stage.close()
    return answers, float(np.median(times))


async def _deploy(
    cluster: Cluster, endpoints: Sequence[str], model: Path, links: Sequence[str], quiet: bool
) -> tuple[Plan, PlanClient]:
    from collab.cli.connect import reach
    from collab.cli.draw import draw_plan
    from collab.coordinator import planning
    from collab.coordinator.deploy import deploy
    from collab.core.ids import PlanName
    from collab.graph import read_model
    from collab.runtime.litert import LiteRT

    views = await reach(cluster, list(endpoints))
    graph = read_model(model)
    with progress("timing operators") as advance:
        op_ms = await asyncio.to_thread(planning.time_operators, graph, LiteRT(), progress=advance)
    places = planning.choose_cuts(graph, op_ms, len(views))
    assignment = planning.default_assignment(len(places) + 1, views)
    refs = [view.ref for view in views]
    plan, blobs = planning.build_chain(
        PlanName("demo"), model, graph, places, assignment, refs, transports=links
    )
    await deploy(cluster, plan, blobs)
    if not quiet:
        show(draw_plan(plan))
    return plan, await cluster.open(plan, 2 * len(plan.stages))


async def _measure(
    plan: Plan,
    client: PlanClient,
    inputs: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    whole: list[npt.NDArray[Any]],
    whole_ms: float,
) -> Outcome:
    import numpy as np

    from collab.coordinator.workload import Comparison, load

    (given,), (made,) = plan.inputs, plan.outputs
    requests = [{given.name: image} for image in inputs]
    expected = [{made.name: answer} for answer in whole]
    comparison = Comparison(exact=True, atol=0.0, rtol=0.0)
    with progress("one at a time", "images") as advance:
        single, answers = await load(
            client, requests, expected=expected, comparison=comparison, progress=advance, keep=True
        )
    with progress("pipelined", "images") as advance:
        pipelined, _ = await load(
            client,
            requests,
            repeat=THROUGHPUT_REPEAT,
            concurrency=client.granted,
            expected=expected,
            comparison=comparison,
            progress=advance,
        )

    def correct(answers: Sequence[Any]) -> float:
        hits = [
            a is not None and int(np.argmax(a)) == int(label)
            for a, label in zip(answers, labels, strict=True)
        ]
        return round(float(np.mean(hits)), 4)

    distributed = [None if a is None else a[made.name] for a in answers]
    accuracy = {"whole": correct(whole), "distributed": correct(distributed)}
    return Outcome(plan, single, pipelined, accuracy, whole_ms)
