"""Pipelines of different models: transforms, what the shipped one reads, and what nodes cost it.

(transforms) each transform beside TensorFlow's operator where TensorFlow is installed, in
turn; (scenes) the shipped pipeline in one process on held-out scenes; (nodes) the same over
two and three nodes on this machine: answers that differ in any bit, latency in turn with
one process, scenes with nothing in them, and throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from benchmarks.figures import Figure, run
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.connect import reach
from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy, undeploy
from collab.coordinator.local import LocalNodes
from collab.coordinator.one_process import in_one_process
from collab.coordinator.pipelines import Fitted, fit
from collab.core.ids import NodeName, PlanName, StageId
from collab.core.pipeline import convert_pipeline
from collab.core.plan import NodeRef, Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.transform_shapes import made
from collab.core.transforms import (
    CentrePoints,
    Crop,
    DecodeBoxes,
    Dequantise,
    Nms,
    Normalise,
    Quantise,
    Resize,
    Softmax,
    TopK,
    Transform,
)
from collab.runtime.transforms.stage import TransformStage
from collab.toolchain.scenes import SIDE, Floats, Scene, scene

PARTS: Final = ("transforms", "scenes", "nodes")
OVERLAP: Final = 0.5
"""Intersection over union from which a box has found a digit."""
SPLITS: Final = {
    2: dict.fromkeys(("small", "scaled", "detect", "cells", "boxes"), "a")
    | dict.fromkeys(("crops", "digits", "digit"), "b"),
    3: dict.fromkeys(("small", "scaled", "detect"), "a")
    | dict.fromkeys(("cells", "boxes", "crops", "digits"), "b")
    | {"digit": "c"},
}
"""Nodes of the shipped pipeline's steps, by their number."""
AT_ONCE: Final = 8


# --- transforms ----------------------------------------------------------------------


def cases() -> list[tuple[Transform, Sequence[Array], Callable[[Any, Sequence[Array]], Any]]]:
    """Transforms with inputs, and the same by TensorFlow."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 480, 640, 3)).astype(np.uint8)
    floats = rng.random((1, 300, 300, 3), np.float32)
    corner = rng.uniform(0, 0.8, (1917, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.2, (1917, 2))], 1).astype(np.float32)
    scores, few = rng.random((1917, 10), np.float32) ** 4, boxes[:16]
    heat, size = rng.random((1, 64, 64, 20), np.float32), rng.random((1, 64, 64, 2), np.float32)
    quantised = rng.integers(-128, 128, floats.shape).astype(np.int8)
    anchors = tuple(map(tuple, rng.uniform(0.1, 0.9, (1917, 4)).tolist()))
    offsets = rng.normal(0, 1, (1, 1917, 4)).astype(np.float32)
    return [
        (
            Resize(size=(300, 300)),
            (image,),
            lambda tf, x: tf.image.resize(x[0], (300, 300), antialias=False),
        ),
        (
            Resize(size=(300, 300), method="nearest"),
            (image,),
            lambda tf, x: tf.image.resize(x[0], (300, 300), method="nearest"),
        ),
        (
            Crop(size=(64, 64)),
            (image, few),
            lambda tf, x: tf.image.crop_and_resize(x[0], x[1], np.zeros(16, np.int32), (64, 64)),
        ),
        (
            Nms(most=100, score=0.3),
            (boxes, scores),
            lambda tf, x: tf.image.combined_non_max_suppression(
                x[0][None, :, None], x[1][None], 100, 100, 0.5, 0.3
            ),
        ),
        (TopK(k=5), (scores.reshape(1, -1),), lambda tf, x: tf.math.top_k(x[0], 5)),
        (Softmax(), (scores,), lambda tf, x: tf.nn.softmax(x[0])),
        (Normalise(scale=1 / 255), (image,), lambda tf, x: tf.cast(x[0], tf.float32) / 255.0),
        (
            Quantise(scale=1 / 255, zero=-128),
            (floats,),
            lambda tf, x: tf.quantization.quantize(
                x[0], 0.0, 1.0, tf.qint8, round_mode="HALF_AWAY_FROM_ZERO"
            ),
        ),
        (
            Dequantise(scale=1 / 255, zero=-128),
            (quantised,),
            lambda tf, x: (tf.cast(x[0], tf.float32) + 128.0) / 255.0,
        ),
        (
            DecodeBoxes(anchors=anchors),
            (offsets,),
            lambda tf, x: _decoded(tf, x[0], np.array(anchors, np.float32)),
        ),
        (
            CentrePoints(),
            (heat, size),
            lambda tf, x: tf.where(tf.nn.max_pool2d(x[0], 3, 1, "SAME") == x[0], x[0], 0),
        ),
    ]


def _decoded(tf: Any, offsets: Array, anchors: Array) -> Any:
    scaled = offsets[0] / np.array([10, 10, 5, 5], np.float32)
    middle = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half = tf.exp(scaled[:, 2:]) * anchors[:, 2:] / 2
    return tf.concat([middle - half, middle + half], 1)


def transforms(quick: bool) -> list[Figure]:
    """Each beside TensorFlow's, in turn."""
    tf: Any = import_module("tensorflow") if find_spec("tensorflow") is not None else None
    rounds = 30 if quick else 200
    figures = []
    for transform, given, theirs in cases():
        specs = tuple(TensorSpec(f"x{i}", a.shape, a.dtype.name) for i, a in enumerate(given))
        outputs = tuple(TensorSpec(n, s, d) for n, s, d in made(transform, specs))
        stage = TransformStage(
            StageSpec(id=StageId("s"), nodes=(), inputs=specs, outputs=outputs, transform=transform)
        )
        ours, other = in_turn(partial(stage.run, given), partial(theirs, tf, given) if tf else None, rounds)
        kind = type(transform).__name__ + (
            " nearest" if getattr(transform, "method", "") == "nearest" else ""
        )
        shapes = ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in given)
        beside = "beside TensorFlow's operator, eager" if other else "TensorFlow is not installed"
        yardstick = statistics.median(other) if other else None
        how = f"median of {rounds} runs on {shapes}, one thread; {beside}"
        figures.append(Figure(f"{kind}, time", statistics.median(ours), "ms", "", yardstick, how))
    return figures


