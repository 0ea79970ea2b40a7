"""A controller that plans anew while a plan runs, and clients that go along: nothing is lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest

from collab.cli.files import read_plan, write_plan
from collab.cli.replanning import successor_path
from collab.coordinator.planning import allowed_cuts, time_operators
from collab.coordinator.rebuilding import rebuilder
from collab.core.plan import NodeRef, Plan
from collab.core.profile import CutProfile, DeviceProfile, LinkEntry, Profile, to_json
from collab.planner.chains import Wants
from collab.planner.evaluate import Evaluator
from collab.planner.prediction import predicted_of
from collab.planner.solve import solve
from collab.runtime.litert import LiteRT
from tests.integration.models import Reference
from tests.integration.processes import ROOT, STOP_S, NodeProcess, collab, environment, running
from tests.shaped import Shape, ShapedNetwork

pytestmark = pytest.mark.timed

REQUESTER = "requester"
STRETCH = 8
"""Every device is slowed down so much that sending tensors pays, and that two cores are enough for all."""
LOAD_S = 6
EVENT_S = 30.0


@dataclass(frozen=True)
class Measured:
    """What profiles of the model say of a device that is not slowed down."""

    reference: Reference
    op_ms: tuple[float, ...]

    def work(self, plan: Plan, name: str) -> float:
        """Time in ms of what a plan gives to a node, at full speed."""
        ranges = [stage.ops for stage in plan.stages if name in stage.nodes and stage.ops is not None]
        return sum(sum(self.op_ms[start:stop]) for start, stop in ranges)

    def profile(
        self, slow: Mapping[str, float], links: Mapping[tuple[str, str], tuple[float, float]]
    ) -> Profile:
        """Devices by how much slower they are, links by delay and rate."""
        graph = self.reference.graph
        return Profile(
            model_sha256=graph.sha256,
            requester=REQUESTER,
            input_bytes=sum(t.nbytes for t in graph.inputs),
            output_bytes=sum(t.nbytes for t in graph.outputs),
            cuts=tuple(CutProfile(at=at, bytes=size) for at, size in allowed_cuts(graph).items()),
            devices=tuple(
                DeviceProfile(
                    name=name,
                    memory_bytes=1 << 30,
                    op_ms=tuple(ms * factor for ms in self.op_ms),
                    op_bytes=(1000,) * len(self.op_ms),
                )
                for name, factor in slow.items()
            ),
            links=tuple(
                LinkEntry(source=a, target=b, latency_ms=delay, mbit_s=rate)
                for (a, b), (delay, rate) in links.items()
            ),
        )


@pytest.fixture(scope="module")
def measured(references: dict[str, Reference]) -> Measured:
    """Operators timed here, and scaled to what the whole model takes: alone they fuse less.

    In time of the processor, by which nodes are slowed down, too; others may use it meanwhile.
    """
    reference = references["digits"]
    op_ms = time_operators(reference.graph, LiteRT())
    stage = LiteRT().load(reference.path)
    (request,) = reference.requests[:1]
    times = []
    for _ in range(30):
        start = time.thread_time()
        stage.run(list(request.values()))
        times.append((time.thread_time() - start) * 1000)
    stage.close()
    whole = sorted(times)[len(times) // 2]
    return Measured(reference, tuple(ms * whole / sum(op_ms) for ms in op_ms))


class Watched:
    """A command that prints JSON lines, ended by its own handle."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(),
                cwd=ROOT,
            )
        self._unread = b""
        self.events: list[dict[str, Any]] = []

    def await_event(self, name: str, within_s: float = EVENT_S) -> dict[str, Any]:
        """The next event of a name; fails without one in time."""
        stdout, deadline = self._process.stdout, time.monotonic() + within_s
        assert stdout is not None
        while True:
            line, found, rest = self._unread.partition(b"\n")
            if found:
                self._unread = rest
                self.events.append(json.loads(line))
                if self.events[-1].get("event") == name:
                    return self.events[-1]
                continue
            readable, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(stdout.fileno(), 65536) if readable else b""
            assert data, f"no {name!r} within {within_s} s after {self.events}: {self.log()}"
            self._unread += data

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def finish(self, within_s: float) -> dict[str, Any]:
        """Wait for the end of a command that prints one document; it must succeed."""
        out, _ = self._process.communicate(timeout=within_s)
        assert self._process.returncode == 0, (out, self.log())
        document: dict[str, Any] = json.loads(out)
        return document

    def stop(self) -> None:
        """End it, if it has not ended by itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        assert "Traceback" not in self.log(), self.log()


@contextmanager
def started(folder: Path, *arguments: object, wrapper: Sequence[str] = ()) -> Iterator[Watched]:
    """Run a command beside the test."""
    name = str(arguments[0])
    log = folder / f"{name}.log"
    process = Watched([*wrapper, sys.executable, "-m", "collab", *map(str, arguments)], log)
    try:
        yield process
    finally:
        process.stop()


def written(
    folder: Path, profile: Profile, wants: Wants, reference: Reference, nodes: Sequence[NodeProcess]
) -> tuple[Path, Path, Plan]:
    """Files of the profile and of the best plan for it, which is returned too."""
    refs = [NodeRef(name=node.name, endpoints=(node.endpoint,)) for node in nodes]
    first, _ = reference.chain([15], ["a", "b"], {node.name: node.endpoint for node in nodes}, name="digits")
    best = solve(profile, wants).best
    used = {name for stage in best.chain.stages for name in stage.nodes}
    plan, _ = rebuilder(first, profile, folder)(best.chain, [ref for ref in refs if ref.name in used])
    evaluation = Evaluator(profile).evaluate(best.chain)
    plan = plan.replace(predicted=predicted_of(evaluation, best.chain, profile.digest, "written by a test"))
    files = folder / "plan.yaml", folder / "profile.json"
    write_plan(files[0], plan)
    files[1].write_bytes(to_json(profile))
    return *files, plan


def run_requests(seconds: float, predicted_ms: float, count: int) -> int:
    """How often requests must be repeated to last about so long."""
    return max(1, int(seconds * 1000 / predicted_ms / count))


def check_answers(report: Mapping[str, Any], asked: int) -> None:
    assert report["requests"] == asked
    assert (report["failed"], report["wrong"], report["errors"]) == (0, 0, {})
    assert report["compared"] == "exact"


def test_a_device_that_is_slower_than_its_profile_says_gets_less_to_do_under_load(
    tmp_path: Path, measured: Measured
):
    nodes = [
        NodeProcess(name, tmp_path, "--stretch", str(STRETCH * (6 if name == "b" else 1))) for name in "abc"
    ]
    pairs = {pair: (0.3, 2000.0) for pair in permutations((*"abc", REQUESTER), 2)}
    # The profile prefers b a little, so that the plan begins with it.
    profile = measured.profile({"a": STRETCH, "b": STRETCH * 0.9, "c": STRETCH * 1.1}, pairs)
    wants = Wants(objective="throughput", max_stages=2)
    inputs, expected = measured.reference.save(tmp_path)
    with running(nodes):
        plan, assumed, first = written(tmp_path, profile, wants, measured.reference, nodes)
        assert [ref.name for ref in first.nodes] == ["a", "b"]
        collab("deploy", plan)
        load = ("run", plan, "--input", inputs, "--expect", expected, "--concurrency", 4, "--json")
        watching = ("--plan", plan, "--profile", assumed, "--replan-every", 0.3, "--objective", "throughput")
        with (
            started(tmp_path, "run", *load[1:], "--repeat", 6) as client,
            started(
                tmp_path, "controller", *watching, "--insecure", "--peers", peers_of(nodes), "--json"
            ) as c,
        ):
            c.await_event("ready")
            event = c.await_event("replanned")
            report = client.finish(60.0)
        assert "node b" in event["reason"]
        assert event["best"] < event["running"] * 0.9
        check_answers(report, 6 * len(measured.reference.requests))
        assert len(report["paths"]) == 2, "some on the first plan, the rest on the second"
        kept = read_plan(successor_path(plan))
        assert kept.predicted is not None
        assert measured.work(kept, "b") < measured.work(first, "b") / 2
        again = collab(*load)
        assert list(again.json["paths"]) == [" -> ".join(s.nodes[0] for s in kept.stages)]
        assert again.json["calibration"]["bottleneck_ms"]["predicted"] == round(
            kept.predicted.bottleneck_ms, 3
        )
        refused = collab(*load, "--no-follow", code=1)
        assert "runs another version of plan 'digits'" in refused.errors[0]


def await_load(folder: Path, nodes: Sequence[NodeProcess], here: Sequence[str], trust: Sequence[str]) -> None:
    """Return when nodes have requests under way."""
    deadline = time.monotonic() + EVENT_S
    while time.monotonic() < deadline:
        asking = ("status", "--peers", peers_of(nodes), *trust, "--json")
        with started(folder, *asking, wrapper=here) as status:
            answer = status.finish(EVENT_S)
        if any(plan["in_flight"] for node in answer["nodes"] for plan in node["plans"]):
            return
    raise AssertionError(f"no request under way within {EVENT_S} s")


@pytest.fixture
def shaped() -> Iterator[ShapedNetwork]:
    """Three devices and a requester on links that can be throttled."""
    fast = Shape(delay_ms=1.0, mbit_s=100.0)
    with ShapedNetwork([REQUESTER, "a", "b", "c"], {}, others=fast) as network:
        yield network


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_throttled_link_is_left_within_five_seconds_and_no_request_is_lost(
    tmp_path: Path, measured: Measured, shaped: ShapedNetwork
):
    options = ("--insecure", "--insecure-network", "--stretch", str(STRETCH))
    nodes = [
        NodeProcess(
            name,
            tmp_path,
            *("--listen", f"{shaped.address(name)}:7070", *options),
            wrapper=shaped.inside(name),
        )
        for name in "abc"
    ]
    pairs = {pair: (1.5, 95.0) for pair in permutations(("a", "b", "c", REQUESTER), 2)}
    profile = measured.profile(dict.fromkeys("abc", STRETCH), pairs)
    wants = Wants(objective="throughput")
    inputs, expected = measured.reference.save(tmp_path)
    here, trust = shaped.inside(REQUESTER), ("--insecure", "--insecure-network")
    with running(nodes):
        plan, assumed, first = written(tmp_path, profile, wants, measured.reference, nodes)
        assert first.predicted is not None
        source, target = (stage.nodes[0] for stage in first.stages[:2])
        with started(tmp_path, "deploy", plan, *trust, "--json", wrapper=here) as deploying:
            deploying.finish(30.0)
        repeat = run_requests(LOAD_S, first.predicted.bottleneck_ms, len(measured.reference.requests))
        load = ("run", plan, "--input", inputs, "--expect", expected, "--concurrency", 4)
        # Stages take turns on this machine's cores, links do not: limits that only links reach.
        often = ("--replan-every", 0.25, "--replan-when", "300%", "--replan-margin", "40%")
        watching = ("--plan", plan, "--profile", assumed, "--objective", "throughput", *often)
        peers = ("--peers", peers_of(nodes), "--json")
        with (
            started(tmp_path, "run", *load[1:], *trust, "--repeat", repeat, "--json", wrapper=here) as client,
            started(tmp_path, "controller", "-v", *watching, *trust, *peers, wrapper=here) as controller,
        ):
            controller.await_event("ready")
            await_load(tmp_path, nodes, here, trust)
            throttled_s = time.monotonic()
            for pair in ((source, target), (target, source)):
                shaped.shape(*pair, mbit_s=10.0)
            event = controller.await_event("replanned")
            took_s = time.monotonic() - throttled_s
            report = client.finish(100.0)
        assert took_s < 5.0, (took_s, controller.events, controller.log())
        assert (
            f"link {source} → {target}" in event["reason"] or f"link {target} → {source}" in event["reason"]
        )
        assert event["best"] < event["running"] / 2
        after = [stage.nodes[0] for stage in read_plan(successor_path(plan)).stages]
        assert (source, target) not in pairwise(after)
        assert (target, source) not in pairwise(after)
        assert len(report["paths"]) >= 2
        check_answers(report, repeat * len(measured.reference.requests))


def peers_of(nodes: Sequence[NodeProcess]) -> str:
    return ",".join(node.place for node in nodes)
