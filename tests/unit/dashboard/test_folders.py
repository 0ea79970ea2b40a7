"""Federated runs and rollouts, read from their folders."""

import json

import msgspec

from collab.dashboard.folders import RolloutState, Target, rollouts, runs
from collab.federated.records import LeftOut, RoundRecord, TookPart


def rollout(folder, state):
    folder.mkdir(parents=True)
    (folder / "rollout.json").write_text("{}")
    (folder / "state.json").write_bytes(state)
    return folder


def test_a_rollout_is_shown_by_target_and_wave_and_what_is_new_in_it_is_ignored(tmp_path):
    state = {"phase": "paused", "wave": 1, "reason": "two failed", "order": 7, "targets": [
        {"name": "pi-1", "wave": 0, "status": "active", "version": "7", "tries": 2},
        {"name": "pi-2", "wave": 1, "status": "failed", "reason": "no room"},
    ]}  # fmt: skip
    rollout(tmp_path / "digits-7", json.dumps(state).encode())
    (found,) = rollouts([tmp_path])
    assert (found["name"], found["phase"]) == ("digits-7", "paused")
    assert found["said"] == "paused, wave 1 (two failed)"
    assert found["targets"] == [["pi-1", 0, "active", "7", ""], ["pi-2", 1, "failed", "", "no room"]]


def test_a_folder_may_be_the_rollouts_own(tmp_path):
    state = msgspec.json.encode(RolloutState(targets=(Target("a"),), phase="running"))
    assert rollouts([rollout(tmp_path / "r", state)])[0]["targets"] == [["a", 0, "waiting", "", ""]]


def test_what_cannot_be_read_is_left_out(tmp_path):
    rollout(tmp_path / "broken", b"{")
    rollout(tmp_path / "good", b"{}")
    assert [found["name"] for found in rollouts([tmp_path, tmp_path / "nowhere"])] == ["good"]
    assert runs([tmp_path]) == []


def test_a_run_says_who_was_left_out_and_why(tmp_path, monkeypatch):
    record = RoundRecord(
        round=3, outcome="made", model="0" * 64, seconds=1.234, loss=0.5,
        took_part=(TookPart(client="a", samples=9),), evaluation={"accuracy": 0.9},
        left_out=(LeftOut(client="b", kind="refused", reason="NaN", field="w"),), up_bytes=2_000_000,
    )  # fmt: skip

    class Folder:
        def __init__(self, path):
            pass

        def task(self):
            return type("Task", (), {"name": "digits", "rounds": 5})()

        def records(self):
            return [record]

    monkeypatch.setattr("collab.dashboard.folders.RunFolder", Folder)
    (tmp_path / "task.json").touch()
    (found,) = runs([tmp_path])
    assert found["said"] == "round 3 of 5 made; left out: b"
    (shown,) = found["rounds"]
    assert shown["left_out"] == [["b", "refused", "NaN"]]
    assert (shown["seconds"], shown["mbytes"], shown["took_part"]) == (1.23, 2.0, 1)
