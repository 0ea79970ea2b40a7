"""Ensembles and cascades as their commands plan them, over real nodes and real digits."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collab.assets import path as asset
from collab.cli.files import read_plan
from collab.client.runner import Result
from collab.codec.tensors import Array
from collab.coordinator.ensembles import hits_of
from collab.coordinator.planning import stage_blobs
from collab.core.plan import FireQuorum, Plan
from collab.runtime.combiners import COMBINERS
from collab.runtime.guards import passes
from tests.integration.deployments import deployed_plan
from tests.integration.ensembles import alone, linear
from tests.integration.models import PATHS
from tests.integration.processes import NodeProcess, command, peers, running

TRAIN, ASKED = 250, 30
"""Held-out digits that the small model learns from, and how many of the others are asked."""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    folder: Path = tmp_path_factory.mktemp("four")
    with running([NodeProcess(name, folder) for name in "abcd"]) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def held_out() -> tuple[Array, Array]:
    """Images as the float models take them, and labels."""
    with np.load(asset("digits_heldout.npz")) as file:
        return file["images"].astype(np.float32)[:, None] / np.float32(255), file["labels"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, held_out: tuple[Array, Array]) -> Path:
    """A small model with names of its own, one that gives NaN, and a validation file."""
    made = tmp_path_factory.mktemp("models")
    images, labels = held_out
    flat = images[:TRAIN].reshape(TRAIN, -1)
    wanted = np.eye(10)[labels[:TRAIN]]
    ridge = np.linalg.solve(flat.T @ flat + 20 * np.eye(784), flat.T @ wanted)
    (made / "small.tflite").write_bytes(linear(8 * ridge.T))
    (made / "nan.tflite").write_bytes(linear(np.full((10, 784), np.nan)))
    np.savez(made / "val.npz", image=images[TRAIN:], labels=labels[TRAIN:])
    return made


def planned(folder: Path, nodes: list[NodeProcess], *arguments: object) -> tuple[Plan, Any]:
    out = folder / "plan.yaml"
    done = command(*arguments, "--peers", peers(nodes), "--out", out, "--json")
    assert done.code == 0, done.err
    return read_plan(out), done.json


def ask(
    plan: Plan, images: Array, name: str = "image", stopped: NodeProcess | None = None, at_a_time: int = 50
) -> list[Result]:
    """Deploy, ask, undeploy; while it is asked a node may be stopped."""
    blobs = stage_blobs(plan, Path())

    async def run() -> list[Result]:
        answers: list[Result] = []
        async with deployed_plan(plan, blobs, 64) as (_, client):
            try:
                if stopped is not None:
                    stopped.send(signal.SIGSTOP)
                for start in range(0, len(images), at_a_time):
                    batch = images[start : start + at_a_time]
                    answers += await asyncio.gather(*(client.run({name: image}, 20.0) for image in batch))
            finally:
                if stopped is not None:
                    stopped.send(signal.SIGCONT)
        return answers

    return asyncio.run(run())


def same(got: Mapping[str, Array], want: Array) -> bool:
    made = got["probabilities"]
    return made.dtype == want.dtype and made.tobytes() == np.asarray(want).tobytes()


# --- ensembles --------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["mean", "weighted", "vote", "max", "median"])
def test_an_ensemble_answers_what_the_combiner_makes_of_its_members(
    four: list[NodeProcess], folder: Path, held_out: tuple[Array, Array], combine: str
):
    images = held_out[0][TRAIN : TRAIN + ASKED]
    models = [PATHS["digits"], PATHS["digits_dynamic"], folder / "small.tflite"]
    weigh = ["--weights", folder / "val.npz"] if combine in ("weighted", "vote") else []
    plan, told = planned(
        folder,
        four,
        *("ensemble", "--member", f"{models[0]}@a,b:14", "--member", f"{models[1]}@b+c"),
        *("--member", f"{models[2]}@c", "--combine", combine, "--at-node", "d", *weigh),
    )
    weights = plan.stage("answer").weights or (1.0, 1.0, 1.0)
    if weigh:
        assert weights[2] < min(weights[:2]), "the linear model is right less often"
        assert [row["weight"] for row in told["members"]] == list(weights)
        assert told["validation"]["accuracy"] > 0.95
    assert plan.stage("answer").nodes == ("d",)
    each = list(zip(*(alone(model, images) for model in models), strict=True))
    expected = [
        COMBINERS[combine]([{"probabilities": p} for p in answers], weights)["probabilities"]
        for answers in each
    ]
    answers = ask(plan, images)
    assert [same(a.outputs, want) for a, want in zip(answers, expected, strict=True)] == [True] * ASKED
    for answer, members in zip(answers, each, strict=True):
        assert answer.outputs["members"].tolist() == [1, 1, 1]
        picks = [int(p.argmax()) == int(answer.outputs["probabilities"].argmax()) for p in members]
        assert answer.outputs["agreement"].tolist() == picks
        assert 0 < float(answer.outputs["confidence"]) <= 1
    assert any(a.outputs["agreement"].min() == 0 for a in answers), "or agreement says nothing"


@pytest.mark.parametrize("wait_ms", [0, 2000])
def test_a_member_that_gives_nan_is_left_out_and_told(
    four: list[NodeProcess], folder: Path, held_out: tuple[Array, Array], wait_ms: int
):
    images = held_out[0][TRAIN : TRAIN + ASKED]
    models = [PATHS["digits"], folder / "nan.tflite", PATHS["digits_dynamic"]]
    members = [x for m, node in zip(models, "abc", strict=True) for x in ("--member", f"{m}@{node}")]
    plan, _ = planned(
        folder, four, "ensemble", *members, "--quorum", 2, "--wait-ms", wait_ms, "--at-node", "d"
    )
    expected = [
        COMBINERS["mean"]([{"p": x}, {"p": y}], [1, 1])["p"]
        for x, y in zip(alone(models[0], images), alone(models[2], images), strict=True)
    ]
    answers = ask(plan, images)
    assert [same(a.outputs, want) for a, want in zip(answers, expected, strict=True)] == [True] * ASKED
    told = {tuple(a.outputs["members"].tolist()) for a in answers}
    # Without patience the answer may go before the member has said that it has nothing.
    assert told <= ({(1, -1, 1)} if wait_ms else {(1, -1, 1), (1, 0, 1)})
    assert {a.outputs["agreement"][1] for a in answers} == {0}


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_quorum_answers_while_a_member_is_stopped(
    four: list[NodeProcess], folder: Path, held_out: tuple[Array, Array], stopped: int
):
    images = held_out[0][TRAIN : TRAIN + 10]
    models = [PATHS["digits"], PATHS["digits_dynamic"], folder / "small.tflite"]
    members = [x for m, node in zip(models, "abc", strict=True) for x in ("--member", f"{m}@{node}")]
    plan, _ = planned(folder, four, "ensemble", *members, "--quorum", 2, "--wait-ms", 20, "--at-node", "d")
    assert plan.stage("answer").fires == FireQuorum(k=2, wait_ms=20)
    left = [model for i, model in enumerate(models) if i != stopped]
    expected = [
        COMBINERS["mean"]([{"p": x}, {"p": y}], [1, 1])["p"]
        for x, y in zip(*(alone(model, images) for model in left), strict=True)
    ]
    answers = ask(plan, images, stopped=four[stopped])
    assert [same(a.outputs, want) for a, want in zip(answers, expected, strict=True)] == [True] * len(images)
    took = [int(i != stopped) for i in range(3)]
    assert all(a.outputs["members"].tolist() == took for a in answers)


# --- cascades ---------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["max", "margin", "entropy"])
def test_a_cascade_is_as_right_and_asks_as_often_as_calibrated(
    four: list[NodeProcess], folder: Path, held_out: tuple[Array, Array], measure: str
):
    images, labels = held_out[0][TRAIN:], held_out[1][TRAIN:]
    plan, told = planned(
        folder,
        four,
        *("cascade", f"{folder / 'small.tflite'}@a", f"{PATHS['digits']}@b,c:14", "--measure", measure),
        *("--validation", small_names(folder, images, labels), "--accuracy-drop", 0.03),
    )
    assert 0.05 < told["escalation"]["share"] < 0.9
    assert told["bytes"]["sure"] < told["bytes"]["expected"] < told["bytes"]["unsure"]
    assert told["drop"] <= told["drop_bound"] <= 0.03
    small, large = alone(folder / "small.tflite", images), alone(PATHS["digits"], images)
    guard = next(edge.guard for edge in plan.edges if edge.target == "answer" and edge.guard is not None)
    sure = [passes(guard, answer) for answer in small]
    answers = ask(plan, images, "serving_default_x")
    for answer, kept, one, other in zip(answers, sure, small, large, strict=True):
        assert answer.outputs["members"].tolist() == ([1, 0] if kept else [0, 1])
        assert answer.outputs["Identity"].tobytes() == (one if kept else other).tobytes()
        assert any(hop.node == "c" for hop in answer.hops) is not kept
    share = np.mean([answer.outputs["members"][1] for answer in answers])
    assert share == pytest.approx(told["escalation"]["share"], abs=1e-4)
    right = hits_of(np.stack([answer.outputs["Identity"] for answer in answers]), labels).mean()
    assert right == pytest.approx(told["cascade"]["accuracy"], abs=1e-4)


def small_names(folder: Path, images: Array, labels: Array) -> Path:
    """The validation file under the names of the model that is asked first."""
    file = folder / "small.npz"
    np.savez(file, serving_default_x=images, labels=labels)
    return file


def test_the_plans_are_deployed_and_run_by_their_commands(
    four: list[NodeProcess], folder: Path, held_out: tuple[Array, Array]
):
    images = held_out[0][TRAIN : TRAIN + 10]
    models = [PATHS["digits"], PATHS["digits_dynamic"]]
    members = [x for m, node in zip(models, "ab", strict=True) for x in ("--member", f"{m}@{node}")]
    planned(folder, four, "ensemble", *members, "--at-node", "c", "--name", "pair")
    each = zip(*(alone(model, images) for model in models), strict=True)
    merged = [COMBINERS["mean"]([{"p": p} for p in answers], [1, 1])["p"] for answers in each]
    np.savez(folder / "x.npz", image=images)
    np.savez(folder / "y.npz", probabilities=np.stack(merged))
    plan = folder / "plan.yaml"
    assert command("deploy", plan).code == 0
    done = command("run", plan, "--input", folder / "x.npz", "--expect", folder / "y.npz", "--json")
    assert done.code == 0, done.err
    assert (done.json["requests"], done.json["failed"], done.json["wrong"]) == (10, 0, 0)
    assert done.json["compared"] == "exact"
    assert command("undeploy", plan).code == 0


# --- refusals ---------------------------------------------------------------------------

DIGITS = PATHS["digits"]
ONE, TWO = f"{DIGITS}@a", f"{DIGITS}@b"
THREE = ("--member", ONE, "--member", TWO, "--member", f"{DIGITS}@c")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ensemble", "--member", ONE], 2, "--member: 1; an ensemble has 2 at least"),
        (["ensemble", "--member", "m.tflite", "--member", TWO], 2, "give MODEL@NODE"),
        (
            ["ensemble", "--member", f"{DIGITS}@a,b:3,4", "--member", TWO],
            2,
            "2 cuts make 3 stages, and 2 are",
        ),
        (["ensemble", "--member", ONE, "--member", TWO, "--combine", "best"], 2, "--combine: 'best' is not"),
        (["ensemble", "--member", ONE, "--member", TWO, "--combine", "weighted"], 2, "give --weights"),
        (["ensemble", "--member", ONE, "--member", TWO, "--weights", "v.npz"], 2, "'mean' weighs nothing"),
        (["ensemble", "--member", ONE, "--member", TWO, "--quorum", "3"], 2, "--quorum 3: give 1 to 2"),
        (["ensemble", "--member", ONE, "--member", TWO, "--quarantine"], 2, "--quarantine: 2 members; agree"),
        (["ensemble", *THREE, "--quarantine"], 2, "--quarantine: give --weights VAL.npz"),
        (
            ["ensemble", *THREE, "--weights", "v.npz", "--quorum", "1", "--quarantine"],
            2,
            "--quarantine: --quorum 1 may be of members in quarantine alone; give 2 or more",
        ),
        (["ensemble", *THREE, "--weights", "v.npz", "--no-quarantine"], 2, "'mean' weighs nothing"),
        (["ensemble", "--member", ONE, "--member", TWO, "--wait-ms", "3"], 2, "give --quorum as well"),
        (["ensemble", "--member", ONE, "--member", f"{DIGITS}@z"], 2, "no node 'z' among the peers"),
        (["ensemble", "--member", ONE, "--member", TWO, "--at-node", "y"], 2, "--at-node y: no node 'y'"),
        (["ensemble", "--member", ONE, "--member", f"{PATHS['digits_int8']}@b"], 1, "is int8"),
        (["cascade", ONE, TWO, "--validation", "none.npz"], 1, "--validation none.npz: No such file"),
        (["cascade", ONE, TWO, "--validation", "v.npz", "--measure", "gut"], 2, "--measure 'gut': use one"),
        (
            ["cascade", ONE, TWO, "--validation", "v.npz", "--accuracy-drop", "0"],
            2,
            "--accuracy-drop 0: give",
        ),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(
    four: list[NodeProcess], tmp_path: Path, arguments: list[str], code: int, words: str
):
    done = command(*arguments, "--peers", peers(four), "--out", tmp_path / "plan.yaml")
    assert (done.code, len(done.errors)) == (code, 1), done
    assert words in done.errors[0], done.errors
    assert not (tmp_path / "plan.yaml").exists()


def test_without_peers_no_model_is_opened(tmp_path: Path):
    done = command("cascade", "x@a", "y@b", "--validation", "v.npz", "--out", tmp_path / "plan.yaml")
    assert (done.code, done.errors) == (2, ["error: no peers: give --peers HOST:PORT,… or set COLLAB_PEERS"])
