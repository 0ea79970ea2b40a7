"""A running plan gets new models while it is asked: good ones stay, worse ones never answer alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from collab.assembly import build_cluster
from collab.cli.files import read_plan, write_plan
from collab.client import participant
from collab.client.follow import Follower
from collab.errors import CollabError
from collab.runtime.litert import LiteRT
from tests.integration.deployments import endpoints
from tests.integration.edited_models import DIGITS, not_finite, sharper, shuffled
from tests.integration.models import Reference
from tests.integration.processes import (
    Finished,
    NodeProcess,
    collab,
    command,
    deployed,
    environment,
    running,
)

pytestmark = pytest.mark.timeout(120)

WORKERS = 4
BOUNDS = """
copies = 1.0
touched = 0.5
canaries = 5
probation = 40
slow_factor = 1000
"""


class Site(NamedTuple):
    """Three nodes and what they are asked."""

    folder: Path
    nodes: list[NodeProcess]
    reference: Reference

    def plan(self, name: str) -> Path:
        """A plan of the model that is shipped, a stage on each node, deployed under a name of its own."""
        name = f"{name}{len(list(self.folder.glob('*.yaml')))}"
        plan, _ = self.reference.chain([17, 24], ["a", "b", "c"], endpoints(self.nodes), name=name)
        file = self.folder / f"{name}.yaml"
        write_plan(file, plan)
        assert command("deploy", file).code == 0
        return file

    @property
    def requests(self) -> int:
        """Requests that there are."""
        return len(self.reference.requests)

    def model(self, name: str, data: bytes) -> Path:
        file = self.folder / f"{name}.tflite"
        file.write_bytes(data)
        return file

    def update(self, plan: Path, model: Path, *options: object) -> list[str]:
        """The words of the command."""
        words = ("release", "update", plan, model, "--bounds", self.folder / "bounds.toml", "--json")
        return [*map(str, words), *map(str, options)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("updates")
    (folder / "bounds.toml").write_text(BOUNDS)
    with running([NodeProcess(name, folder) for name in ("a", "b", "c")]) as nodes:
        yield Site(folder, nodes, Reference.of("digits"))


class Asked:
    """Requests without end; which epoch answered what, and what failed."""

    def __init__(self, site: Site) -> None:
        self.answers: list[tuple[int, int, bytes]] = []
        self.errors: list[str] = []
        self._requests = site.reference.requests
        self._stop = False

    async def _worker(self, client: Follower, first: int) -> None:
        index = first
        while not self._stop:
            index = (index + 1) % len(self._requests)
            try:
                result = await client.run(self._requests[index], 20.0)
            except CollabError as error:
                self.errors.append(f"{error.code}: {error}")
                await asyncio.sleep(0.01)  # some fail at once
            else:
                (output,) = result.outputs.values()
                self.answers.append((result.epoch, index, output.tobytes()))

    async def meanwhile(self, plan: Path, work: Callable[[], Awaitable[Any]]) -> Any:
        """Ask while something is done, and every request once more after it."""
        async with build_cluster(role="client") as cluster:
            client = await cluster.follow(await asyncio.to_thread(read_plan, plan), credits=WORKERS)
            workers = [asyncio.ensure_future(self._worker(client, 7 * n)) for n in range(WORKERS)]
            try:
                done = await work()
                after = len(self.answers) + 2 * len(self._requests)
                while len(self.answers) < after and not self.errors:  # noqa: ASYNC110 - counted by others
                    await asyncio.sleep(0.01)
            finally:
                self._stop = True
                await asyncio.gather(*workers)
            await cluster.unfollow(client)
        return done


def said_by(model: Path, reference: Reference) -> list[bytes]:
    """What a whole model answers, as bytes."""
    stage = LiteRT().load(model)
    found = [stage.run(list(request.values()))[0].tobytes() for request in reference.requests]
    stage.close()
    return found


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requesters here look for trials more often than they have to."""
    monkeypatch.setattr(participant, "LOOK_S", 0.3)