def in_turn(
    ours: Callable[[], Any], theirs: Callable[[], Any] | None, rounds: int
) -> tuple[list[float], list[float]]:
    """Times in ms of both."""
    mine, other = [], []
    for _ in range(rounds):
        mine.append(_ms(ours))
        if theirs is not None:
            other.append(_ms(theirs))
    return mine, other


def _ms(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


# --- scenes --------------------------------------------------------------------------


def shipped() -> Fitted:
    """The pipeline of the package."""
    file = asset("scene_pipeline.yaml")
    return fit(convert_pipeline(yaml.safe_load(file.read_text())), PlanName("scene"), file.parent)


def held_out(count: int) -> list[Scene]:
    """Scenes of digits that neither model has seen."""
    with np.load(asset("digits_heldout.npz")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    rng = np.random.default_rng(11)
    return [scene(images, labels, rng) for _ in range(count)]


def overlap(one: Floats, other: Floats) -> float:
    """Intersection over union."""
    common = area(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))
    return common / (area(one) + area(other) - common)


def area(box: Floats) -> float:
    """Of a box; 0 for one that is turned over."""
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def judged(one: Scene, answer: Mapping[str, Array]) -> tuple[int, int, int]:
    """Boxes said, digits found, and digits read rightly; each digit is found once at most."""
    count = int(answer["boxes.count"][0])
    left = dict(enumerate(one.boxes / SIDE))
    found = right = 0
    boxes = answer["boxes.boxes"].astype(np.float32)[:count]
    for box, scores in zip(boxes, answer["digit.probabilities"], strict=False):
        best = max(left, key=lambda i: overlap(box, left[i]), default=None)
        if best is not None and overlap(box, left[best]) >= OVERLAP:
            del left[best]
            found += 1
            right += int(scores.argmax()) == one.labels[best]
    return count, found, right


def named(plan: Plan, arrays: Sequence[Array]) -> dict[str, Array]:
    """An answer by name."""
    return {spec.name: array for spec, array in zip(plan.outputs, arrays, strict=True)}


def scenes(quick: bool) -> list[Figure]:
    """What the pipeline reads, in one process."""
    fitted, given = shipped(), held_out(100 if quick else 500)
    plan = placed(fitted, {}, ())
    ask = in_one_process(plan, fitted.graphs)
    counts = np.array([judged(one, named(plan, ask([one.image[None]]))) for one in given])
    there = np.array([len(one.labels) for one in given])
    said, found, right = (int(total) for total in counts.sum(axis=0))
    whole = ((counts[:, 0] == there) & (counts[:, 2] == there)).mean()
    how = (
        f"{len(given)} held-out scenes of {there.sum()} digits; a box finds one from an overlap of {OVERLAP}"
    )
    return [
        Figure("boxes that are of a digit", found / said, "", ">= 0.95", None, how),
        Figure("digits that are found", found / int(there.sum()), "", ">= 0.95", None, how),
        Figure("found digits that are read rightly", right / found, "", ">= 0.95", None, how),
        Figure("scenes of which every digit is read and nothing else", float(whole), "", "", None, how),
    ]


# --- nodes ---------------------------------------------------------------------------


def placed(fitted: Fitted, where: Mapping[str, str], nodes: Sequence[NodeRef]) -> Plan:
    """The pipeline by hand; what is not listed is on the first node, or here."""
    first = nodes[0].name if nodes else NodeName("here")
    places = {s.id: (NodeName(where.get(s.id, first)),) for s in fitted.stages}
    return fitted.placed(places, nodes or [NodeRef(name=first)])


async def over_nodes(
    cluster: Cluster, fitted: Fitted, number: int, peers: list[str], quick: bool
) -> list[Figure]:
    """One split of the pipeline beside one process."""
    views = await reach(cluster, peers)
    plan = placed(fitted, SPLITS[number], [view.ref for view in views])
    await deploy(cluster, plan, fitted.blobs)
    client = await cluster.open(plan, AT_ONCE)
    ask, given = in_one_process(plan, fitted.graphs), held_out(100 if quick else 500)
    there, here, empty, bare = [], [], [], []
    different = 0
    nothing = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    try:
        for one in given:
            start = time.perf_counter()
            result = await client.run({"image": one.image[None]}, 20.0)
            there.append((time.perf_counter() - start) * 1000)
            start = time.perf_counter()
            want = named(plan, ask([one.image[None]]))
            here.append((time.perf_counter() - start) * 1000)
            different += any(result.outputs[name].tobytes() != want[name].tobytes() for name in want)
        for _ in range(40):
            start = time.perf_counter()
            await client.run({"image": nothing}, 20.0)
            empty.append((time.perf_counter() - start) * 1000)
            bare.append(_ms(lambda: ask([nothing])))
        pace = await throughput(lambda image: client.run({"image": image}, 20.0), given)
    finally:
        await cluster.release(client)
        await undeploy(cluster, plan)
    start = time.perf_counter()
    for one in given:
        ask([one.image[None]])
    alone = len(given) / (time.perf_counter() - start)
    who, how = (
        f"{number} nodes",
        f"{len(given)} held-out scenes in turn with one process, all on this machine",
    )
    return [
        Figure(f"{who}: answers with another bit than one process's", different, "", "<= 0", None, how),
        Figure(f"{who}: latency", statistics.median(there), "ms", "", statistics.median(here), how),
        Figure(
            f"{who}: latency of an empty scene",
            statistics.median(empty),
            "ms",
            "",
            statistics.median(bare),
            how,
        ),
        Figure(f"{who}: scenes a second, {AT_ONCE} at a time", pace, "/s", "", alone, how),
    ]


async def throughput(ask: Callable[[Array], Any], given: Sequence[Scene]) -> float:
    """Answers a second with several requests under way."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(image: Array) -> None:
        async with free:
            await ask(image)

    start = time.perf_counter()
    await asyncio.gather(*(one(scene.image[None]) for scene in given))
    return len(given) / (time.perf_counter() - start)


async def nodes(quick: bool) -> list[Figure]:
    """All splits."""
    fitted, figures = shipped(), []
    with tempfile.TemporaryDirectory() as folder:
        async with LocalNodes("abc", Path(folder)) as local, build_cluster() as cluster:
            for number in SPLITS:
                figures += await over_nodes(cluster, fitted, number, local.endpoints[:number], quick)
    return figures


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All parts, or those that are asked for."""
    wanted = options.parts or PARTS
    figures: list[Figure] = []
    if "scenes" in wanted:
        figures += scenes(options.quick)
    if "nodes" in wanted:
        figures += await nodes(options.quick)
    if "transforms" in wanted:
        figures += transforms(options.quick)
    return figures


if __name__ == "__main__":
    run(measure, __doc__, PARTS)
