"""Releases into several plans on real nodes: wave by wave, halted, paused, killed, gone back from."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from collab.assembly import build_cluster
from collab.cli.files import read_plan, write_plan
from collab.client import participant
from collab.coordinator.deploy import deploy
from collab.core.plan import Plan
from collab.updates.rollout.definition import rollout_of
from collab.updates.rollout.waves import in_waves
from tests.integration.deployments import endpoints
from tests.integration.edited_models import sharper, shuffled
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, deployed, environment, running

pytestmark = pytest.mark.timeout(120)

WITHIN_S = 40.0
BOUNDS = {"copies": 1.0, "touched": 0.5, "canaries": 5, "probation": 10, "slow_factor": 1000}
UNTRIED = {"trial": False, "patience_s": 0}
"""Golden inputs only: nobody asks these plans."""


class Site(NamedTuple):
    """Two nodes and a model for plans on them."""

    folder: Path
    nodes: list[NodeProcess]
    reference: Reference

    def plans(self, what: str, nodes: Sequence[NodeProcess]) -> tuple[str, dict[str, Path]]:
        """A plan on each node and one on a and b, deployed: what their names begin with, and their files."""
        name = f"{what}{len(list(self.folder.glob(f'{what}*/')))}"
        made = {
            f"{name}-{at}": self.reference.chain([], [at], {at: place})
            for at, place in endpoints(nodes).items()
        }
        made[f"{name}-ab"] = self.reference.chain([20], ["a", "b"], endpoints(self.nodes))
        (self.folder / name).mkdir()
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
        return name, files

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

    def epochs(self, name: str, *more: NodeProcess) -> dict[str, set[int]]:
        """By plan, the epochs that admit requests on these nodes and on more of them."""
        found: dict[str, set[int]] = {}
        for plans in deployed([*self.nodes, *more]).values():
            for plan, epoch, _, state in plans:
                if plan.startswith(f"{name}-") and state == "serving":
                    found.setdefault(plan, set()).add(epoch)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rollouts")
    with running([NodeProcess(name, folder) for name in ("a", "b")]) as nodes:
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
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self._lines.append(line)
                self._heard.notify_all()

    def said(self, text: str, within_s: float = WITHIN_S) -> None:
        """Wait until it says so, unless it has."""
        with self._heard:
            found = self._heard.wait_for(lambda: any(text in line for line in self._lines), within_s)
        assert found, (text, self.process.poll(), self._lines)

    def heeds(self, what: str, out: Path) -> None:
        """Another command tells it what is wanted; it would be at the rollout itself if this had ended."""
        assert self.process.poll() is None, self._lines
        told = command("release", "rollout", what, out)
        assert told.code == 0, (told, self._lines)

    def ended(self, within_s: float = WITHIN_S) -> tuple[int, Any]:
        """Its exit code and what it printed."""
        code = self.process.wait(within_s)
        self._reader.join()
        assert not any("Traceback" in line for line in self._lines), self._lines
        assert self.process.stdout is not None
        return code, json.loads(self.process.stdout.read())

    def close(self) -> None:
        """End it at once, as a power cut would, unless it has ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def rollout(*words: object) -> Iterator[Rollout]:
    made = Rollout(*words)
    try:
        yield made
    finally:
        made.close()


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


@contextmanager
def away(node: NodeProcess) -> Iterator[None]:
    """It is not there."""
    node.stop()
    try:
        yield
    finally:
        node.start()


def statuses(document: Any) -> dict[str, str]:
    return {one["name"]: one["status"] for one in document["targets"]}


def journal(out: Path) -> Any:
    return command("release", "rollout", "status", out, "--no-ask", "--json").json


def until(holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
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


def test_a_bad_release_is_stopped_by_the_canary_and_the_others_are_untouched(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(participant, "LOOK_S", 0.3)
    name, plans = site.plans("bad", site.nodes)
    before = site.epochs(name)
    file, order = site.rollout(name, shuffled(), 2)
    with rollout("start", file, "--out", site.folder / name / "out") as process:
        canary = read_plan(plans[order[0]])
        count, wrong = asyncio.run(asked_meanwhile(canary, site.reference, process))
        code, document = process.ended()
    assert (code, document["phase"]) == (1, "halted")
    assert statuses(document) == {one: "dropped" if one == order[0] else "waiting" for one in order}
    assert site.epochs(name) == before
    assert (count > 0, wrong) == (True, [])
    (told,) = (one for one in document["targets"] if one["status"] == "dropped")
    assert told["reason"] in document["reason"]


def test_a_rollout_outlives_its_process_a_pause_and_a_node_that_is_away(site: Site, tmp_path: Path):
    with NodeProcess("c", tmp_path) as c:
        name, plans = site.plans("good", [*site.nodes, c])
        out, last, fields = (
            site.folder / name / "out",
            f"{name}-c",
            {"success": "50%", "soak_s": 0.5, **UNTRIED},
        )
        rollouts = (site.rollout(name, sharper(), 2, seed=seed, **fields) for seed in range(99))
        file, order = next(found for found in rollouts if found[1][-1] == last)
        before = site.epochs(name, c)
        with ExitStack() as stack:
            with away(c):
                with rollout("start", file, "--out", out) as process:
                    process.said(f"{order[0]}: healthy")
                # How far it came by then is the machine's: nothing below waits for what it may have said.
                killed = command("release", "rollout", "status", out, "--json").json
                assert (killed["at_it"], statuses(killed)[order[0]]) == (False, "healthy")
                assert {one["name"]: one["difference"] for one in killed["targets"]}[order[0]] == ""
                paused = command("release", "rollout", "pause", out, "--json")
                assert (paused.code, bool(paused.json["paused_by"])) == (0, True)
                process = stack.enter_context(rollout("resume", out))
                process.said("resumed")
                process.heeds("resume", out)
                process.heeds("pause", out)
                until(lambda: "updating" not in statuses(journal(out)).values())
                held = journal(out)
                assert (held["at_it"], bool(held["paused_by"])) == (True, True)
                process.heeds("resume", out)
                until(lambda: statuses(journal(out))[last] == "offline")
            code, document = process.ended()
        assert (code, document["phase"]) == (0, "done"), document
        assert set(statuses(document).values()) == {"healthy"}
        assert site.epochs(name, c) == {
            one: {epoch + 1 for epoch in epochs} for one, epochs in before.items()
        }
        shown = command("release", "status", *plans.values(), "--json").json
        assert {(plan["agreement"], *plan["versions"]) for plan in shown["plans"]} == {("same", "digits:2")}
        asked = command("release", "status", out, "--json").json
        assert {one["difference"] for one in asked["targets"]} == {""}


def test_what_was_done_is_taken_back_on_an_abort(site: Site):
    name, plans = site.plans("back", site.nodes[:1])
    file, _ = site.rollout(name, sharper(), 2, **UNTRIED)
    out = site.folder / name / "out"
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
    shown = command("release", "status", *plans.values(), "--json").json
    model = f"model {site.reference.graph.sha256[:12]}"
    assert {(plan["agreement"], *plan["versions"]) for plan in shown["plans"]} == {("same", model)}
    assert {node["epoch"] for plan in shown["plans"] for node in plan["nodes"]} == {3}
    over = command("release", "rollout", "resume", out)
    assert (over.code, "is over" in over.errors[0]) == (2, True)
