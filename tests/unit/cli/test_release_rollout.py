"""Rollouts on the command line, as far as no node is needed: files, mistakes, what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from collab.assets import path as asset
from collab.cli.files import write_plan
from collab.cli.rollout_files import begin_rollout, find_targets, read_rollout
from collab.cli.rollout_tables import as_told, difference
from collab.coordinator.planning import build_chain
from collab.coordinator.rollout_folder import RolloutFolder
from collab.coordinator.running_release import NodeRuns, PlanRuns
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef
from collab.errors import CollabError, ConfigError, InputError
from collab.graph import read_model
from collab.planner.chain import Assignment
from collab.updates.rollout.state import Target
from tests.integration.processes import command

DIGITS = asset("digits.tflite")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Three plans on nodes that are not there, a file that took a plan's place, and a release."""
    (tmp_path / "plans").mkdir()
    for name in ("p", "q", "r"):
        refs = [NodeRef(name=NodeName("n"), endpoints=("grpc://127.0.0.1:1",))]
        plan, _ = build_chain(
            *(PlanName(name), DIGITS, read_model(DIGITS), [], Assignment(((NodeName("n"),),)), refs)
        )
        write_plan(tmp_path / "plans" / f"{name}.yaml", plan)
    (tmp_path / "plans" / "p.current.yaml").write_text("{}")
    (tmp_path / "release.tflite").write_bytes(DIGITS.read_bytes())
    return tmp_path


