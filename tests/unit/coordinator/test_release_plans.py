"""A release on all plans of a family or on none, over updates that are made up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collab.coordinator import release_plans
from collab.coordinator.plan_update import Outcome, Progress, Rules
from collab.coordinator.plan_versions import PlanState, PlanVersion
from collab.coordinator.release_plans import ReleasePlans
from collab.core.ids import Digest, Epoch
from collab.core.plan import ReleaseRef
from collab.errors import ConfigError, PeerUnreachable
from collab.updates.release import Release
from tests.unit.updates.store.releases import release

FILE = Path("content")


def ref(one: Release) -> ReleaseRef:
    return ReleaseRef(family="digits", version=one.version, sha256=Digest(one.sha256))


@dataclass
class Journal:
    """Of one plan: which releases it ran; 0 is what was there before any."""

    path: Path
    ran: list[Release | None] = field(default_factory=lambda: [None])
    ends: str = "healthy"
    log: list[str] = field(default_factory=list)

    def state(self) -> PlanState:
        return PlanState(
            versions=tuple(
                PlanVersion(
                    number=n,
                    plan=Digest(f"{n:064}"),
                    model=Digest(f"{n:064}"),
                    release=None if one is None else ref(one),
                    epoch=n,
                )
                for n, one in enumerate(self.ran)
            )
        )

    def outcome(self, result: Any, reason: str = "") -> Outcome:
        now = self.ran[-1]
        return Outcome(result, reason, Epoch(len(self.ran) - 1), "", None if now is None else ref(now))


@pytest.fixture
def world(monkeypatch):
    journals = [Journal(Path("one.yaml")), Journal(Path("two.yaml"))]
    log: list[str] = []

    async def update_plan(cluster, versions, offer, rules, tell=lambda p: None, clock=None):
        log.append(
            f"update {versions.path.stem} to {offer.release.version}{'' if rules.trial else ' at once'}"
        )
        if versions.ends == "away":
            raise PeerUnreachable("node 'b'")
        if versions.ran[-1] == offer.release:
            return versions.outcome("healthy", "it runs already")
        if versions.ends == "dropped":
            offered = Outcome("dropped", "worse", Epoch(0), "", ref(offer.release))
            return offered
        versions.ran.append(offer.release)
        tell(Progress("probation"))
        await asyncio.sleep(0)
        return versions.outcome(versions.ends)

    async def undo(cluster, versions, cause="hand"):
        log.append(f"undo {versions.path.stem}" if cause == "hand" else f"{cause} undo {versions.path.stem}")
        versions.ran.pop()
        return versions.outcome("rolled back", "by hand")

    monkeypatch.setattr(release_plans, "update_plan", update_plan)
    monkeypatch.setattr(release_plans, "undo", undo)
    return ReleasePlans(None, "site", journals, Rules()), journals, log


async def updated(plans: ReleasePlans, one: Release) -> tuple[Any, int]:
    told = 0

    async def committed() -> None:
        nonlocal told
        told += 1

    return await plans.update(one, FILE, committed), told


async def test_every_plan_gets_it_and_the_commit_is_told_once_the_last_has_it(world):
    plans, journals, log = world
    came, told = await updated(plans, release(1))
    assert (came.result, told) == ("healthy", 1)
    assert [journal.ran[-1] for journal in journals] == [release(1)] * 2
    assert log == ["update one to 1", "update two to 1"]


async def test_what_one_drops_no_other_keeps(world):
    plans, journals, log = world
    journals[1].ends = "dropped"
    came, told = await updated(plans, release(1))
    assert (came.result, came.reason, told) == ("dropped", "two.yaml: worse", 0)
    assert [journal.ran for journal in journals] == [[None], [None]]
    assert log[-1] == "sibling undo one"


async def test_one_that_is_away_ends_the_try_and_the_next_goes_on(world):
    plans, journals, _ = world
    journals[1].ends = "away"
    with pytest.raises(PeerUnreachable):
        await updated(plans, release(1))
    journals[1].ends = "healthy"
    came, told = await updated(plans, release(1))
    assert (came.result, told) == ("healthy", 1)
    assert [journal.ran for journal in journals] == [[None, release(1)]] * 2


async def test_a_plan_that_nobody_asks_keeps_the_whole_unproven(world):
    plans, journals, _ = world
    journals[0].ends = "committed"
    came, _ = await updated(plans, release(1))
    assert came.result == "committed"


async def test_bringing_the_release_before_goes_back_and_says_whether_anything_changed(world):
    plans, journals, log = world
    for number in (1, 2):
        await updated(plans, release(number))
    log.clear()
    assert (await plans.bring(release(1), FILE, "")).changed
    assert log == ["undo one", "undo two"]
    assert [journal.ran[-1] for journal in journals] == [release(1)] * 2
    assert not (await plans.bring(release(1), FILE, "")).changed


async def test_bringing_another_one_puts_it_in_without_a_trial(world):
    plans, journals, log = world
    await updated(plans, release(1))
    log.clear()
    came = await plans.bring(release(2), FILE, "")
    assert (came.result, came.changed) == ("committed", True)
    assert log == ["update one to 2 at once", "update two to 2 at once"]
    journals[0].ends = "dropped"
    with pytest.raises(ConfigError, match="worse"):
        await plans.bring(release(3), FILE, "")
