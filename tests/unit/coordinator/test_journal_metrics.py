"""Metrics of releases, rollouts and federated runs, as their journals have them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from collab.assembly import journal_metrics
from collab.cli.files import read_plan
from collab.coordinator.federated_folder import RunFolder
from collab.coordinator.journal_metrics import RunReader, release_values, rollout_values
from collab.coordinator.plan_versions import KEPT_OUTCOMES, Noted, PlanState, PlanVersion, PlanVersions
from collab.errors import InputError
from collab.federated.records import LeftOut, RoundRecord, TookPart
from collab.telemetry import catalogue as metrics
from collab.telemetry.catalogue import ROLLBACK_CAUSES
from collab.updates.rollout.state import RolloutState, Target

MODEL = "0" * 64


class Journal(PlanVersions):
    """One without models."""

    def __init__(self, folder: Path, name: str = "digits") -> None:
        super().__init__(folder / f"{name}.yaml", folder / "x", read_plan, print)

        self._name = name

    def plan(self, version: PlanVersion) -> Any:
        return SimpleNamespace(name=self._name)


def by_labels(values: Any) -> dict[tuple[str, ...], float]:
    return {(metric.name, *labels): value for metric, labels, value in values}


def test_roll_backs_are_counted_by_cause_beyond_the_outcomes_that_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert list(release_values([journal])) == []
    running = PlanVersion(number=1, plan=MODEL, model=MODEL)
    journal._write(PlanState(), versions=(running,))
    for _ in range(KEPT_OUTCOMES + 4):
        journal.note(Noted(result="rolled back", model=MODEL, cause="health"))
    journal.note(Noted(result="rolled back", model=MODEL, cause="rollout"))
    journal.note(Noted(result="healthy", model=MODEL))
    found = by_labels(release_values([journal]))
    name = metrics.ROLLBACKS.name
    told = {cause: found[name, "digits", cause] for cause in ROLLBACK_CAUSES}
    assert told == {"health": KEPT_OUTCOMES + 4, "hand": 0, "rollout": 1, "sibling": 0}
    assert found[metrics.RELEASE_UPDATES.name, "digits", "healthy"] == 1
    assert found[metrics.RELEASE_UPDATES.name, "digits", "rolled back"] == KEPT_OUTCOMES + 5


@pytest.mark.parametrize(
    ("back", "proven", "stands"),
    [("", True, "proven"), ("", False, "probation"), ("it is wrong", False, "to go back")],
)
def test_how_a_plans_model_stands_is_one_of_three(
    tmp_path: Path, back: str, proven: bool, stands: str
) -> None:
    journal = Journal(tmp_path)
    running = PlanVersion(number=1, plan=MODEL, model=MODEL, proven=proven)
    journal._write(PlanState(), versions=(running,), back=back)
    found = by_labels(release_values([journal]))
    states = {key[2] for key, value in found.items() if key[0] == metrics.RELEASE_STATE.name and value}
    assert states == {stands}


def test_a_rollout_tells_its_phase_and_how_many_plans_are_where() -> None:
    class Folder:
        path = "rollouts/digits-7"

        def read(self) -> RolloutState:
            targets = tuple(Target(name=name, status="healthy") for name in "ab")
            return RolloutState(targets=(*targets, Target(name="c")), paused_by="ann")

        def about(self) -> Any:
            return SimpleNamespace(rollout=SimpleNamespace(name="digits-7"))

    class Broken(Folder):
        def read(self) -> RolloutState:
            raise InputError("no rollout is there")

    found = by_labels(rollout_values([Broken(), Folder()]))
    assert found == {
        (metrics.ROLLOUT_PHASE.name, "digits-7", "paused"): 1,
        (metrics.ROLLOUT_TARGETS.name, "digits-7", "healthy"): 2,
        (metrics.ROLLOUT_TARGETS.name, "digits-7", "waiting"): 1,
    }


def test_a_run_tells_who_was_left_out_and_reads_again_what_has_changed(tmp_path: Path) -> None:
    reader = RunReader(tmp_path)
    assert reader.values() == []
    for number in (1, 2):
        record = RoundRecord(
            round=number, outcome="made", model=MODEL, seconds=1.0,
            took_part=(TookPart(client="a", samples=9),), evaluation={"accuracy": 0.5 + number / 10},
            left_out=(LeftOut(client="b", kind="refused", reason="NaN"),), quarantined=("b",),
        )  # fmt: skip
        RunFolder(tmp_path).add_record(record)
        found = by_labels(reader.values())
        run = tmp_path.name
        assert found[metrics.FED_ROUND.name, run] == number
        assert found[metrics.FED_ROUNDS.name, run, "made"] == number
        assert found[metrics.FED_LEFT_OUT.name, run, "refused"] == number
        assert found[metrics.FED_LEFT_OUT.name, run, "quarantined"] == 1
        assert found[metrics.FED_SCORE.name, run, "accuracy"] == pytest.approx(0.5 + number / 10)


async def test_what_journals_say_is_scraped_beside_the_loop() -> None:
    read = [metrics.FED_ROUND.at("home", value=3)]
    async with journal_metrics("0", lambda: read) as url, httpx.AsyncClient() as client:
        until = asyncio.get_running_loop().time() + 20
        while "collab_federated_round" not in (text := (await client.get(url)).text):
            assert asyncio.get_running_loop().time() < until
    assert 'collab_federated_round{run="home"} 3.0' in text


def test_a_journal_of_before_the_counts_is_read() -> None:
    assert msgspec.json.decode(b"{}", type=PlanState).went_back == {}
