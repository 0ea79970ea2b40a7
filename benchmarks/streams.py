"""Frames a second and processor time of streams: on a node, by ``collab run --source``, and bare.

A plan of two stages on nodes b and c; pictures (28x28 PNG) from a folder and frames (320x240) from a
video go through the package's preprocessing.  ``node``: the stream is placed on node a.  ``run``: by
``collab run --source`` at a requester.  ``bare``: the plan's own client asked with the arrays that the
preprocessing had made before, without a source and a sink; that is the yardstick.  All in turn in one
run.  Time is from the first frame's capture to the last answer; a process's time is per frame, by the
difference of a long and a short run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, run
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.streaming import bundle_reading
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy, undeploy
from collab.coordinator.local import LocalNode
from collab.coordinator.planning import build_chain, open_model
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.core.preprocessing import ImageSteps, Preprocessing, to_json
from collab.core.streams import SinkRef, SourceRef, StreamSpec
from collab.core.validate import validate
from collab.planner.chain import Assignment
from collab.streams.frames import Frame
from collab.streams.reading import FrameReader
from collab.streams.settings import VideoSettings
from collab.streams.sources.video import video_file

STEPS = Preprocessing(steps=ImageSteps(height=28, width=28, colour="grey"))
SIDE = (320, 240)
WITHIN_S = 120.0


@dataclass(frozen=True)
class Measured:
    """One run: frames a second, and seconds of the asking process in all."""

    fps: float
    cpu_s: float


class Bench:
    """Plan, nodes and frames in a folder."""

    def __init__(self, folder: Path, count: int, short: int, at_a_time: int) -> None:
        self.folder, self.count, self.short, self.at_a_time = folder, count, short, at_a_time
        self.log = folder / "answers.jsonl"
        self.counts = {"short": short, "long": count}

    def prepare(self) -> None:
        """Write the frames, the package and the settings of node a."""
        import av
        from PIL import Image

        with np.load(asset("digits_heldout.npz")) as held_out:
            images = held_out["images"]
        settings = [f'[sinks.log]\nkind = "jsonl"\npath = "{self.log}"\n']
        for size, count in self.counts.items():
            pictures = self.folder / f"folder-{size}"
            pictures.mkdir()
            for i in range(count):
                Image.fromarray(images[i % len(images)][..., 0]).save(pictures / f"{i}.png")
            clip = self.folder / f"video-{size}.mp4"
            with av.open(str(clip), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = *SIDE, "yuv420p"
                for i in range(count):
                    picture = Image.fromarray(images[i % len(images)][..., 0]).resize(SIDE).convert("RGB")
                    container.mux(
                        stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24"))
                    )
                container.mux(stream.encode())
            settings.append(f'[sources.folder-{size}]\nkind = "folder"\npath = "{pictures}"\n')
            settings.append(f'[sources.video-{size}]\nkind = "file"\npath = "{clip}"\n')
        (self.folder / "a.toml").write_text("\n".join(settings), encoding="utf-8")
        (self.folder / "steps.json").write_bytes(to_json(STEPS))
        labels = ",".join(map(str, range(10)))
        words = ("--preprocessing", self.folder / "steps.json", "--labels", labels, "--version", "1.0.0")
        collab("model", "package", asset("digits.tflite"), *words, "--out", self.folder / "digits.collab")

    def planned(self, nodes: Sequence[LocalNode]) -> tuple[Plan, Blobs]:
        """Two stages on b and c."""
        bundle = self.folder / "digits.collab"
        refs = [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes]
        assignment = Assignment(((NodeName("b"),), (NodeName("c"),)))
        plan, blobs = build_chain(PlanName("streams"), bundle, open_model(bundle), [10], assignment, refs)
        return plan.replace(nodes=tuple(refs)), blobs

    # --- the three ways -----------------------------------------------------------------

    async def by_run(self, plan: Path, kind: str, size: str) -> Measured:
        """``collab run --source``."""
        source = {
            "folder": f"folder:{self.folder}/folder-{size}",
            "video": f"file:{self.folder}/video-{size}.mp4",
        }
        self.log.unlink(missing_ok=True)
        words = (
            "--source",
            source[kind],
            "--sink",
            f"jsonl:{self.log}",
            "--concurrency",
            self.at_a_time,
            "--json",
        )
        before = os.times()
        told = json.loads(await asyncio.to_thread(collab, "run", plan, *words))
        after = os.times()
        assert told["answered"] == self.counts[size], told
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        return Measured(self._fps(self.counts[size]), cpu_s)

    async def by_node(self, cluster: Cluster, plan: Plan, blobs: Blobs, kind: str, size: str) -> Measured:
        """A stream of node a."""
        self.log.unlink(missing_ok=True)
        stream = StreamSpec(
            id="s",
            source=SourceRef(node=NodeName("a"), name=f"{kind}-{size}"),
            sinks=(SinkRef(name="log"),),
            policy="queue:8",
            concurrency=self.at_a_time,
            reading=bundle_reading(plan, self.folder, self.folder / "digits.collab"),
        )
        control = cluster.control(NodeName("a"))
        before = (await control.status()).cpu_us
        await deploy(cluster, validate(plan.replace(streams=(stream,))), blobs)
        deadline = time.monotonic() + WITHIN_S
        while True:
            reply = await control.status()
            states = [state for state in reply.streams if state.state == "ended"]
            if states:
                break
            assert time.monotonic() < deadline, reply.streams
            await asyncio.sleep(0.2)
        assert states[0].answered == self.counts[size], states
        cpu_s = (reply.cpu_us - before) / 1e6
        fps = self._fps(self.counts[size])
        # Without the stream again, so that the next one is new.
        await deploy(cluster, plan, blobs)
        return Measured(fps, cpu_s)

    async def bare(self, cluster: Cluster, plan: Plan, requests: Sequence[Mapping[str, Any]]) -> Measured:
        """The plan's client alone."""
        client = await cluster.open(plan, self.at_a_time)
        waiting = iter(requests)

        async def ask() -> None:
            for inputs in waiting:
                await client.run(inputs)

        try:
            cpu_s, begun = time.process_time(), time.perf_counter()
            await asyncio.gather(*(ask() for _ in range(self.at_a_time)))
            took_s = time.perf_counter() - begun
            return Measured(len(requests) / took_s, time.process_time() - cpu_s)
        finally:
            await cluster.release(client)

    def _fps(self, count: int) -> float:
        told = [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]
        assert len(told) == count
        first: float = min(line["captured_ms"] for line in told)
        last: float = max(line["captured_ms"] + line["latency_ms"] for line in told)
        return count / (last - first) * 1000

    def requests(self, plan: Plan, kind: str, size: str) -> list[Mapping[str, Any]]:
        """What the preprocessing makes of the frames."""
        reader = FrameReader(plan.inputs, bundle_reading(plan, self.folder, self.folder / "digits.collab"))
        if kind == "folder":
            files = [self.folder / f"folder-{size}" / f"{i}.png" for i in range(self.counts[size])]
            frames = [Frame(file.name, 0, file) for file in files]
        else:
            source = video_file(VideoSettings(path=self.folder / f"video-{size}.mp4"))
            source.open()
            frames = list(iter(source.read, None))
        return [reader.requests(frame)[0] for frame in frames]


