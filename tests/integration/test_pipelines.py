"""Pipelines of different models over real nodes: answers are those of one process, bit for bit."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest

from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.files import read_plan
from collab.client.runner import LOCAL_PATH
from collab.coordinator.deploy import deploy, undeploy
from collab.coordinator.planning import stage_blobs
from collab.coordinator.whole import local_model
from collab.core.plan import Plan
from collab.toolchain.scenes import scene
from tests.integration.processes import NodeProcess, command, peers
from tests.integration.serving import ServeProcess

SCENES = 10
PIPELINE = asset("scene_pipeline.yaml")
BY_HAND = "small=a,scaled=a,detect=a,cells=a,boxes=b,crops=b,digits=b,digit=b+c"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Scenes, an empty one among them, and what one process answers."""
    folder = tmp_path_factory.mktemp("asked")
    with np.load(asset("digits_heldout.npz")) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    rng = np.random.default_rng(3)
    scenes = [scene(images, labels, rng).image[None] for _ in range(SCENES)]
    scenes[1][:] = 0
    inputs, expected = folder / "x.npz", folder / "y.npz"
    np.savez(inputs, image=np.stack(scenes))
    done = command("pipeline", PIPELINE, "--input", inputs, "--output", expected)
    assert done.code == 0, done.err
    with np.load(expected) as answers:
        counts = answers["boxes.count"].reshape(-1)
        assert counts[1] == 0
        assert counts.sum() > SCENES
    return inputs, expected


def planned(nodes: list[NodeProcess], out: Path, *options: object) -> Plan:
    done = command("pipeline", PIPELINE, "--peers", peers(nodes), "--out", out, *options)
    assert done.code == 0, done.err
    return read_plan(out)


def test_a_pipeline_placed_by_hand_answers_as_one_process_does(
    trio: list[NodeProcess], asked: tuple[Path, Path], tmp_path: Path
):
    inputs, expected = asked
    out = tmp_path / "plan.yaml"
    plan = planned(trio, out, "--assign", BY_HAND, "--name", "by-hand")
    assert plan.stage("digit").nodes == ("b", "c")
    assert command("deploy", out).code == 0
    ran = command("run", out, "--input", inputs, "--expect", expected, "--repeat", 3, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["wrong"], ran.json["failed"], ran.json["compared"]) == (0, 0, "exact")
    assert ran.json["requests"] == 3 * SCENES
    assert command("undeploy", out).code == 0


def test_a_planned_pipeline_says_what_it_costs_and_is_served(
    trio: list[NodeProcess], asked: tuple[Path, Path], tmp_path: Path
):
    out = tmp_path / "plan.yaml"
    plan = planned(trio[:2], out, "--name", "planned", "--rows", 3)
    predicted = plan.predicted
    assert predicted is not None
    assert predicted.latency_ms > 0
    assert {part.stage for part in predicted.stages} == {stage.id for stage in plan.stages}
    assert command("deploy", out).code == 0
    with np.load(asked[0]) as given, np.load(asked[1]) as answers, ServeProcess(tmp_path, [out]) as server:
        tensor = {"name": "image", "shape": [1, 192, 192, 1], "datatype": "UINT8"}
        body = {"inputs": [tensor | {"data": given["image"][0].ravel().tolist()}]}
        response = httpx.post(f"{server.rest}/v2/models/planned/infer", json=body)
        assert response.status_code == 200, response.text
        for output in response.json()["outputs"]:
            want = answers[output["name"]][0]
            assert np.array(output["data"], want.dtype).tobytes() == want.tobytes(), output["name"]
    assert command("undeploy", out).code == 0


def test_replicas_and_this_process_stand_in_for_nodes_that_stop(
    trio: list[NodeProcess], asked: tuple[Path, Path], tmp_path: Path
):
    plan = planned(trio, tmp_path / "plan.yaml", "--assign", BY_HAND, "--name", "lost")
    with np.load(asked[0]) as given, np.load(asked[1]) as answers:
        images, want = given["image"], {name: answers[name] for name in answers.files}

    async def run() -> list[str]:
        paths = []
        async with build_cluster() as cluster:
            await deploy(cluster, plan, stage_blobs(plan, Path()))
            local = local_model(plan, Path())
            client = await cluster.follow(plan, local=local)
            stopped = []
            try:
                for node in (None, trio[2], trio[0]):  # a replica, then what has none
                    if node is not None:
                        node.send(signal.SIGSTOP)
                        stopped.append(node)
                    for i, image in enumerate(images):
                        result = await client.run({"image": image}, 20.0)
                        paths.append(result.via)
                        for name, array in result.outputs.items():
                            assert array.tobytes() == want[name][i].tobytes(), (name, i, result.via)
            finally:
                for node in stopped:
                    node.send(signal.SIGCONT)
                await cluster.unfollow(client)
                await local.close()
                await undeploy(cluster, plan)
        return paths

    paths = asyncio.run(run())
    assert LOCAL_PATH not in paths[: 2 * SCENES], "a replica answers where the other one stops"
    assert paths[-1] == LOCAL_PATH


def test_what_is_wrong_is_said_before_anything_is_deployed(trio: list[NodeProcess], tmp_path: Path):
    bad, out = tmp_path / "bad.yaml", tmp_path / "p.yaml"
    text = PIPELINE.read_text().replace("[28, 28]", "[16, 16]")
    bad.write_text(text.replace("model: ", f"model: {PIPELINE.parent}/"))
    done = command("pipeline", bad, "--peers", peers(trio), "--out", out)
    assert done.code == 1
    assert "steps[7] (digit).of: 'digits.values' is float32[8, 16, 16, 1]" in done.err
    assert "takes float32[8, 28, 28, 1]" in done.err
    for assign, message in (
        ("nobody=a", "no step 'nobody'"),
        ("digit=z", "no node 'z' among the peers"),
        ("digit", "give STEP=NODE"),
    ):
        done = command("pipeline", PIPELINE, "--peers", peers(trio), "--assign", assign, "--out", out)
        assert (done.code, message in done.err) == (2, True), done.err
    assert not out.exists()


def test_raw_files_are_no_input_of_a_pipeline(trio: list[NodeProcess], tmp_path: Path):
    out, picture = tmp_path / "plan.yaml", tmp_path / "x.png"
    planned(trio, out, "--assign", BY_HAND)
    picture.write_bytes(b"\x89PNG")
    done = command("run", out, "--input", picture)
    assert (done.code, "a pipeline takes arrays" in done.err) == (2, True), done.err
