"""A running plan gets new models while it is asked: good ones stay, worse ones never answer alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from collab.assembly import build_cluster
from collab.cli.files import read_plan, write_plan
from collab.client.follow import Follower
from collab.errors import CollabError
from collab.runtime.litert import LiteRT
from tests.integration.deployments import endpoints
from tests.integration.edited_models import sharper, shuffled
from tests.integration.models import Reference
from tests.integration.processes import (
    Finished,
    NodeProcess,
    collab,
    command,
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
        """A plan of the model that is shipped, a stage on each node, deployed."""
        plan, _ = self.reference.chain([17, 24], ["a", "b", "c"], endpoints(self.nodes), name=name)
        file = self.folder / f"{name}.yaml"
        write_plan(file, plan)
        assert command("deploy", file).code == 0
        return file

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


async def test_a_good_model_takes_over_and_a_worse_one_never_does(site: Site):
    plan = await asyncio.to_thread(site.plan, "digits")
    good, bad = site.model("good", sharper()), site.model("bad", shuffled())
    asked = Asked(site)

    async def both() -> list[Finished]:
        return [
            await asyncio.to_thread(collab, *site.update(plan, model), code=None) for model in (good, bad)
        ]

    updated, dropped = await asked.meanwhile(plan, both)
    assert updated.code == 0