def written(site: Path, **fields: Any) -> Path:
    tree = {
        "name": "digits-2",
        "release": {"bundle": "release.tflite", "family": "digits", "version": 2},
        "targets": [
            {"plans": "plans/*.yaml", "labels": {"site": "lab"}},
            {"plans": "plans/q.yaml", "labels": {"first": "y"}},
        ],
        **fields,
    }
    file = site / "rollout.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def test_targets_are_found_beside_the_file_and_labels_add_up(site):
    found = find_targets(read_rollout(written(site)), site)
    assert found == {
        "p": (str(site / "plans" / "p.yaml"), {"site": "lab"}),
        "q": (str(site / "plans" / "q.yaml"), {"site": "lab", "first": "y"}),
        "r": (str(site / "plans" / "r.yaml"), {"site": "lab"}),
    }


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"targets": [{"plans": "none/*.yaml"}]}, 2, "targets.0.plans: 'none/*.yaml' is no file"),
        ({"targets": [{"plans": "plans/x.yaml"}]}, 2, "targets.0.plans"),
        ({"release": {"bundle": "none", "family": "digits", "version": 2}}, 1, "none"),
        (
            {"release": {"source": "grpc://h:1#r", "family": "d", "store": "s"}},
            2,
            "is a node's; fetch it first",
        ),
        ({"waves": [{"to": 1, "where": {"site": "lba"}}, "100%"]}, 2, "waves.0.where: no target has"),
        ({"waves": ["half"]}, 2, "waves.0: 'half' is no share"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(site, fields, code, said):
    done = command("release", "rollout", "start", written(site, **fields), "--out", site / "out")
    assert (done.code, len(done.errors)) == (code, 1), done
    assert said in done.errors[0]
    assert not (site / "out").exists()


def test_two_plans_of_one_name_are_refused(site):
    (site / "plans" / "s.yaml").write_bytes((site / "plans" / "p.yaml").read_bytes())
    with pytest.raises(ConfigError, match="both of a plan named 'p'"):
        find_targets(read_rollout(written(site)), site)


@pytest.mark.parametrize("words", [("resume",), ("pause",), ("abort",), ("status", "--no-ask")])
def test_a_folder_without_a_rollout_is_said_so(tmp_path, words):
    done = command("release", "rollout", words[0], tmp_path / "no", *words[1:])
    assert (done.code, len(done.errors)) == (1, 1)
    assert "no rollout is there" in done.errors[0]


def test_a_rollout_over_plans_that_are_away_is_kept_and_may_be_aborted(site):
    folder = RolloutFolder(site / "out")
    begin_rollout(written(site), folder, 1.0)
    status = command("release", "rollout", "status", site / "out", "--no-ask", "--json").json
    assert (status["release"], status["phase"], status["at_it"]) == ("digits:2", "running", False)
    assert {one["status"] for one in status["targets"]} == {"waiting"}
    asked = command("release", "status", site / "out", "--json").json
    assert {one["difference"] for one in asked["targets"]} == {"its nodes: unreachable"}
    paused = command("release", "rollout", "pause", site / "out")
    assert (paused.code, "paused by" in paused.err) == (0, True)
    aborted = command("release", "rollout", "abort", site / "out", "--json")
    assert (aborted.code, aborted.json["phase"]) == (0, "aborted")
    over = command("release", "rollout", "resume", site / "out")
    assert (over.code, "is over" in over.errors[0]) == (2, True)
    assert (site / "out" / "release.collab").read_bytes() == DIGITS.read_bytes()


NEW, OLD = "digits:2", "digits:1"


def runs(*nodes: tuple[str, int] | None) -> PlanRuns:
    return PlanRuns(
        PlanName("p"),
        tuple(
            NodeRuns(NodeName(f"n{at}"), trouble="no link")
            if node is None
            else NodeRuns(
                NodeName(f"n{at}"), node[1], f"{node[0]}@{node[1]}", "m", node[0] if node[1] else ""
            )
            for at, node in enumerate(nodes)
        ),
    )


@pytest.mark.parametrize(
    ("nodes", "agreement", "versions"),
    [
        ([(NEW, 3), (NEW, 3)], "same", (NEW,)),
        ([(NEW, 3), None], "partly", (NEW,)),
        ([(NEW, 3), (OLD, 2)], "mixed", (OLD, NEW)),
        ([(NEW, 3), (NEW, 2)], "mixed", (NEW,)),
        ([(NEW, 3), ("", 0)], "mixed", (NEW,)),
        ([("", 0), ("", 0)], "not deployed", ()),
        ([None, None], "unreachable", ()),
    ],
)
def test_what_nodes_say_together(nodes, agreement, versions):
    assert (runs(*nodes).agreement, runs(*nodes).versions) == (agreement, versions)


@pytest.mark.parametrize(
    ("status", "nodes", "said"),
    [
        ("healthy", [(NEW, 3)], ""),
        ("healthy", [(OLD, 4)], "its nodes run digits:1"),
        ("waiting", [(OLD, 2)], ""),
        ("waiting", [(NEW, 3)], "its nodes run the release"),
        ("updating", [(NEW, 3)], ""),
        ("dropped", [(NEW, 3)], "its nodes run the release"),
        ("healthy", [(NEW, 3), (OLD, 2)], "its nodes run several versions: digits:1, digits:2"),
        ("healthy", [None], "its nodes: unreachable"),
    ],
)
def test_what_the_journal_and_the_nodes_say_otherwise_is_flagged(status, nodes, said):
    assert difference(NEW, Target(name="p", status=status), runs(*nodes)) == said


def test_events_are_lines_for_people():
    target: dict[str, Any] = {
        "event": "target",
        "target": "p",
        "wave": 2,
        "status": "dropped",
        "version": OLD,
        "reason": "bad",
    }
    assert as_told(target) == "wave 2, p: dropped, runs digits:1: bad"
    assert as_told({"event": "wave", "wave": 2}) == "wave 2 begins"
    assert as_told({"event": "phase", "phase": "done", "reason": ""}) == "done"
    assert as_told({"event": "paused", "by": "ann"}) == "paused by ann"
    assert as_told({"event": "resumed", "by": ""}) == "resumed"


def test_status_takes_one_store_or_plans(site):
    both = command("release", "status", site / "plans", site / "plans" / "p.yaml")
    assert (both.code, "plan files" in both.errors[0]) == (2, True)
    plans = command("release", "status", site / "plans" / "p.yaml", site / "plans" / "q.yaml", "--json")
    assert [plan["agreement"] for plan in plans.json["plans"]] == ["unreachable"] * 2
    none = command("release", "status", site / "nothing")
    assert (none.code, "no store of releases is there" in none.errors[0]) == (2, True)


def test_a_rollout_file_that_is_none_is_named(tmp_path):
    for text, kind in (("{", ConfigError), ("name: 1", ConfigError)):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(kind, match=r"r\.yaml"):
            read_rollout(tmp_path / "r.yaml")
    with pytest.raises(InputError):
        read_rollout(tmp_path / "none.yaml")
    assert issubclass(ConfigError, CollabError)
