"""An agent keeps plans at a family's releases: a good one comes, a worse one does not, and it says why."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from collab.assembly import build_cluster
from collab.cli.files import read_plan, write_plan
from collab.client import participant
from collab.core.plan import Plan
from collab.errors import CollabError
from collab.updates.agenda import Report
from collab.updates.agenda_file import AgendaFile
from collab.updates.repository.publishing import trusted_root
from collab.updates.store.disk import RealDisk
from collab.updates.store.state import State
from collab.updates.store.store import Store
from tests.integration.edited_models import sharper, shuffled
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, environment, running
from tests.mosquitto import free_port
from tests.unit.updates.releases import World

pytestmark = pytest.mark.timeout(120)

SETTINGS = """
[releases]
source = "{source}"
family = "digits"
plans = ["{plan}"]
store = "{store}"
trust = "{trust}"
policy = "{policy}"
cadence_s = 0.5

[releases.bounds]
copies = 1.0
touched = 0.5
canaries = 3
probation = 10
slow_factor = 1000.0
disagreement = {{ fine = 0.2, worse = 0.7 }}
slowness = {{ fine = 0.2, worse = 0.7 }}
"""
POLICY = """
name: often
rules:
  - then: install
    when: {kind: is, flag: newer}
  - then: check
    when: {kind: every, hours: 24}
  - then: check
    when: {kind: level, measure: hours_since_check, at_least: 0.0001}
"""


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requesters here look for trials more often than they have to."""
    monkeypatch.setattr(participant, "LOOK_S", 0.3)


class Site:
    """A repository, what an agent is told of it, and requests for a plan."""

    def __init__(self, folder: Path, nodes: Sequence[str], endpoints: dict[str, str]) -> None:
        self.folder = folder
        self.world = World(folder, datetime.now(timezone.utc))
        self.reference = Reference.of("digits")
        cuts = [20][: len(nodes) - 1]
        plan, _ = self.reference.chain(cuts, [[name] for name in nodes], endpoints, name="digits")
        self.plan, self.store = folder / "plan.yaml", folder / "store"
        write_plan(self.plan, plan)
        (folder / "policy.yaml").write_text(POLICY)
        (folder / "root.json").write_bytes(trusted_root(self.world.path))
        self.config = folder / "releases.toml"
        places = {name: folder / name for name in ("source", "plan", "store", "trust", "policy")}
        places |= {
            "source": self.world.path,
            "plan": self.plan,
            "trust": folder / "root.json",
            "policy": folder / "policy.yaml",
        }
        self.config.write_text(SETTINGS.format(**places))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = command("release", "status", self.store, "--json").json
        return found

    async def until(self, holds: Callable[[State, Sequence[Report]], bool]) -> dict[str, Any]:
        """What the command says of the store once something is true of it."""
        store, agenda = Store(RealDisk(self.store), time.time), AgendaFile(self.store)
        deadline = time.monotonic() + 60
        while not holds(await asyncio.to_thread(store.state), (await asyncio.to_thread(agenda.read)).reports):
            assert time.monotonic() < deadline, await asyncio.to_thread(self.status)
            await asyncio.sleep(0.1)
        return await asyncio.to_thread(self.status)

    async def asked_while(self, work: Awaitable[Any]) -> list[str]:
        """Errors of requests that were made meanwhile."""
        errors: list[str] = []
        plan: Plan = await asyncio.to_thread(read_plan, self.plan)
        async with build_cluster(role="client") as cluster:
            client = await cluster.follow(plan, credits=4)

            async def ask() -> None:
                index = 0
                while True:
                    index = (index + 1) % len(self.reference.requests)
                    try:
                        await client.run(self.reference.requests[index], 20.0)
                    except CollabError as error:
                        errors.append(f"{error.code}: {error}")
                    await asyncio.sleep(0.03)

            asking = asyncio.ensure_future(ask())
            try:
                await work
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await cluster.unfollow(client)
        return errors


@contextmanager
def controller(config: Path, log: Path) -> Iterator[list[dict[str, Any]]]:
    """``collab controller --releases`` until the end of the block; then its events."""
    events: list[dict[str, Any]] = []
    words = ["controller", "--releases", str(config), "--insecure", "--json"]
    with open(log, "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "collab", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            env=environment(),
        )
    try:
        yield events
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=20)
        events += [json.loads(line) for line in out.splitlines()]
        text = log.read_text(errors="replace")
        assert process.returncode == 0, text
        assert "Traceback" not in text, text


def proven(version: int) -> Callable[[State, Sequence[Report]], bool]:
    return lambda state, reports: (
        state.healthy and state.active is not None and state.active.version == version
    )


def came(result: str) -> Callable[[State, Sequence[Report]], bool]:
    return lambda state, reports: bool(reports) and reports[-1].result == result


async def scene(site: Site) -> None:
    """Two releases, one of them worse, and what is seen of them."""
    site.world.release(sharper())
    first = await site.until(proven(1))
    assert (first["candidate"], first["reports"][-1]["result"]) == (None, "healthy")
    site.world.release(shuffled())
    second = await site.until(came("dropped"))
    assert (second["active"]["version"], second["highest"]) == (1, 2)
    assert "differ" in second["reports"][-1]["reason"], second
    assert second["reports"][-1]["version"] == 2


def running_releases(place: str) -> set[str]:
    async def ask() -> set[str]:
        async with build_cluster() as cluster:
            views = await cluster.describe(await cluster.reach([place]))
            return {
                p.release
                for view in views.values()
                for p in view.description.plans
                if p.plan == "digits" and p.state == "serving"
            }

    return asyncio.run(ask())


def test_a_controller_puts_a_good_release_into_a_plan_and_drops_a_worse_one(tmp_path):
    nodes = [NodeProcess(name, tmp_path) for name in ("a", "b")]
    with running(nodes):
        site = Site(tmp_path, ["a", "b"], {node.name: node.endpoint for node in nodes})
        assert command("deploy", site.plan).code == 0
        with controller(site.config, tmp_path / "controller.log") as events:
            errors = asyncio.run(site.asked_while(scene(site)))
            assert errors == []
            assert running_releases(nodes[0].place) == {"digits:1"}
            assert command("release", "rollback", site.store).code == 1, "nothing to go back to yet"
        told = [
            event["event"] for event in events if event["event"] in ("release healthy", "release dropped")
        ]
        assert told == ["release healthy", "release dropped"]


def test_a_node_keeps_its_own_plan_and_goes_back_when_somebody_says_so(tmp_path):
    endpoint = f"grpc://127.0.0.1:{free_port()}"
    site = Site(tmp_path, ["a"], {"a": endpoint})
    site.config.write_text(site.config.read_text().replace("[releases]", "[releases]\ntrial = false"))
    node = NodeProcess("a", tmp_path, "--listen", endpoint, "--config", str(site.config))

    async def versions() -> None:
        await asyncio.to_thread(site.world.release, sharper())
        await site.until(proven(1))
        await asyncio.to_thread(site.world.release, sharper(1.02))
        await site.until(proven(2))
        await asyncio.to_thread(command, "release", "pin", site.store)
        await asyncio.to_thread(command, "release", "rollback", site.store, "--reason", "reads badly")
        last = await site.until(came("rolled back"))
        assert (last["active"]["version"], last["reports"][-1]["reason"]) == (1, "reads badly")

    with node:
        assert command("deploy", site.plan).code == 0
        assert asyncio.run(site.asked_while(versions())) == []
        assert running_releases(node.place) == {"digits:1"}
