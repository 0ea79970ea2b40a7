"""Codecs end to end: exact ones change no bit, lossy ones stay within the error that the plan allows."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from collab.assembly import build_cluster
from collab.cli.files import write_plan
from collab.client import runner
from collab.client.runner import Result
from collab.codec.edges import EdgeEncoder
from collab.codec.tensors import EXACT_CODECS, decode
from collab.coordinator.deploy import deploy
from collab.core.codecs import NAMES
from collab.core.ids import REQUESTER
from collab.errors import PlanError
from tests.integration.deployments import deployed_plan, endpoints, run_all
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab

ERROR = 0.01
LINKS = 3


@pytest.mark.parametrize("name", NAMES)
async def test_every_codec_on_every_link(trio: list[NodeProcess], digits: Reference, name: str):
    plan, blobs = digits.chain(
        [14], ["a", "b"], endpoints(trio[:2]), codecs=[name] * LINKS, codec_error=ERROR, name="codecs"
    )
    async with deployed_plan(plan, blobs) as (_, client):
        results = await run_all(client, digits)
    answers = [result for result in results if isinstance(result, Result)]
    assert len(answers) == len(digits.requests), results
    for index, answer in enumerate(answers):
        if name in EXACT_CODECS:
            assert digits.same(index, answer.outputs)
        else:
            (got,), (want,) = answer.outputs.values(), digits.expected[index].values()
            np.testing.assert_allclose(got, want, atol=plan.tolerance.atol, rtol=plan.tolerance.rtol)
    first = [answer.hops[0] for answer in answers]
    assert {hop.raw_bytes for hop in first} == {sum(spec.nbytes for spec in plan.stages[0].outputs)}
    ratios = [hop.raw_bytes / hop.sent_bytes for hop in first]
    measured = [hop.codec_error for hop in first if hop.codec_error is not None]
    assert [hop.codec_fallbacks for hop in first] == [0] * len(first)
    assert all(answer.coded.raw_bytes == digits.graph.inputs[0].nbytes for answer in answers)
    if name == "raw":
        assert set(ratios) == {1.0}
    elif name in EXACT_CODECS:
        assert min(ratios) >= 1.0
        assert not measured
    else:
        assert min(ratios) > 1.9
        assert 1 <= len(measured) <= 2, "the first and every 64th"
        assert all(0 < error <= ERROR for error in measured)


async def test_what_a_codec_cannot_keep_within_the_error_travels_raw_and_is_counted(
    trio: list[NodeProcess], digits: Reference
):
    plan, blobs = digits.chain(
        [14], ["a", "b"], endpoints(trio[:2]), codecs=["raw", "int8", "raw"], codec_error=1e-6, name="codecs"
    )
    async with deployed_plan(plan, blobs) as (_, client):
        results = await run_all(client, digits)
    for index, answer in enumerate(results):
        assert isinstance(answer, Result), answer
        assert digits.same(index, answer.outputs)
        assert answer.hops[0].codec_fallbacks == len(plan.stages[0].outputs)
        assert answer.hops[0].sent_bytes == answer.hops[0].raw_bytes


async def test_a_plan_with_tensors_of_several_dtypes_takes_one_codec(
    trio: list[NodeProcess], references: dict[str, Reference]
):
    reference = references["digits_int8"]
    plan, blobs = reference.chain(
        [14], ["a", "b"], endpoints(trio[:2]), codecs=["int8+zstd"] * LINKS, codec_error=ERROR, name="codecs"
    )
    async with deployed_plan(plan, blobs) as (_, client):
        results = await run_all(client, reference)
    for index, answer in enumerate(results):
        assert isinstance(answer, Result), answer
        assert reference.same(index, answer.outputs), "integers lose nothing"
        assert answer.hops[0].codec_fallbacks == 0


@pytest.mark.parametrize("name", ["raw", "int8+zstd"])
async def test_the_requester_codes_beside_its_event_loop_unless_all_is_raw(
    trio: list[NodeProcess], digits: Reference, name: str, monkeypatch: pytest.MonkeyPatch
):
    """The answer goes back through the chain, whose nodes hand it on as it is."""
    threads = []

    def watched(function):
        def call(*arguments):
            threads.append(threading.current_thread())
            return function(*arguments)

        return call

    monkeypatch.setattr(EdgeEncoder, "encode", watched(EdgeEncoder.encode))
    monkeypatch.setattr(runner, "decode", watched(decode))
    plan, blobs = digits.chain(
        [10, 20],
        ["a", "b", "c"],
        endpoints(trio),
        codecs=[name] * 4,
        codec_error=ERROR,
        name="codecs",
        return_by_chain=True,
    )
    assert plan.edges[-1].via == ("b", "a")
    async with deployed_plan(plan, blobs) as (_, client):
        answer = await client.run(digits.requests[0], 20.0)
    (got,), (want,) = answer.outputs.values(), digits.expected[0].values()
    np.testing.assert_allclose(got, want, atol=plan.tolerance.atol, rtol=plan.tolerance.rtol)
    assert len(threads) == 2
    here = threading.main_thread()
    assert [thread is here for thread in threads] == [name == "raw"] * 2


async def test_a_codec_that_a_node_does_not_know_is_refused_before_anything_changes(
    trio: list[NodeProcess], digits: Reference, monkeypatch: pytest.MonkeyPatch
):
    plan, blobs = digits.chain(
        [14], ["a", "b"], endpoints(trio[:2]), codecs=["raw", "zstd", "raw"], name="codecs"
    )
    async with build_cluster() as cluster:
        await cluster.reach_plan(plan)
        describe = cluster.describe

        async def without_zstd(*names):
            views = await describe(*names)
            known = views["b"].description.codecs
            known[:] = [name for name in known if "zstd" not in name]
            return views

        monkeypatch.setattr(cluster, "describe", without_zstd)
        with pytest.raises(PlanError, match=r"edges\[1\]\.codec: 'raw\+zstd' is not known on node 'b'; use"):
            await deploy(cluster, plan, blobs)
        monkeypatch.undo()
        views = await cluster.describe("ab")
        assert {view.epoch_of(plan.name) for view in views.values()} == {None}


# --- the commands ----------------------------------------------------------------------


def peers(nodes: list[NodeProcess]) -> str:
    return ",".join(node.endpoint for node in nodes)


def test_the_commands_plan_run_and_report_codecs(trio: list[NodeProcess], digits: Reference, tmp_path: Path):
    at = ("--at", "14", "--assign", "a,b", "--peers", peers(trio[:2]))
    file = str(tmp_path / "plan.yaml")
    codecs = ("--codecs", "zstd,int8+zstd,raw", "--codec-error", "0.01")
    done = collab("plan", str(digits.path), *at, *codecs, "--name", "codecs", "--out", file, "--json")
    planned = json.loads(done.out)
    assert [link["codec"] for link in planned["links"]] == ["raw+zstd", "int8+zstd", "raw"]
    assert planned["codec_error"] == 0.01
    collab("deploy", file)
    inputs, expected = digits.save(tmp_path)
    run = ("run", file, "--input", str(inputs), "--expect", str(expected))
    done = collab(*run, "--json")
    report = json.loads(done.out)
    assert (report["failed"], report["wrong"], report["compared"]) == (0, 0, "close")
    assert report["tolerance"] == {"atol": 0.01, "rtol": 0.01}
    rows = {row["stage"]: row for row in report["hops"]}
    assert rows["stage-0"]["ratio"] > 3
    assert 0 < rows["stage-0"]["codec_error"] <= 0.01
    assert rows["stage-1"]["ratio"] == 1
    assert rows[REQUESTER]["sent_bytes"] <= rows[REQUESTER]["raw_bytes"]
    done = collab(*run)
    assert re.search(r"close comparison, atol 0\.01", done.out + done.err)
    assert "ratio" in done.out + done.err
    collab("undeploy", file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--codecs", "int8"), "--codec-error"),
        (("--codecs", "int8", "--codec-error", "0"), "above 0"),
        (("--codecs", "raw,int8,raw"), "--codec-error"),
        (("--codecs", "int8+zip", "--codec-error", "0.01"), "int8+zstd"),
    ],
)
def test_codecs_that_make_no_plan_are_usage_errors(
    trio: list[NodeProcess], digits: Reference, tmp_path: Path, options: tuple[str, ...], words: str
):
    file = tmp_path / "plan.yaml"
    at = ("--at", "14", "--assign", "a,b", "--peers", peers(trio[:2]))
    done = collab("plan", str(digits.path), *at, *options, "--out", str(file), code=2)
    assert words in " ".join(done.err.split())
    assert not file.exists()


def test_a_plan_file_with_a_lossy_codec_and_no_stated_error_is_refused(digits: Reference, tmp_path: Path):
    plan, _ = digits.chain([14], ["a", "b"], {"a": "127.0.0.1:1", "b": "127.0.0.1:2"})
    file = tmp_path / "plan.yaml"
    write_plan(file, plan)
    text = file.read_text("utf-8")
    file.write_text(text.replace("target: stage-1", "target: stage-1\n  codec: int8", 1), "utf-8")
    done = collab("deploy", str(file), code=1)
    words = " ".join(done.err.split())
    assert "edges[1].codec" in words
    assert "set codec_error" in words
