"""``collab run --source``: frames of a source through a plan, with this process as the requester."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collab.cli.connect import Trust, refresh, with_cluster
from collab.cli.files import read_plan
from collab.cli.output import emit, say, show
from collab.errors import InputError, UsageError

if TYPE_CHECKING:
    from collab.client.policy import RetryPolicy
    from collab.coordinator.cluster import Cluster
    from collab.core.plan import Plan
    from collab.core.streams import Reading
    from collab.core.token import Priority
    from collab.streams.pump import Stream

_TELL_S = 0.2
"""Between two changes of the line on a terminal."""


@dataclass(frozen=True)
class StreamOptions:
    """What the options of ``collab run`` say of a stream."""

    source: str
    sinks: Sequence[str]
    policy: str | None
    fps: float | None
    frames: int | None
    watch: bool
    top: int
    deadline_ms: float
    concurrency: int


@dataclass(frozen=True)
class Asking:
    """What they say of how a plan is asked."""

    peers: list[str]
    follow: bool
    retry: RetryPolicy
    priority: Priority
    local: Path | None
    trust: Trust


def run_stream(
    plan: Path, bundle: Path | None, options: StreamOptions, asking: Asking, *, as_json: bool
) -> int:
    """Run until the source ends, the frames are enough, or Ctrl-C.

    Returns the exit code: 1 where a frame failed or an answer was lost.
    """
    from collab.coordinator.whole import local_model
    from collab.core.streams import LATEST, parse_policy
    from collab.streaming import named_sink, named_source
    from collab.streams.outbox import Outbox
    from collab.streams.pump import Stream
    from collab.streams.reading import FrameReader

    _check(options, as_json)
    policy = None if options.policy is None else parse_policy(options.policy, "--policy")
    parsed = read_plan(plan)
    reading = bundle_reading(parsed, plan.parent, bundle)
    # A video at full speed would be mostly dropped.
    source = named_source(options.source, watch=options.watch, realtime=policy == LATEST)
    places = options.sinks or (() if as_json else ("jsonl:-",))
    sinks = [(place, named_sink(place)) for place in places]
    whole = None if asking.local is None else local_model(parsed, asking.local)

    async def drive(cluster: Cluster) -> tuple[Stream, float]:
        opened = await refresh(cluster, parsed, asking.peers)
        fetch = None if asking.follow else _nothing
        client = await cluster.follow(
            opened, fetch, options.concurrency, asking.retry, whole, same_model=not asking.follow
        )
        if client.granted < options.concurrency:
            say(f"the plan admits {client.granted} requests at a time, not {options.concurrency}")

        async def ask(inputs: Mapping[str, Any], deadline_s: float) -> Any:
            return await client.run(inputs, deadline_s, asking.priority)

        with _progress() as line:
            stream = Stream(
                parsed.name,
                source,
                FrameReader(parsed.inputs, reading),
                ask,
                [Outbox(place.rpartition("@")[2], sink) for place, sink in sinks],
                policy=policy,
                fps=options.fps,
                most=options.frames,
                deadline_s=options.deadline_ms / 1000,
                at_a_time=min(options.concurrency, max(client.granted, 1)),
                reading=reading,
                top=options.top,
                tell=lambda: line.tell(stream),
            )
            begun = time.monotonic()
            with _until_interrupted(stream):
                await stream.run()
            return stream, time.monotonic() - begun

    async def drive_and_close(cluster: Cluster) -> tuple[Stream, float]:
        try:
            return await drive(cluster)
        finally:
            if whole is not None:
                await whole.close()

    stream, took_s = with_cluster(drive_and_close, role="client", trust=asking.trust)
    told = summary(stream, took_s)
    if as_json:
        emit(told)
    else:
        show(*_lines(told))
    return int(bool(told["failed"] or any(sink["lost"] for sink in told["sinks"])))


async def _nothing(_: Plan) -> Plan | None:
    return None


def bundle_reading(plan: Plan, folder: Path, bundle: Path | None) -> Reading | None:
    """What a plan's packaged model says of raw frames and of answers; None without one.

    Raises `ModelError` for the package of another model, `UsageError` for one that cannot read raw
    frames.
    """
    from collab.core.streams import MAX_LABELS, Reading
    from collab.updates.bundle.answers import label_port
    from collab.updates.bundle.inputs import check_input, check_plan
    from collab.updates.bundle.read import is_bundle, open_bundle

    paths = [bundle] if bundle is not None else [folder / m.path for m in plan.models if m.path is not None]
    found = next((path for path in paths if bundle is not None or is_bundle(path)), None)
    if found is None:
        return None
    opened = open_bundle(found)
    check_plan(opened, plan)
    steps = opened.preprocessing()
    if steps is None:
        if bundle is None:
            return None
        raise UsageError(
            f"--bundle {bundle}: has no preprocessing; package it with --data or --preprocessing"
        )
    given = opened.manifest.inputs
    check_input(given, steps)
    labels = opened.labels()
    if not 0 < len(labels) <= MAX_LABELS:
        return Reading(preprocessing=steps, quantisation=given[0].quantisation)
    port = label_port(opened.manifest.outputs, len(labels))
    return Reading(
        preprocessing=steps,
        quantisation=given[0].quantisation,
        labels=tuple(labels),
        scores=port.name,
        score_quantisation=port.quantisation,
    )


def summary(stream: Stream, took_s: float) -> dict[str, Any]:
    """What a stream did, as ``--json`` prints it."""
    import numpy as np

    counts = stream.counts
    taken = list(stream.latencies_ms)
    marks = {f"p{p}": round(float(np.percentile(taken, p)), 3) for p in (50, 95, 99)} if taken else {}
    sinks = [
        {"name": sink.name, "delivered": sink.delivered, "lost": sink.lost, "trouble": sink.trouble or None}
        for sink in stream.sinks
    ]
    return {
        "frames": counts.captured,
        "answered": counts.answered,
        "dropped": counts.dropped,
        "failed": counts.failed,
        "seconds": round(took_s, 3),
        "fps": round(counts.answered / took_s, 3) if took_s > 0 else 0.0,
        "latency_ms": marks,
        "paths": dict(stream.paths),
        "policy": str(stream.policy),
        "sinks": sinks,
        "last_error": stream.last_error or None,
    }


def _lines(told: Mapping[str, Any]) -> list[str]:
    marks = ", ".join(f"{name} {ms:.2f} ms" for name, ms in told["latency_ms"].items())
    lines = [
        f"{told['frames']} frames, {told['answered']} answered, {told['dropped']} dropped, "
        f"{told['failed']} failed, {told['fps']:.1f} a second ({told['policy']})"
    ]
    lines += [f"latency {marks}"] if marks else []
    lines += [f"last error: {told['last_error']}"] if told["last_error"] else []
    lines += [
        f"sink {sink['name']}: {sink['lost']} answers lost ({sink['trouble']})"
        for sink in told["sinks"]
        if sink["lost"]
    ]
    return lines


def _check(options: StreamOptions, as_json: bool) -> None:
    from collab.core.streams import MAX_FPS, MAX_SINKS

    if options.fps is not None and not 0 < options.fps <= MAX_FPS:
        raise UsageError(f"--fps {options.fps:g}: give a number above 0, {MAX_FPS:g} at most")
    if options.frames is not None and options.frames < 1:
        raise UsageError(f"--frames {options.frames}: give a number above 0")
    if not math.isfinite(options.deadline_ms):
        raise UsageError(f"--deadline-ms {options.deadline_ms:g}: give a finite time")
    if options.watch and not options.source.startswith("folder:"):
        raise UsageError("--watch: only a folder is watched; leave it out")
    if as_json and "jsonl:-" in options.sinks:
        raise UsageError("--sink jsonl:-: with --json standard output has one object alone; give a file")
    if len(options.sinks) > MAX_SINKS:
        raise UsageError(f"--sink: {len(options.sinks)} of them; at most {MAX_SINKS}")
    for place in options.sinks:
        file = Path(place.removeprefix("jsonl:"))
        if place.startswith("jsonl:") and not file.parent.is_dir():
            raise InputError(f"--sink {place}: there is no directory {file.parent}")


@contextmanager
def _until_interrupted(stream: Stream) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the stream, a second one the process."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        say("stopping; again to stop at once")
        for number in numbers:
            loop.remove_signal_handler(number)
        stream.stop()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class _Line:
    """One line on a terminal that changes; nothing elsewhere."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._told_s = 0.0
        self._begun = time.monotonic()

    def tell(self, stream: Stream) -> None:
        """Show where a stream stands."""
        now = time.monotonic()
        if not self._live or now - self._told_s < _TELL_S:
            return
        self._told_s = now
        counts = stream.counts
        rate = counts.answered / max(now - self._begun, 1e-9)
        text = (
            f"{counts.captured} frames, {counts.answered} answered, {counts.dropped} dropped, "
            f"{counts.failed} failed, {rate:.1f} a second"
        )
        print(f"\r\033[K{stream.trouble or text}", end="", file=sys.stderr, flush=True)


@contextmanager
def _progress() -> Iterator[_Line]:
    live = sys.stderr.isatty()
    try:
        yield _Line(live)
    finally:
        if live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