def serving(site: Site, plan: Path) -> set[str]:
    """What of a plan and beside it serves on some node: a mark, empty for the plan itself."""
    return {
        name.removeprefix(plan.stem)
        for plans in deployed(site.nodes).values()
        for name, _, _, state in plans
        if name.startswith(plan.stem) and state in ("prepared", "serving")
    }


async def test_a_good_model_takes_over_and_a_worse_one_never_answers_alone(site: Site):
    plan = await asyncio.to_thread(site.plan, "digits")
    good, bad = site.model("good", sharper()), site.model("bad", shuffled())
    asked = Asked(site)

    async def both() -> list[Finished]:
        return [
            await asyncio.to_thread(collab, *site.update(plan, model), code=None) for model in (good, bad)
        ]

    updated, dropped = await asked.meanwhile(plan, both)
    assert (updated.code, updated.json["result"], updated.json["epoch"]) == (0, "healthy", 2), updated
    counts = updated.json["counts"]
    assert set(counts) == {"shadow", "canary", "probation"}
    assert counts["canary"]["touched"] <= 0.5 * counts["canary"]["requests"]
    assert (dropped.code, dropped.json["result"], dropped.json["epoch"]) == (1, "dropped", 2), dropped
    assert "differ from the old release's" in dropped.json["reason"]

    assert asked.errors == []
    answers = {1: said_by(DIGITS, site.reference), 2: said_by(good, site.reference)}
    by_canary = [entry for entry in asked.answers if entry[2] != answers[entry[0]][entry[1]]]
    assert all(entry[2] == answers[2][entry[1]] for entry in by_canary), "no answer is of two models"
    former = sum(epoch == 1 for epoch, _, _ in asked.answers)
    assert 0 < len(by_canary) <= 0.5 * former
    assert {epoch for epoch, _, _ in asked.answers[-site.requests :]} == {2}
    assert await asyncio.to_thread(serving, site, plan) == {""}

    back = await asyncio.to_thread(command, "release", "undo", plan, "--json")
    assert (back.code, back.json["result"], back.json["epoch"]) == (0, "rolled back", 3), back
    again = Asked(site)
    await again.meanwhile(plan.with_name(f"{plan.stem}.current.yaml"), lambda: asyncio.sleep(0))
    assert again.errors == []
    assert all((epoch, said) == (3, answers[1][index]) for epoch, index, said in again.answers)


async def test_what_fails_after_the_commit_is_taken_back(site: Site):
    plan = await asyncio.to_thread(site.plan, "untried")
    asked = Asked(site)
    words = site.update(plan, site.model("nan", not_finite()), "--no-trial")
    done = await asked.meanwhile(plan, lambda: asyncio.to_thread(collab, *words, code=None))
    assert (done.code, done.json["result"], done.json["epoch"]) == (1, "rolled back", 3), done
    assert "not finite" in done.json["reason"]
    assert asked.errors == []
    wanted = said_by(DIGITS, site.reference)
    last = asked.answers[-site.requests :]
    assert all((epoch, said) == (3, wanted[index]) for epoch, index, said in last)


def test_a_killed_update_leaves_nothing_that_the_next_does_not_clear(site: Site):
    plan, good = site.plan("killed"), site.model("fine", sharper(1.02))
    words = site.update(plan, good)
    process = subprocess.Popen(
        [sys.executable, "-m", "collab", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=environment(),
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        assert any(line.startswith("shadow") for line in iter(process.stderr.readline, ""))
        assert process.poll() is None, "what follows would do the update itself"
        second = command(*words)
        assert (second.code, "another process" in second.errors[0]) == (1, True), second
        process.kill()
        process.wait()
    assert serving(site, plan) == {"", "-trial"}

    last = command(*site.update(plan, good, "--no-trial", "--patience", "0"))
    assert (last.code, last.json["result"], last.json["epoch"]) == (0, "committed", 2), last
    assert serving(site, plan) == {""}
    same = command(*site.update(plan, good, "--patience", "0"))
    assert (same.code, same.json["result"], same.json["epoch"]) == (0, "committed", 2), "it was not proven"
