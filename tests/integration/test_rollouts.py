"""Releases into several plans on real nodes: wave by wave, halted, paused, killed, gone back from."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from collab.assembly import build_cluster
from collab.cli.files import read_plan, write_plan
from collab.coordinator.deploy import deploy
from collab.core.plan import Plan
from collab.updates.rollout.definition import rollout_of
from collab.updates.rollout.waves import in_waves
from tests.integration.deployments import endpoints
from tests.integration.edited_models import sharper, shuffled
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, deployed, environment, running

pytestmark = pytest.mark.timeout(120)

NODES = ("a", "b", "c", "d")
BOUNDS = {"copies": 1.0, "touched": 0.5, "canaries": 5, "probation": 20, "slow_factor": 1000}
UNTRIED = {"trial": False, "patience_s": 0}
"""Golden inputs only: nobody asks these plans."""


class Site(NamedTuple):
    """Four nodes and a model for plans on them."""

    folder: Path
    nodes: list[NodeProcess]
    reference: Reference

    def plans(self, name: str) -> dict[str, Path]:
        """A plan on each node and one on two, deployed; their files by their names."""
        made = {f"{name}-{node}": self.reference.chain([], [node], self._at(node)) for node in NODES}
        made[f"{name}-ab"] = self.reference.chain([20], ["a", "b"], self._at("a", "b"))
        (self.folder / name).mkdir(exist_ok=True)
        files = {}
        named = [(plan.replace(name=key), blobs) for key, (plan, blobs) in made.items()]
        for plan, _ in named:
            files[str(plan.name)] = self.folder / name / f"{plan.name}.yaml"
            write_plan(files[str(plan.name)], plan)

        async def bring_up() -> None:
            async with build_cluster() as cluster:
                for plan, blobs in named:
                    await deploy(cluster, plan, blobs)

        asyncio.run(bring_up())
        return files

    def _at(self, *names: str) -> dict[str, str]:
        return {name: place for name, place in endpoints(self.nodes).items() if name in names}

    def rollout(self, name: str, model: bytes, version: int, **fields: Any) -> tuple[Path, list[str]]:
        """A rollout's file, and the plans in the order in which they have their turn."""
        (self.folder / f"{name}.tflite").write_bytes(model)
        tree = {
            "name": name,
            "release": {"bundle": f"{name}.tflite", "family": "digits", "version": version},
            "targets": [{"plans": f"{name}/*.yaml"}],
            "waves": [1, "50%", "100%"],
            "bounds": BOUNDS,
            **fields,
        }
        file = self.folder / f"{name}-rollout.yaml"
        file.write_text(yaml.safe_dump(tree))
        names = [path.stem for path in (self.folder / name).glob("*.yaml")]
        return file, list(in_waves(rollout_of(tree), {plan: {} for plan in names}))

    def epochs(self, name: str) -> dict[str, set[int]]:
        """By plan, the epochs that admit requests on its nodes."""
        found: dict[str, set[int]] = {}
        for plans in deployed(self.nodes).values():
            for plan, epoch, _, state in plans:
                if plan.startswith(f"{name}-") and state == "serving":
                    found.setdefault(plan, set()).add(epoch)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rollouts")
    with running([NodeProcess(name, folder) for name in NODES]) as nodes:
        yield Site(folder, nodes, Reference.of("digits"))


class Rollout:
    """A command that is at a rollout, as a process."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "collab", "release", "rollout", *map(str, words), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def said(self, text: str) -> None:
        """Wait until it says so."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)  # what was said is gone for the next one who waits
            if text in line:
                return
        raise AssertionError(lines)

    def ended(self, within_s: float = 40.0) -> tuple[int, Any]:
        """Its exit code and what it printed."""
        out, err = self.process.communicate(timeout=within_s)
        assert "Traceback" not in err, err
        return self.process.returncode, json.loads(out)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@contextmanager
def rollout(*words: object) -> Iterator[Rollout]:
    made = Rollout(*words)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.kill()


@contextmanager
def controller(out: Path) -> Iterator[None]:
    """One that is at a rollout."""
    words = [sys.executable, "-m", "collab", "controller", "--insecure", "--rollout", str(out), "--json"]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(), text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"event": "ready"}
        yield
    finally:
        process.terminate()
        out_, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "gone back" in out_


def statuses(document: Any) -> dict[str, str]:
    return {one["name"]: one["status"] for one in document["targets"]}


def journal(out: Path) -> Any:
    return command("release", "rollout", "status", out, "--no-ask", "--json").json


def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def asked_meanwhile(plan: Plan, reference: Reference, process: Rollout) -> tuple[int, list[str]]:
    """Ask a plan until a process has ended; how many answers came, and which were not the model's."""
    count, wrong = 0, []
    async with build_cluster(role="client") as cluster:
        client = await cluster.follow(plan)
        while process.process.poll() is None:
            index = count % len(reference.requests)
            answer = await client.run(reference.requests[index], 20.0)
            count += 1
            if not reference.same(index, answer.outputs):
                wrong.append(f"{index}: epoch {answer.epoch}")
        await cluster.unfollow(client)
    return count, wrong


