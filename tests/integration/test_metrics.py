"""A node is scraped as Prometheus would."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.deployments import assert_equal_answers, deployed_plan, endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, command, peers, running


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


async def test_every_answer_is_counted_once_over_the_nodes(digits, tmp_path):
    nodes = [NodeProcess(name, tmp_path, "--metrics", "0") for name in "ab"]
    with running(nodes):
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        async with deployed_plan(plan, blobs) as opened:
            asked = len(await assert_equal_answers(opened.client, digits))
            first, second = map(scrape, nodes)
    stage = [s.id for s in plan.stages]
    answers = ("collab_requests_total", frozenset({plan.name, "ok"}))
    assert answers not in first
    assert second[answers] == asked
    for scraped, stage_id in ((first, stage[0]), (second, stage[1])):
        assert scraped["collab_stage_seconds_count", frozenset({plan.name, stage_id, "compute"})] == asked
        assert scraped["process_resident_memory_bytes", frozenset()] > 10e6
    assert first["collab_link_bytes_total", frozenset({"b", "grpc", "sent"})] > asked * 100


def test_a_bad_address_is_one_line(tmp_path):
    done = command("node", "--name", "a", "--store", tmp_path, "--metrics", "nowhere", "--discovery", "none")
    assert done.code == 2
    assert done.errors == [
        "error: --metrics: address '127.0.0.1:nowhere': write it as HOST:PORT with a port of 0 to 65535; "
        "a port alone is one of loopback"
    ]


async def test_top_and_status_tell_of_a_running_plan(digits, tmp_path):
    nodes = [NodeProcess(name, tmp_path) for name in "ab"]
    with running(nodes):
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        async with deployed_plan(plan, blobs) as opened:
            arguments = ("--peers", peers(nodes), "--json")
            work = partial(collab, "top", *arguments, "--count", 2, "--interval", 0.5)
            watching = asyncio.create_task(asyncio.to_thread(work))
            while not watching.done():
                await assert_equal_answers(opened.client, digits)
            looks = [json.loads(line) for line in (await watching).out.splitlines()]
            status = (await asyncio.to_thread(collab, "status", plan.name, *arguments)).json
            missing = await asyncio.to_thread(partial(collab, "status", "nil", *arguments, code=None))
    assert len(looks) == 2
    (row,) = looks[-1]["plans"]
    assert (row["plan"], row["stages"]) == (plan.name, {plan.stages[0].id: ["a"], plan.stages[1].id: ["b"]})
    assert row["answers_s"] > 0
    assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert {node["state"] for node in looks[-1]["nodes"]} == {"serving"}
    assert any(link["sent_s"] > 0 for link in looks[-1]["links"])
    assert sum(answer["ok"] for node in status["nodes"] for answer in node["answers"]) >= len(digits.requests)
    assert missing.code == 1
    assert "none of these nodes has one of that name" in missing.err
