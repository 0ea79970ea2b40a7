"""``collab emulate``: real nodes over emulated links, with a cut, and interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from collab.assets import path as asset
from collab.emulation.ability import machine_lacks
from collab.emulation.folders import read_results
from collab.graph import read_model
from tests.integration.processes import environment

LACKS = machine_lacks()
pytestmark = [
    pytest.mark.skipif(LACKS is not None, reason=f"this machine cannot emulate: {LACKS}"),
    pytest.mark.timed,
    pytest.mark.timeout(120),
]
WITHIN_S = 60.0


def scenario(**changes: Any) -> dict[str, Any]:
    fields = {
        "name": "doorway",
        "model": str(asset("digits.tflite")),
        "requester": "phone",
        "hosts": {"phone": {}, "edge": {}},
        "topology": {"shape": "star", "profile": "ethernet", "profiles": {"phone": "lte"}},
        "cluster": {"secured": True},
        "plans": ["offload", {"name": "two", "at": [20], "assign": ["phone", "edge"]}],
        "workload": {"kind": "poisson", "rate": 15, "requests": 30, "deadline_ms": 5000},
        "faults": [{"at_s": 0.5, "cut": ["phone", "base"], "for_s": 0.3}],
    }
    return fields | changes


def command(folder: Path, tree: dict[str, Any], *options: str) -> list[str]:
    file = folder / "scenario.yaml"
    file.write_text(yaml.safe_dump(tree))
    return [sys.executable, "-m", "collab", "emulate", str(file), *options]


def left_behind(folder: Path) -> list[str]:
    """Processes whose command names something in a folder, and what is left in it."""
    found = [str(path) for path in folder.glob("collab-emulate-*")]
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = place.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(folder / "collab-emulate-") in text:
            found.append(text)
    return found


def test_two_plans_over_lte_with_a_cut(tmp_path):
    done = subprocess.run(
        command(tmp_path, scenario(), "--out", str(tmp_path / "out"), "--json"),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        env=environment(TMPDIR=str(tmp_path)),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["kind"], summary["partial"]) == ("emulated", False)
    assert [note for note in summary["notes"] if "Mbit/s through it at most" in note]
    assert [note for note in summary["notes"] if "µs late in the median" in note]
    offload, two = summary["plans"]
    for plan in (offload, two):
        assert (plan["requests"], plan["failed"]) == (30, 0)
        # The link's two delays, which nothing makes shorter.
        assert plan["latency_ms"]["p50"] > 15
        assert plan["predicted_ms"] is not None
        assert {link["leg"] for link in plan["links"]} >= {"phone → base", "base → edge"}
    assert [stage["nodes"] for stage in two["stages"]] == [["phone"], ["edge"]]
    results = read_results(tmp_path / "out")
    assert [(mark.at_ms, mark.kind) for mark in results.marks] == [(500, "fault"), (800, "fault")]
    # Who asked while nothing passed waited for its end.
    held = [a.latency_ms for a in results.of("two") if 560 < a.start_ms < 750]
    assert max(held) > 60
    dropped = {entry.leg: entry.dropped for entry in results.carried if entry.plan == "two"}
    assert dropped["phone → base"].get("loss", 0) > 0
    assert {tuple(a.path) for a in results.of("two")} == {("phone", "edge")}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("requests.csv", "links.csv", "run.json", "summary.json", "report.html", "profile.json"),
    }
    assert not left_behind(tmp_path)


def test_an_interrupted_run_keeps_what_it_has_and_leaves_nothing(tmp_path):
    many = scenario(
        hosts={"phone": {}},
        topology={"shape": "star", "profile": "wifi6"},
        profile=known_times(),
        cluster={},
        plans=["local"],
        workload={"kind": "closed", "requests": 1_000_000},
        faults=[],
    )
    terminal, other_end = pty.openpty()
    try:
        with subprocess.Popen(
            command(tmp_path, many, "--out", str(tmp_path / "out"), "--json"),
            stdout=subprocess.PIPE,
            stderr=other_end,
            env=environment(TMPDIR=str(tmp_path), TERM="xterm"),
            start_new_session=True,
        ) as process:
            os.close(other_end)
            try:
                await_requests(terminal)
                # As a terminal does: to everything that it started.
                os.killpg(process.pid, signal.SIGINT)
                drained = drain(terminal, process)
            finally:
                if process.poll() is None:
                    process.kill()
            assert process.stdout is not None
            out = process.stdout.read()
    finally:
        os.close(terminal)
    assert process.returncode == 130, drained
    assert "Traceback" not in drained
    summary = json.loads(out)
    assert summary["partial"] is True
    assert summary["plans"][0]["requests"] > 0
    assert read_results(tmp_path / "out").partial
    assert "Stopped before its end" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert not left_behind(tmp_path)


def known_times() -> dict[str, Any]:
    """A profile of the model, so that nothing has to be measured."""
    graph = read_model(asset("digits.tflite"))
    ops = graph.op_count
    return {
        "model_sha256": graph.sha256,
        "input_bytes": sum(spec.nbytes for spec in graph.inputs),
        "output_bytes": sum(spec.nbytes for spec in graph.outputs),
        "cuts": [],
        "devices": [{"name": "phone", "memory_bytes": 10**9, "op_ms": [0.1] * ops, "op_bytes": [1] * ops}],
        "links": [],
    }


def await_requests(terminal: int) -> None:
    """Until the bar says that some are done."""
    seen, deadline = "", time.monotonic() + WITHIN_S
    while not re.search(r"[1-9]\d*/1000000", seen):
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], seen
        seen = seen[-4000:] + os.read(terminal, 65536).decode("utf-8", "replace")


def drain(terminal: int, process: subprocess.Popen[bytes]) -> str:
    """What it still says, until it ends."""
    seen, deadline = "", time.monotonic() + WITHIN_S
    while process.poll() is None:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                seen += os.read(terminal, 65536).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                process.wait(WITHIN_S)
    return seen
