"""A node is scraped as Prometheus would."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.deployments import assert_equal_answers, deployed_plan, endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, command, environment, peers, running


@pytest.fixture(scope="module")
def digits() -> Reference:
    return Reference.of("digits")


def scrape(node: NodeProcess) -> dict[tuple[str, frozenset[str]], float]:
    with urlopen(node.events[0]["metrics"], timeout=10) as reply:
        text = reply.read().decode()
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_top_and_status_tell_of_a_running_plan(digits, tmp_path):
    nodes = [NodeProcess(name, tmp_path, "--metrics", "0") for name in "ab"]
    with running(nodes):
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        async with deployed_plan(plan, blobs) as opened:
            asked = len(await assert_equal_answers(opened.client, digits))
            first, second = map(scrape, nodes)
            arguments = ("--peers", peers(nodes), "--json")
            work = partial(collab, "top", *arguments, "--count", 1, "--interval", 0.5)
            watching = asyncio.create_task(asyncio.to_thread(work))
            while not watching.done():
                await assert_equal_answers(opened.client, digits)
            (look,) = [json.loads(line) for line in (await watching).out.splitlines()]
            status = (await asyncio.to_thread(collab, "status", plan.name, *arguments)).json
    stages = [s.id for s in plan.stages]

    answers = ("collab_requests_total", frozenset({plan.name, "ok"}))
    assert answers not in first
    assert second[answers] == asked
    for scraped, stage in ((first, stages[0]), (second, stages[1])):
        assert scraped["collab_stage_seconds_count", frozenset({plan.name, stage, "compute"})] == asked
        assert scraped["process_resident_memory_bytes", frozenset()] > 10e6
    assert first["collab_link_bytes_total", frozenset({"b", "grpc", "sent"})] > asked * 100

    (row,) = look["plans"]
    assert (row["plan"], row["stages"]) == (plan.name, {stages[0]: ["a"], stages[1]: ["b"]})
    assert row["answers_s"] > 0
    assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert {node["state"] for node in look["nodes"]} == {"serving"}
    assert any(link["sent_s"] > 0 for link in look["links"])
    assert sum(answer["ok"] for node in status["nodes"] for answer in node["answers"]) > asked


def test_a_bad_address_is_one_line(tmp_path):
    done = command("node", "--name", "a", "--store", tmp_path, "--metrics", "nowhere", "--discovery", "none")
    assert done.code == 2
    assert done.errors == [
        "error: --metrics: address '127.0.0.1:nowhere': write it as HOST:PORT with a port of 0 to 65535; "
        "a port alone is one of loopback"
    ]


def until(terminal: int, text: bytes, within_s: float = 30.0) -> bytes:
    """What a program writes to its terminal, up to a text."""
    seen, end = b"", time.monotonic() + within_s
    while text not in seen:
        readable, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert readable, seen
        seen += os.read(terminal, 65536)
    return seen


def test_on_a_terminal_top_is_live_and_keys_work(tmp_path):
    ours, its = pty.openpty()
    # Wide enough that no column is folded.
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
    before = termios.tcgetattr(its)
    try:
        with NodeProcess("a", tmp_path) as node:
            process = subprocess.Popen(
                [sys.executable, "-m", "collab", "top", "--peers", node.place],
                stdin=its,
                stdout=subprocess.DEVNULL,
                stderr=its,
                env=environment(TERM="xterm"),
            )
            try:
                assert b"serving" in until(ours, b"by name")
                os.write(ours, b"s")
                until(ours, b"by cpu")
                os.write(ours, b"q")
                assert process.wait(20) == 0
            finally:
                process.kill()
                process.wait()
            after = termios.tcgetattr(its)
    finally:
        os.close(ours)
        os.close(its)
    assert after == before
