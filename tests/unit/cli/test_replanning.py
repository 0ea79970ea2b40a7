"""What the controller is told about re-planning, and where it leaves the plans that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from collab.cli.files import read_plan, write_plan
from collab.cli.replanning import keep_successor, read_watched, share, successor_path
from collab.core.validate import convert_plan
from collab.errors import InputError, UsageError
from tests.unit.core.trees import chain

GIVEN = {
    "plan": Path("plan.yaml"),
    "profile": Path("p.json"),
    "when": "20%",
    "every_s": 1.0,
    "margin": "10%",
    "pause_s": 30.0,
    "objective": "latency",
    "requester_here": False,
}


@pytest.mark.parametrize(("text", "value"), [("20%", 0.2), (" 7.5 % ", 0.075), ("1000%", 10.0)])
def test_a_share_is_written_in_per_cent(text, value):
    assert share(text, "--replan-when") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "20", "0.2", "0%", "-5%", "1001%", "nan%", "twenty"])
def test_what_is_no_share_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"^--replan-when .*: write a share such as 20%"):
        share(text, "--replan-when")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": None}, "--profile: missing"),
        ({"when": "a lot"}, "--replan-when 'a lot'"),
        ({"margin": "none"}, "--replan-margin 'none'"),
        ({"every_s": 0.0}, "--replan-every 0: give 0.05 to 86400 seconds"),
        ({"pause_s": float("nan")}, "--replan-pause nan"),
        ({"objective": "speed"}, "--objective 'speed': use one of latency, throughput"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        read_watched(**(GIVEN | change))


def test_files_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"plan\.yaml"):
        read_watched(**(GIVEN | {"plan": tmp_path / "plan.yaml"}))


def test_a_new_plan_stands_beside_the_old_one(tmp_path: Path):
    path, plan = tmp_path / "plan.yaml", convert_plan(chain())
    write_plan(path, plan)
    keep_successor(path, plan.replace(credits=9))
    assert successor_path(path) == tmp_path / "plan.current.yaml"
    assert read_plan(path) == plan
    assert read_plan(successor_path(path)).credits == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.current.yaml", "plan.yaml"]
