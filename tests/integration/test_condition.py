"""What nodes report of their device and their answers, and what requesters say of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.client.runner import Result
from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy, undeploy
from collab.coordinator.judging import Judgement, judge
from collab.coordinator.planning import referring
from collab.core.ids import Digest, RequestId
from collab.core.plan import Plan, to_json
from collab.errors import NotLoaded
from collab.updates.policies.condition import Condition, Known, state_of_plan
from collab.updates.policies.measures import MEASURES
from collab.updates.policies.reference import ReferenceFile, encode_reference, reference_features
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, peers, running

SAMPLED = 100
SETTINGS = """
[condition]
metered = "yes"
time_zone = "Asia/Tokyo"
samples_s = 1000
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    folder: Path = tmp_path_factory.mktemp("pair")
    file = folder / "node.toml"
    file.write_text(SETTINGS)
    with running([NodeProcess(name, folder, "--config", str(file)) for name in "ab"]) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def held_out() -> tuple[Array, Array]:
    with np.load(asset("digits_heldout.npz")) as file:
        return file["images"].astype(np.float32) / np.float32(255), file["labels"]


async def ask(cluster: Cluster, plan: Plan, images: Array) -> list[Result]:
    client = await cluster.open(plan, 4)
    name, shape = plan.inputs[0].name, plan.inputs[0].shape
    answers = [await client.run({name: image.reshape(shape)}) for image in images]
    await cluster.release(client)
    return answers


async def conditions(cluster: Cluster, names: list[str]) -> list[Condition]:
    return [await cluster.control(name).condition() for name in names]


def drift(found: list[Condition], plan: Plan) -> float:
    psi = MEASURES["psi"](state_of_plan(found, plan.name, Known()))
    assert psi is not None
    return psi


async def test_inputs_that_move_and_labels_are_counted_where_they_are(digits: Reference, pair, held_out):
    images, labels = held_out
    plan, blobs = digits.chain([10], ["a", "b"], endpoints(pair))
    features = reference_features(plan.inputs[0].name, images, plan.inputs[0].shape, 64)
    reference = encode_reference(ReferenceFile(examples=len(images), features=tuple(features), accuracy=0.9))
    digest = Digest(hashlib.sha256(reference).hexdigest())
    plan, blobs = referring(plan, digest), {**blobs, digest: reference}
    async with build_cluster() as cluster:
        names = await cluster.reach([node.endpoint for node in pair])
        await deploy(cluster, plan, blobs)
        answers = await ask(cluster, plan, images[:SAMPLED])
        (entry, output) = found = await conditions(cluster, names)
        assert entry.model("digits").inputs
        assert not output.model("digits").inputs
        assert (entry.model("digits").answers, output.model("digits").answers) == (0, SAMPLED)
        assert drift(found, plan) < 0.2
        assert entry.metered is True
        assert entry.time_zone == "Asia/Tokyo"
        assert entry.free_memory_bytes
        assert entry.free_disk_bytes
        assert "b" in {link.peer for link in entry.links}

        name = plan.outputs[0].name
        for answer, label in zip(answers[:20], labels, strict=False):
            right = await judge(cluster, plan, answer.request, Judgement(label=int(label)))
            assert right == (answer.outputs[name].argmax() == label)
        await judge(cluster, plan, answers[20].request, Judgement(correct=False, corrected=True))
        with pytest.raises(NotLoaded, match="somebody has said already"):
            await judge(cluster, plan, answers[0].request, Judgement(correct=True))
        with pytest.raises(NotLoaded, match="does not remember"):
            await judge(cluster, plan, RequestId(bytes(16)), Judgement(correct=True))

        await ask(cluster, plan, 1 - images[:SAMPLED])
        found = await conditions(cluster, names)
        assert drift(found, plan) > 0.2
        state = state_of_plan(found, plan.name, Known(running=3))
        picked = [answer.outputs[name].argmax() for answer in answers[:20]]
        assert state.labelled.baseline == 0.9
        assert [(t.labelled, t.correct) for t in state.labelled.tallies] == [
            (21, int((picked == labels[:20]).sum()))
        ]
        assert (state.answers, state.corrections) == (2 * SAMPLED, 1)
        assert state.latency.baseline_ms > 0

        await undeploy(cluster, plan)


def test_commands_show_it_and_take_labels_by_request(digits: Reference, pair, tmp_path):
    inputs, _ = digits.save(tmp_path, 2)
    made, _ = digits.chain([10], ["a", "b"], endpoints(pair), name="labelled")
    plan = tmp_path / "plan.json"
    plan.write_bytes(to_json(made))
    assert command("deploy", plan).code == 0
    first, second = command("run", plan, "--input", inputs, "--json").json["ids"]
    assert command("feedback", plan, "--request", first, "--wrong", "--json").json == {
        "counted": True,
        "correct": False,
    }
    again = command("feedback", plan, "--request", first, "--wrong")
    assert (again.code, again.errors[0][:6]) == (1, "error:")
    assert command("feedback", plan, "--request", second, "--corrected").code == 0
    assert command("feedback", plan, "--request", "5f0c", "--wrong").code == 2
    assert command("feedback", plan, "--request", second).code == 2

    shown = command("release", "condition", "--peers", peers(pair), "--json").json
    assert {one["device"] for one in shown} == {"a", "b"}
    (model,) = [
        m for one in shown for m in one.get("models", []) if m.get("answers") and m["plan"] == "labelled"
    ]
    assert (model["answers"], model["corrections"]) == (2, 1)
    assert [(day["labelled"], day["correct"]) for day in model["days"]] == [(1, 0)]
    assert "metered" in command("release", "condition", "--peers", peers(pair)).err
