"""``collab node --stretch``: a slow device for experiments, with the answers of a fast one."""

from __future__ import annotations

import pytest

from collab.assembly import build_cluster
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest
from collab.graph import split
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, running

pytestmark = pytest.mark.timed


async def measured(endpoints: list[str], digits: Reference) -> list[float]:
    """Shortest run of the whole model on each node, as ``Profile`` reports it."""
    (whole,) = split(digits.graph, [])
    best = []
    async with build_cluster() as cluster:
        for name in await cluster.reach(endpoints):
            control = cluster.control(name)
            await control.put_blob(Digest(whole.sha256), whole.data)
            request = pb.ProfileRequest(sha256=whole.sha256, runs=20, threads=1, share=1)
            best.append(min((await control.call("Profile", request)).run_ms))
    return best


async def test_the_profile_of_a_stretched_node_is_that_of_a_slower_device(tmp_path, digits):
    with running([NodeProcess("fast", tmp_path), NodeProcess("slow", tmp_path, "--stretch", "20")]) as nodes:
        fast, slow = await measured([node.endpoint for node in nodes], digits)
    assert 10 < slow / fast < 25


def test_stretched_nodes_answer_what_the_whole_model_does(tmp_path, digits):
    given, expected = digits.save(tmp_path, 3)
    plan = tmp_path / "plan.yaml"
    with running([NodeProcess("slow", tmp_path, "--stretch", "3")]) as (node,):
        peers = ("--peers", node.place)
        collab("plan", digits.path, *peers, "--assign", "slow", "--out", plan)
        collab("deploy", plan, *peers)
        report = collab("run", plan, *peers, "--input", given, "--expect", expected, "--json").json
    assert (report["requests"], report["wrong"], report["compared"]) == (3, 0, "exact")


def test_the_option_is_hidden_and_bounded():
    assert "--stretch" not in collab("node", "--help").out
    refused = collab("node", "--name", "n", "--stretch", "0.5", "--insecure", code=2)
    assert len(refused.errors) == 1
    assert "stretch" in refused.errors[0]
