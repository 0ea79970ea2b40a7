"""A member that becomes confidently wrong is left out on real nodes, reported, and taken in again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collab.assets import path as asset
from collab.cli.files import read_plan
from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.runtime.combiners import Merge
from tests.integration.ensembles import alone, linear
from tests.integration.models import PATHS
from tests.integration.processes import NodeProcess, command, peers, running

LEARNED, ASKED = 250, 60


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    folder: Path = tmp_path_factory.mktemp("two")
    with running([NodeProcess(name, folder) for name in "ab"]) as nodes:
        yield nodes


def moody(images: Array, labels: Array) -> bytes:
    """A linear classifier that is sure of class 0 whenever an image's first pixel is set."""
    flat = images.reshape(len(images), -1)
    ridge = np.linalg.solve(flat.T @ flat + 20 * np.eye(784), flat.T @ np.eye(10)[labels])
    weights = 8 * ridge.T
    weights[0, 0] = 1000
    return linear(weights)


def told(plan: Plan, models: list[Path], images: Array) -> list[dict[str, Array]]:
    """What the combiner makes of the members' answers in this process, one request after another."""
    merge = Merge(plan, plan.stage("answer"))
    each = zip(*(alone(model, images) for model in models), strict=True)
    return [merge([{"probabilities": p} for p in answers]) for answers in each]


def run(plan: Path, name: str, images: Array, answers: list[dict[str, Array]], *more: str) -> Any:
    folder = plan.parent
    np.savez(folder / f"{name}-x.npz", image=images)
    np.savez(folder / f"{name}-y.npz", probabilities=np.stack([a["probabilities"] for a in answers]))
    done = command(
        *("run", plan, "--input", folder / f"{name}-x.npz", "--expect", folder / f"{name}-y.npz", *more)
    )
    assert done.code == 0, done.err
    return done


def shares(done: Any) -> dict[str, dict[str, float]]:
    return {row["name"]: row for row in done.json["ensemble"]["members"]}


def test_a_member_that_turns_wrong_is_left_out_reported_and_taken_in_again(
    two: list[NodeProcess], tmp_path: Path
):
    with np.load(asset("digits_heldout.npz")) as file:
        images, labels = file["images"].astype(np.float32)[:, None] / np.float32(255), file["labels"]
    (tmp_path / "moody.tflite").write_bytes(moody(images[:LEARNED], labels[:LEARNED]))
    np.savez(tmp_path / "val.npz", image=images[LEARNED:], labels=labels[LEARNED:])
    models = [PATHS["digits"], PATHS["digits_dynamic"], tmp_path / "moody.tflite"]
    file = tmp_path / "trio.yaml"
    done = command(
        *("ensemble", "--member", f"{models[0]}@a", "--member", f"{models[1]}@b"),
        *("--member", f"{models[2]}@b", "--combine", "median", "--weights", tmp_path / "val.npz"),
        *("--at-node", "a", "--peers", peers(two), "--out", file, "--json"),
    )
    assert done.code == 0, done.err
    plan = read_plan(file)
    rule = plan.stage("answer").quarantine
    assert rule is not None
    assert [row["least"] for row in done.json["members"]] == list(rule.least)
    assert rule.least[2] < min(rule.least[:2]), "the linear model agrees less often when it behaves, too"
    assert command("deploy", file).code == 0

    spoilt = images[LEARNED : LEARNED + ASKED].copy()
    spoilt[:, 0, 0, 0, 0] = 1
    fine = images[LEARNED : LEARNED + ASKED]
    expected = told(plan, models, np.concatenate([spoilt, fine, fine[:10]]))
    states = [answer["members"].tolist() for answer in expected]
    assert states[50:ASKED] == [[1, 1, -2]] * (ASKED - 50), "put out within 50 requests"
    assert states[-10:] == [[1, 1, 1]] * 10, "and taken in again within 60"

    first = run(file, "spoilt", spoilt, expected[:ASKED], "--json")
    left_out = states[:ASKED].count([1, 1, -2])
    assert shares(first)["member-2"]["quarantined"] == round(left_out / ASKED, 4)
    assert shares(first)["member-2"]["took_part"] == round(1 - left_out / ASKED, 4)
    assert shares(first)["member-0"]["took_part"] == 1
    assert shares(first)["member-2"]["agreement"] < 0.5 < shares(first)["member-0"]["agreement"]
    assert 0 < first.json["ensemble"]["confidence"]["mean"] <= 1

    shown = run(file, "fine", fine, expected[ASKED : 2 * ASKED])
    assert "who answered" in shown.err
    last = run(file, "last", fine[:10], expected[2 * ASKED :], "--json")
    assert {row["took_part"] for row in shares(last).values()} == {1}

    status = command("status", "--peers", peers(two), "--json")
    counted = {node["name"]: node["counters"] for node in status.json["nodes"]}
    assert counted["a"]["quarantined:trio/answer/member-2"] == states.count([1, 1, -2])
    assert counted["a"]["quarantined:trio/answer/member-0"] == 0
    log = two[0].text()
    assert log.count("trio/answer: member-2 agrees") == 2
    assert log.count("and is left out") == log.count("and is taken in again") == 1
    assert command("undeploy", file).code == 0


def test_what_answered_is_shown_to_people_too(two: list[NodeProcess], tmp_path: Path):
    with np.load(asset("digits_heldout.npz")) as held_out:
        images, labels = held_out["images"].astype(np.float32)[:, None] / np.float32(255), held_out["labels"]
    (tmp_path / "small.tflite").write_bytes(moody(images[:LEARNED], labels[:LEARNED]))
    np.savez(tmp_path / "val.npz", serving_default_x=images[LEARNED:], labels=labels[LEARNED:])
    np.savez(tmp_path / "x.npz", serving_default_x=images[LEARNED : LEARNED + 20])
    file = tmp_path / "cascade.yaml"
    done = command(
        *("cascade", f"{tmp_path / 'small.tflite'}@a", f"{PATHS['digits']}@b", "--measure", "margin"),
        *("--validation", tmp_path / "val.npz", "--accuracy-drop", 0.03, "--peers", peers(two)),
        *("--out", file),
    )
    assert done.code == 0, done.err
    assert command("deploy", file).code == 0
    done = command("run", file, "--input", tmp_path / "x.npz", "--json")
    answered = done.json["cascade"]["answered"]
    assert done.json["cascade"]["answers"] == 20
    assert 0 < answered["small"] < 1
    assert answered["small"] + answered["large"] == pytest.approx(1)
    assert "ensemble" not in done.json
    done = command("run", file, "--input", tmp_path / "x.npz")
    assert f"answered by small {answered['small']:.1%}, large {answered['large']:.1%}" in done.err
    assert command("undeploy", file).code == 0
