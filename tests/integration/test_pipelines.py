"""Pipelines of different models over real nodes: answers are those of one process, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collab.assets import path as asset
from collab.toolchain.scenes import scene
from tests.integration.processes import NodeProcess, command, peers, running

SCENES = 12


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    folder: Path = tmp_path_factory.mktemp("three")
    with running([NodeProcess(name, folder) for name in "abc"]) as nodes:
        yield nodes


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
    done = command("pipeline", asset("scene_pipeline.yaml"), "--input", inputs, "--output", expected)
    assert done.code == 0, done.err
    return inputs, expected


def test_a_placed_pipeline_answers_as_one_process_does(
    three: list[NodeProcess], asked: tuple[Path, Path], tmp_path: Path
):
    inputs, expected = asked
    out = tmp_path / "plan.yaml"
    placed = "small=a,scaled=a,detect=a,cells=a,boxes=b,crops=b,digits=b,digit=b+c"
    done = command(
        *("pipeline", asset("scene_pipeline.yaml"), "--peers", peers(three)),
        *("--assign", placed, "--out", out, "--json"),
    )
    assert done.code == 0, done.err
    assert command("deploy", out).code == 0
    ran = command("run", out, "--input", inputs, "--expect", expected, "--repeat", 3, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["wrong"], ran.json["failed"], ran.json["compared"]) == (0, 0, "exact")
    assert ran.json["requests"] == 3 * SCENES
    assert command("undeploy", out).code == 0
