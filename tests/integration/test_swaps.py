"""Rounds of a federated run go into a plan that runs, on nodes that train and answer at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from collab.api import Cluster
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.files import read_plan, write_plan
from collab.client.follow import Follower
from collab.client.runner import Result
from collab.coordinator.planning import build_chain
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.errors import CollabError
from collab.federated.trainers.litert import LiteRtEngine
from collab.graph import parse_model
from collab.planner.chain import Assignment
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.bake import bake
from tests.integration.processes import ROOT, NodeProcess, command, deployed, environment, running
from tests.integration.turncoat_trainer import SIGNAL, install

pytestmark = pytest.mark.timeout(120)

NAMES = ("a", "b", "c")
TRAINABLE = ROOT / "tests" / "data" / "trainable_mlp.tflite"
ASKED = 40
WORKERS = 4
TASK = """
name: {name}
model: {model}
rounds: {rounds}
clients: {{minimum: 3, wait_s: 20}}
training: {{epochs: 3, batch_size: 20, learning_rate: 0.1}}
round: {{deadline_s: 30}}
evaluation: {evaluation}
deploy: {{plan: {plan}, every: 1, requests: 5, tolerance: 20}}
"""


class Site(NamedTuple):
    """Three nodes with examples, and what they are asked."""

    folder: Path
    nodes: list[NodeProcess]
    images: np.ndarray

    @property
    def peers(self) -> str:
        return ",".join(node.place for node in self.nodes)

    def plan(self, name: str) -> Path:
        """A plan of the untrained model, a stage on each node, deployed."""
        trainable = TRAINABLE.read_bytes()
        model = self.folder / f"{name}.tflite"
        model.write_bytes(bake(trainable, LiteRtEngine(trainable).initial))
        plan, _ = build_chain(
            PlanName(name),
            model,
            parse_model(model.read_bytes()),
            [1, 2],
            Assignment(tuple((NodeName(node),) for node in NAMES)),
            [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in self.nodes],
        )
        file = self.folder / f"{name}.yaml"
        write_plan(file, plan)
        assert command("deploy", file).code == 0
        return file

    def task(self, name: str, rounds: int, evaluation: str) -> Path:
        file = self.folder / f"{name}-task.yaml"
        file.write_text(
            TASK.format(name=name, model=TRAINABLE, rounds=rounds, evaluation=evaluation, plan=f"{name}.yaml")
        )
        return file

    def epoch(self, name: str) -> int:
        """The newest that each node admits requests to; the same on all."""
        serving = {
            node: max(epoch for plan, epoch, _, state in plans if plan == name and state == "serving")
            for node, plans in deployed(self.nodes).items()
        }
        assert len(set(serving.values())) == 1, serving
        return next(iter(serving.values()))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("swaps")
    path = f"{ROOT}:{install(folder / 'trainers')}"
    with np.load(asset("digits_heldout.npz")) as held_out:
        order = np.random.default_rng(1).permutation(len(held_out["labels"]))
        images, labels = held_out["images"][order], held_out["labels"][order]
    nodes = []
    for number, name in enumerate(NAMES):
        np.savez(folder / f"{name}.npz", x=images[number:-200:3], y=labels[number:-200:3])
        config = folder / f"{name}.toml"
        trainer = 'trainer = "turncoat"\n' if name == "c" else ""
        config.write_text(f'[training]\ndata = "{folder / name}.npz?held_out=0.2&scale=255"\n{trainer}')
        nodes.append(NodeProcess(name, folder, "--config", str(config), env={"PYTHONPATH": path}))
    np.savez(folder / "server.npz", x=images[-200:], y=labels[-200:])
    inputs = images[:ASKED].reshape(ASKED, 1, 28, 28, 1).astype(np.float32) / np.float32(255)
    with running(nodes):
        yield Site(folder, nodes, inputs)


class Asked:
    """Requests without end; which epoch answered what, and what failed."""

    def __init__(self, images: np.ndarray) -> None:
        self.answers: list[tuple[int, int, bytes]] = []
        self.errors: list[str] = []
        self._images = images
        self._stop = False

    def take(self, index: int, result: Result) -> None:
        (output,) = result.outputs.values()
        self.answers.append((result.epoch, index, output.tobytes()))

    async def worker(self, client: Follower, first: int) -> None:
        index = first
        while not self._stop:
            index = (index + 1) % len(self._images)
            try:
                self.take(index, await client.run({"x": self._images[index]}, 20.0))
            except CollabError as error:
                self.errors.append(f"{error.code}: {error}")

    async def meanwhile(self, plan: Path, work: Callable[[], Any]) -> Any:
        """Ask while a blocking call runs, and some more after it."""
        async with build_cluster(role="client") as cluster:
            client = await cluster.follow(await asyncio.to_thread(read_plan, plan), credits=WORKERS)
            workers = [asyncio.ensure_future(self.worker(client, 7 * n)) for n in range(WORKERS)]
            done = await asyncio.to_thread(work)
            after = len(self.answers) + 3 * len(self._images)
            while len(self.answers) < after:  # noqa: ASYNC110 - counted by others
                await asyncio.sleep(0.01)
            self._stop = True
            await asyncio.gather(*workers)
            await cluster.unfollow(client)
        return done


async def asked_by_api(site: Site, plan: Plan) -> bytes:
    """The first request, through the Python API."""
    async with Cluster.connect([node.place for node in site.nodes]) as cluster:
        (output,) = (await cluster.run(plan, {"x": site.images[0]})).values()
        return output.tobytes()


def said_by(model: Path, images: np.ndarray) -> list[bytes]:
    """What a whole model answers, as bytes."""
    stage = LiteRT().load(model)
    found = [stage.run([image])[0].tobytes() for image in images]
    stage.close()
    return found


def fed_run(site: Site, task: Path, out: Path) -> dict[str, Any]:
    """A run as a process of its own; it must end well."""
    words = ["fed", "run", str(task), "--peers", site.peers, "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "collab", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def swaps(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["swap"] for line in (out / "rounds.jsonl").read_text().splitlines()]


def test_two_rounds_go_into_a_plan_under_load_and_one_goes_back(site: Site):
    plan, out = site.plan("digits"), site.folder / "run"
    evaluation = f"{{where: server, data: '{site.folder / 'server.npz'}?held_out=0.9&scale=255'}}"
    task = site.task("digits", 2, evaluation)
    before = site.epoch("digits")
    asked = Asked(site.images)
    document = asyncio.run(asked.meanwhile(plan, lambda: fed_run(site, task, out)))

    assert asked.errors == []
    told = swaps(out)
    assert [swap["swapped"] for swap in told if swap["round"] == 2] == [True], told
    assert told[-1]["candidate"] > told[-1]["running"]
    assert told[-1]["requests"] == 5
    models = {before: site.folder / "digits.tflite"}
    models |= {
        swap["epoch"]: out / "deploy" / f"round-{swap['round']}.tflite" for swap in told if swap["swapped"]
    }
    answers = {epoch: said_by(model, site.images) for epoch, model in models.items()}
    last = document["serving"]["epoch"]
    assert {before, last} <= {epoch for epoch, _, _ in asked.answers} <= models.keys()
    assert [epoch for epoch, _, _ in asked.answers[-ASKED:]] == [last] * ASKED
    mixed = [entry for entry in asked.answers if entry[2] != answers[entry[0]][entry[1]]]
    assert mixed == []
    assert site.epoch("digits") == last
    np.savez(site.folder / "x.npz", x=site.images)
    np.savez(site.folder / "y.npz", **{read_plan(plan).outputs[0].name: np.zeros((ASKED, 1, 10), np.float32)})
    since = command("run", plan, "--input", site.folder / "x.npz", "--json")
    assert (since.code, since.json["requests"], since.json["failed"]) == (0, ASKED, 0), since
    strict = command("run", plan, "--input", site.folder / "x.npz", "--expect", site.folder / "y.npz")
    assert (strict.code, "runs another version" in strict.errors[0]) == (1, True), strict

    through_api = asyncio.run(asked_by_api(site, read_plan(plan)))
    assert through_api == answers[last][0], "who has the older plan file does not put its weights back"
    assert site.epoch("digits") == last

    back = command("fed", "rollback", out, "--json").json
    assert (back["from_round"], back["epoch"]) == (2, last + 1)
    again = Asked(site.images)
    asyncio.run(again.meanwhile(plan.with_name("digits.current.yaml"), lambda: None))
    former = out / "deploy" / f"round-{back['round']}.tflite" if back["round"] else models[before]
    wanted = said_by(former, site.images)
    assert again.errors == []
    assert all(epoch == last + 1 and got == wanted[index] for epoch, index, got in again.answers)
    status = command("fed", "status", out, "--json").json
    assert (status["serving"]["round"], status["serving"]["epoch"]) == (back["round"], last + 1)
    assert "rolled back" in status["said"]
    freed = command("fed", "resume", out, "--deploy", plan, "--json")
    assert (freed.code, freed.json["serving"]["held"]) == (0, ""), freed
    assert freed.json["serving"] == {**status["serving"], "held": ""}


def test_a_model_that_a_client_has_poisoned_is_refused_and_the_old_one_stays(site: Site):
    site.plan("poison")
    out = site.folder / "poisoned"
    (site.folder / SIGNAL).touch()
    try:
        task = site.task("poison", 3, "{where: clients}")
        done = command("fed", "run", task, "--peers", site.peers, "--out", out, "--json")
    finally:
        (site.folder / SIGNAL).unlink()
    assert done.code == 0, done
    document = done.json
    first, *others = swaps(out)
    assert first["swapped"], first
    assert (document["serving"]["round"], document["left_out"]) == (1, {}), "the gate let all pass"
    for swap in others:
        assert not swap["swapped"]
        assert "held-out examples" in swap["reason"], swap
        assert swap["candidate"] < swap["running"] == first["candidate"]
    assert site.epoch("poison") == first["epoch"]
    asked = Asked(site.images)
    asyncio.run(asked.meanwhile(site.folder / "poison.current.yaml", lambda: None))
    wanted = said_by(out / "deploy" / "round-1.tflite", site.images)
    assert (asked.errors, {epoch for epoch, _, _ in asked.answers}) == ([], {first["epoch"]})
    assert all(got == wanted[index] for _, index, got in asked.answers)


def test_a_plan_of_another_model_is_refused_before_anything_is_trained(site: Site):
    model = asset("digits.tflite")
    plan, _ = build_chain(
        PlanName("other"),
        model,
        parse_model(model.read_bytes()),
        [10],
        Assignment(((NodeName("a"),), (NodeName("b"),))),
        [NodeRef(name=NodeName(n.name), endpoints=(n.endpoint,)) for n in site.nodes[:2]],
    )
    file = site.folder / "other.yaml"
    write_plan(file, plan)
    task = site.task("other", 1, "{where: clients}")
    words = ("fed", "run", task, "--peers", site.peers, "--out", site.folder / "other-run")
    refused = command(*words)
    assert (refused.code, "not deployed" in refused.errors[0]) == (1, True), refused
    assert command("deploy", file).code == 0
    refused = command("fed", "resume", site.folder / "other-run")
    assert refused.code == 1
    assert "in the model that runs" in refused.errors[0]
    assert not (site.folder / "other-run" / "rounds.jsonl").exists()
