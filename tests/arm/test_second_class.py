"""An emulated Arm board beside this machine: a second runtime class in one plan."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.connect import reach
from collab.coordinator import planning
from collab.coordinator.cluster import Cluster, NodeView
from collab.coordinator.comparing import choose_comparison
from collab.coordinator.deploy import deploy
from collab.coordinator.local import LocalNode
from collab.coordinator.workload import Comparison, load
from collab.core.ids import NodeName, PlanName
from collab.core.plan import Plan
from collab.graph import Graph, read_model
from collab.planner.chain import Assignment
from collab.runtime.litert import LiteRT

pytestmark = [pytest.mark.heavy("arm"), pytest.mark.timeout(900)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
IMAGES = 40
MODEL = asset("digits.tflite")
HERE_CLASS = str(LiteRT().runtime_class())
HELD_OUT = asset("digits_heldout.npz")
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def board() -> list[str]:
    """Command of a Python that believes it runs on a Cortex-A72."""
    built = subprocess.run(
        [HERE / "build_prefix.sh"], capture_output=True, text=True, timeout=600, check=False
    )
    assert built.returncode == 0, built.stderr
    return [str(Path(built.stdout.strip()) / "python")]


@pytest.fixture
async def mixed(
    board: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Cluster, list[NodeView]]]:
    """A node of this machine and one on the board, both reached."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    gateway = LocalNode("gateway", tmp_path)
    emulated = LocalNode("board", tmp_path, python=board, start_s=300.0)
    try:
        await gateway.start()
        await emulated.start()
        async with build_cluster() as cluster:
            yield cluster, await reach(cluster, [gateway.endpoint, emulated.endpoint])
    finally:
        await emulated.stop()
        await gateway.stop()


@pytest.fixture(scope="module")
def held_out() -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]], np.ndarray]:
    """Requests, the whole model's answers on this machine, labels."""
    with np.load(HELD_OUT) as file:
        images = file["images"][:IMAGES].astype(np.float32)[:, None] / np.float32(255)
        labels = file["labels"][:IMAGES]
    whole = LiteRT().load(MODEL, 1)
    answers = [{"probabilities": whole.run([image])[0]} for image in images]
    whole.close()
    return [{"image": image} for image in images], answers, labels


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_model(MODEL)


async def _deployed(cluster: Cluster, views: list[NodeView], graph: Graph, at: int) -> Plan:
    plan, blobs = planning.build_chain(
        PlanName("mixed"),
        MODEL,
        graph,
        [at],
        Assignment(((NodeName("gateway"),), (NodeName("board"),))),
        [view.ref for view in views],
    )
    await deploy(cluster, plan, blobs)
    return plan


async def test_two_runtime_classes_in_one_plan_answer_close_to_the_whole_model_with_the_same_labels(
    mixed: tuple[Cluster, list[NodeView]],
    graph: Graph,
    held_out: tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]], np.ndarray],
) -> None:
    cluster, views = mixed
    here, there = (view.description.runtime_class for view in views)
    assert there.machine == "aarch64"
    assert "asimd" in there.cpu_features, "not an Arm-style cpuinfo"
    assert "asimddp" not in there.cpu_features, "not a Cortex-A72's cpuinfo"
    assert here.machine != there.machine

    plan = await _deployed(cluster, views, graph, at=22)
    requests, expected, labels = held_out
    comparison = await choose_comparison(cluster, plan, HERE_CLASS)
    assert comparison.name == "close", "two classes must never be called exact"
    client = await cluster.open(plan, 1)
    report, answers = await load(
        client, requests, deadline_s=DEADLINE_S, expected=expected, comparison=comparison, keep=True
    )
    assert (report.requests, report.failed, report.wrong) == (IMAGES, 0, 0), report.errors
    got = [int(np.argmax(answer["probabilities"])) for answer in answers if answer is not None]
    assert got == [int(np.argmax(answer["probabilities"])) for answer in expected]
    assert np.mean(np.array(got) == labels) >= 0.95

    exact = Comparison(exact=True, atol=0, rtol=0)
    differing = sum(not exact.agrees(a, e) for a, e in zip(answers, expected, strict=True) if a is not None)
    assert differing > 0, "bit-identical across classes: the board is not a class of its own"


def test_within_the_emulated_class_a_split_is_bit_identical(board: list[str], tmp_path: Path) -> None:
    script = tmp_path / "verify.py"
    script.write_text(
        "import sys, json\n"
        "from collab.graph import Graph, read_model, verify\n"
        "from collab.runtime.litert import LiteRT\n"
        "graph = read_model(sys.argv[1])\n"
        "report = verify(graph, [(7,), (22,)], lambda data: LiteRT().load(data, 1).run)\n"
        "print(json.dumps([report.tried, report.exact, report.vacuous]))\n"
    )
    done = subprocess.run(
        [*board, script, MODEL],
        capture_output=True,
        text=True,
        timeout=600,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[2, 2, false]"