def collab(*words: object) -> str:
    """Run a command; what it prints."""
    command = [sys.executable, "-m", "collab", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All three ways over both kinds of source, in turn."""
    from collab.cli.files import write_plan

    count, short, rounds = (300, 100, 1) if options.quick else (600, 200, 2)
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), count, short, 4)
        await asyncio.to_thread(bench.prepare)
        words = ("--discovery", "none")
        nodes = [LocalNode("a", bench.folder, (*words, "--config", str(bench.folder / "a.toml")))]
        nodes += [LocalNode(name, bench.folder, words) for name in "bc"]
        try:
            for node in nodes:
                await node.start()
            plan, blobs = bench.planned(nodes)
            path = bench.folder / "plan.yaml"
            await asyncio.to_thread(write_plan, path, plan)
            async with build_cluster() as cluster:
                await deploy(cluster, plan, blobs)
                figures: list[Figure] = []
                for kind in ("folder", "video"):
                    figures += await _of(bench, cluster, plan, blobs, path, kind, rounds)
                await undeploy(cluster, plan)
                return figures
        finally:
            for node in nodes:
                await node.stop()


async def _of(
    bench: Bench, cluster: Cluster, plan: Plan, blobs: Blobs, path: Path, kind: str, rounds: int
) -> list[Figure]:
    found: dict[tuple[str, str], list[Measured]] = {}
    ready = {size: await asyncio.to_thread(bench.requests, plan, kind, size) for size in bench.counts}
    for _ in range(rounds):
        for size in bench.counts:
            for way in ("bare", "run", "node"):
                if way == "bare":
                    one = await bench.bare(cluster, plan, ready[size])
                elif way == "run":
                    one = await bench.by_run(path, kind, size)
                else:
                    one = await bench.by_node(cluster, plan, blobs, kind, size)
                found.setdefault((way, size), []).append(one)

    def rate(way: str) -> float:
        return statistics.median(one.fps for one in found[way, "long"])

    def cpu_ms(way: str) -> float:
        spent = {size: statistics.median(one.cpu_s for one in found[way, size]) for size in bench.counts}
        return (spent["long"] - spent["short"]) / (bench.count - bench.short) * 1000

    how = f"{bench.count} frames, {bench.at_a_time} at a time, median of {rounds}"
    figures = []
    for way, name in (("node", "a stream of a node"), ("run", "collab run --source")):
        figures += [
            Figure(f"{kind}: {name}", rate(way), "frames/s", "", rate("bare"), how),
            Figure(f"{kind}: {name}, processor", cpu_ms(way), "ms a frame", "", cpu_ms("bare"), how),
        ]
    figures.append(
        Figure(
            f"{kind}: a node's stream beside collab run", rate("node") / rate("run"), "x", ">= 0.9", 1.0, how
        )
    )
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
