"""What a rollout does with one plan, by what its nodes say first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collab.coordinator import rollout_site
from collab.coordinator.plan_update import Outcome, Rules
from collab.coordinator.rollout_site import PlanSite
from collab.coordinator.running_release import NodeRuns, PlanRuns
from collab.coordinator.update_source import Offer
from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import ReleaseRef
from collab.errors import PeerUnreachable
from collab.updates.rollout.state import LeftOut, Spoiled, Target, Updated, WentBack

RELEASE = ReleaseRef(family="digits", version=7, sha256=Digest("a" * 64))
TARGET = Target(name="p", file="p.yaml")


class Links:
    """A cluster that reaches nobody."""

    async def __aenter__(self) -> Links:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What nodes say and how an update ends, and which calls were made."""
    told = SimpleNamespace(nodes=(NodeRuns(NodeName("n"), 4, "d", "m", "digits:6"),), outcome=None, calls=[])

    async def ask(cluster: Any, plan: Any) -> PlanRuns:
        return PlanRuns(PlanName("p"), told.nodes)

    def ends(name: str) -> Any:
        async def call(cluster: Any, versions: Any, *_: Any) -> Outcome:
            told.calls.append(name)
            assert isinstance(told.outcome, Outcome)
            return told.outcome

        return call

    monkeypatch.setattr(rollout_site, "ask_plan", ask)
    monkeypatch.setattr(rollout_site, "update_plan", ends("update"))
    monkeypatch.setattr(rollout_site, "undo", ends("undo"))
    return told


def site() -> PlanSite:
    made: Any = PlanSite
    return made(  # type: ignore[no-any-return]
        Offer(Path("b")), RELEASE, Rules(), Links, lambda path: None, lambda path: None
    )


async def test_an_outcome_is_told_as_what_it_means(asked):
    for result, event in (
        ("healthy", Updated("p", "digits:7", 5, "")),
        ("committed", Updated("p", "digits:7", 5, "")),
        ("dropped", Spoiled("p", "dropped", "", "digits:7", 5)),
        ("rolled back", Spoiled("p", "rolled back", "", "digits:7", 5)),
    ):
        asked.outcome = Outcome(result, "", Epoch(5), "digits:7")
        assert await site().update(TARGET) == event


@pytest.mark.parametrize(
    ("release", "left_out"),
    [("digits:8", True), ("digits:10", True), ("digits:7", False), ("faces:9", False), ("", False)],
)
async def test_a_newer_release_of_the_family_is_left_alone(asked, release, left_out):
    asked.nodes = (NodeRuns(NodeName("n"), 4, "d", "m", release),)
    asked.outcome = Outcome("healthy", "", Epoch(5), "digits:7")
    event = await site().update(TARGET)
    assert isinstance(event, LeftOut) == left_out
    assert asked.calls == ([] if left_out else ["update"])


async def test_what_is_deployed_nowhere_is_left_out(asked):
    asked.nodes = (NodeRuns(NodeName("n")),)
    assert await site().update(TARGET) == LeftOut("p", "is not deployed on its nodes")


async def test_a_node_that_is_away_is_named(asked):
    asked.nodes = (*asked.nodes, NodeRuns(NodeName("o"), trouble="no answer"))
    for work in (site().update, site().take_back):
        with pytest.raises(PeerUnreachable, match="node 'o': no answer"):
            await work(TARGET)


async def test_only_the_release_is_taken_back(asked):
    assert await site().take_back(TARGET) == WentBack("p", "digits:6", 4)
    assert asked.calls == []
    asked.nodes = (NodeRuns(NodeName("n"), 5, "d", "m", "digits:7"),)
    asked.outcome = Outcome("rolled back", "by hand", Epoch(6), "digits:6")
    assert await site().take_back(TARGET) == WentBack("p", "digits:6", 6)
    assert asked.calls == ["undo"]