def test_a_bad_release_is_stopped_by_the_canary_and_the_others_are_untouched(site: Site):
    plans = site.plans("bad")
    before = site.epochs("bad")
    file, order = site.rollout("bad", shuffled(), 2)
    with rollout("start", file, "--out", site.folder / "bad-out") as process:
        canary = read_plan(plans[order[0]])
        count, wrong = asyncio.run(asked_meanwhile(canary, site.reference, process))
        code, document = process.ended()
    assert (code, document["phase"]) == (1, "halted")
    assert statuses(document) == {name: "dropped" if name == order[0] else "waiting" for name in order}
    assert site.epochs("bad") == before
    assert (count > 0, wrong) == (True, [])
    (told,) = (one for one in document["targets"] if one["status"] == "dropped")
    assert told["reason"] in document["reason"]


def test_a_rollout_outlives_its_process_a_pause_and_a_node_that_is_away(site: Site):
    site.plans("good")
    file, order = site.rollout("good", sharper(), 2, success="50%", soak_s=1, **UNTRIED)
    seed = next(seed for seed in range(99) if _last(site, file, seed) == "good-d")
    file, order = site.rollout("good", sharper(), 2, success="50%", soak_s=1, seed=seed, **UNTRIED)
    out = site.folder / "good-out"
    before = site.epochs("good")
    away = site.nodes[NODES.index("d")]
    away.stop()
    with rollout("start", file, "--out", out) as process:
        process.said(f"{order[0]}: healthy")
        process.kill()
    killed = command("release", "rollout", "status", out, "--json").json
    assert (killed["at_it"], statuses(killed)[order[0]]) == (False, "healthy")
    left = [name for name in order if statuses(killed)[name] != "healthy"]
    assert {one["name"]: one["difference"] for one in killed["targets"]}[order[0]] == ""
    paused = command("release", "rollout", "pause", out, "--json")
    assert (paused.code, bool(paused.json["paused_by"])) == (0, True)
    with rollout("resume", out) as process:
        process.said(f"{left[0]}: updating")
        second = command("release", "rollout", "resume", out)
        assert second.code == 0, second
        assert command("release", "rollout", "pause", out).code == 0
        until(lambda: "updating" not in statuses(journal(out)).values())
        held = journal(out)
        assert (held["at_it"], bool(held["paused_by"])) == (True, True)
        assert command("release", "rollout", "resume", out).code == 0
        process.said("good-d: offline")
        away.start()
        code, document = process.ended()
    assert (code, document["phase"]) == (0, "done"), document
    assert set(statuses(document).values()) == {"healthy"}
    assert site.epochs("good") == {name: {epoch + 1 for epoch in epochs} for name, epochs in before.items()}
    files = [site.folder / "good" / f"{name}.yaml" for name in order]
    shown = command("release", "status", *files, "--json").json
    assert {(plan["agreement"], *plan["versions"]) for plan in shown["plans"]} == {("same", "digits:2")}
    asked = command("release", "status", out, "--json").json
    assert {one["difference"] for one in asked["targets"]} == {""}


def _last(site: Site, file: Path, seed: int) -> str:
    tree = {**yaml.safe_load(file.read_text()), "seed": seed}
    names = [path.stem for path in (site.folder / "good").glob("*.yaml")]
    return list(in_waves(rollout_of(tree), {plan: {} for plan in names}))[-1]


def test_what_was_done_is_taken_back_on_an_abort(site: Site):
    site.plans("back")
    file, _ = site.rollout("back", sharper(), 2, targets=[{"plans": "back/back-a*.yaml"}], **UNTRIED)
    out = site.folder / "back-out"
    done = command("release", "rollout", "start", file, "--out", out, "--json")
    assert (done.code, done.json["phase"]) == (0, "done"), done
    again = command("release", "rollout", "start", file, "--out", out)
    assert (again.code, "resume goes on" in again.errors[0]) == (2, True)
    with controller(out):
        taken = command("release", "rollout", "start", file, "--out", out)
        assert taken.code == 2, taken
        back = command("release", "rollout", "abort", out, "--rollback", "--json")
        assert (back.code, back.json["phase"]) == (0, "going back"), back
        until(lambda: journal(out)["phase"] == "aborted")
    assert set(statuses(journal(out)).values()) == {"gone back"}
    files = [site.folder / "back" / f"{name}.yaml" for name in ("back-a", "back-ab")]
    shown = command("release", "status", *files, "--json").json
    model = f"model {site.reference.graph.sha256[:12]}"
    assert {(plan["agreement"], *plan["versions"]) for plan in shown["plans"]} == {("same", model)}
    assert {node["epoch"] for plan in shown["plans"] for node in plan["nodes"]} == {3}
    over = command("release", "rollout", "resume", out)
    assert (over.code, "is over" in over.errors[0]) == (2, True)
