"""What may be asked of a rollout, and what comes of it where no process is at it."""

import threading
from typing import get_args

import msgspec
import pytest

from collab.cli.files import read_plan
from collab.coordinator.plan_versions import Noted, PlanState, PlanVersion, PlanVersions
from collab.dashboard.folders import histories, rollout_at, rollouts
from collab.dashboard.steering import STEER, possible, steer
from collab.errors import Conflict, InputError, UsageError
from collab.updates.rollout.state import FINAL, Phase
from tests.unit.coordinator.test_rollout import made


@pytest.mark.parametrize("phase", get_args(Phase))
@pytest.mark.parametrize("paused", [True, False])
def test_what_is_offered_makes_sense_in_every_phase(phase, paused):
    can = possible(phase, paused)
    assert set(can) <= set(STEER)
    assert not {"pause", "resume"} <= set(can)
    if phase in FINAL:
        assert set(can) <= {"take-back"}
    if phase == "running":
        assert can[0] == ("resume" if paused else "pause")


def test_a_rollout_without_a_process_is_paused_and_ended_and_not_resumed(tmp_path):
    folder = made(tmp_path)
    assert steer(folder.path, "pause", "ann") == "rollout rollout: running, paused by ann"
    with pytest.raises(UsageError, match="cannot pause while it is running, paused by ann"):
        steer(folder.path, "pause", "ann")
    with pytest.raises(Conflict, match="run: collab release rollout resume"):
        steer(folder.path, "resume", "ann")
    with pytest.raises(Conflict, match="run: collab release rollout abort --rollback"):
        steer(folder.path, "take-back", "ann")
    assert steer(folder.path, "abort", "ann") == "rollout rollout: aborted"
    assert folder.read().reason == "aborted by ann"


def test_the_process_that_is_at_it_is_told(tmp_path):
    folder = made(tmp_path)
    heard: list[tuple[str, str]] = []

    def hears() -> None:
        while (wish := folder.wish()) is None:
            over.wait(0.01)
        heard.append((wish.what, wish.by))
        folder.write(msgspec.structs.replace(folder.read(), wish=wish.number, paused_by=wish.by))

    over = threading.Event()
    process = threading.Thread(target=hears)
    with folder.locked():
        process.start()
        said = steer(folder.path, "pause", "ann")
        process.join()
    assert (heard, said) == ([("pause", "ann")], "rollout rollout: running, paused by ann")


def test_a_real_journal_is_shown_with_its_phase_and_what_can_be_asked(tmp_path):
    folder = made(tmp_path)
    (shown,) = rollouts([tmp_path])
    assert (shown["said"], shown["can"]) == ("running, wave 0", ["pause", "abort", "take-back"])
    steer(folder.path, "pause", "ann")
    assert rollouts([tmp_path])[0]["said"] == "running, wave 0, paused by ann"


def test_only_a_rollout_of_the_given_folders_is_found(tmp_path):
    folder = made(tmp_path)
    assert rollout_at([tmp_path], "rollout") == folder.path
    for name in ("other", "../rollout", str(folder.path)):
        with pytest.raises(InputError, match="none of the folders"):
            rollout_at([tmp_path], name)


class Journal(PlanVersions):
    """One without models."""

    def __init__(self, folder):
        super().__init__(folder / "digits.yaml", folder / "x", read_plan, print)

    def plan(self, version):
        return type("Plan", (), {"name": "digits"})


def test_a_plans_history_says_what_runs_and_whether_there_is_a_way_back(tmp_path):
    journal, first = Journal(tmp_path), PlanVersion(number=1, plan="1" * 64, model="1" * 64, proven=True)
    assert histories([journal]) == []
    journal._write(PlanState(), versions=(first,))
    assert histories([journal])[0]["can"] == []
    second = PlanVersion(number=2, plan="2" * 64, model="2" * 64, epoch=2)
    journal._write(journal.state(), versions=(first, second))
    journal.note(Noted(result="dropped", model="3" * 64, reason="worse"))
    (shown,) = histories([journal])
    assert (shown["name"], shown["can"]) == ("digits", ["undo"])
    assert shown["said"] == f"model {'2' * 12} runs, on probation"
    assert shown["outcomes"] == [["dropped", f"model {'3' * 12}", 0, "worse"]]
