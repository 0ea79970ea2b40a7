"""``collab plan`` from a profile file: exact costs offline, and mistakes that end in one clear line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import command

FAILED, USAGE = 1, 2
MODEL = "c" * 64


def by_hand() -> dict[str, Any]:
    """Three devices in a row behind a requester, with the fields that people write alone."""
    return {
        "model_sha256": MODEL,
        "requester": "phone",
        "input_bytes": 3000,
        "output_bytes": 40,
        "cuts": [{"at": 1, "bytes": 8000}, {"at": 2, "bytes": 500}, {"at": 3, "bytes": 100}],
        "devices": [
            {"name": "a", "memory_bytes": 1000, "op_ms": [4, 4, 4, 4], "op_bytes": [200, 200, 200, 200]},
            {"name": "b", "memory_bytes": 500, "op_ms": [1, 1, 1, 1], "op_bytes": [200, 200, 200, 200]},
            {"name": "c", "memory_bytes": 2000, "op_ms": [2, 2, 2, 2], "op_bytes": [200, 200, 200, 200]},
        ],
        "links": [
            {"from": "phone", "to": "a", "latency_ms": 1, "mbit_s": 8},
            {"from": "a", "to": "b", "latency_ms": 0.5, "mbit_s": 80},
            {"from": "b", "to": "c", "latency_ms": 2, "mbit_s": 80},
            {"from": "a", "to": "phone", "latency_ms": 1, "mbit_s": 8},
            {"from": "b", "to": "phone", "latency_ms": 3, "mbit_s": 8},
            {"from": "c", "to": "phone", "latency_ms": 1, "mbit_s": 8},
        ],
    }


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., Path]:
    """Writes the profile, changed by a function, to a file."""

    def write(change: Callable[[dict[str, Any]], object] = lambda tree: None) -> Path:
        tree = copy.deepcopy(by_hand())
        change(tree)
        file = tmp_path / "profile.json"
        file.write_text(json.dumps(tree))
        return file

    return write


def planned(*arguments: object) -> dict[str, Any]:
    done = command("plan", "--json", *arguments)
    assert done.code == 0, done
    found: dict[str, Any] = done.json
    return found


def refused(code: int, words: str, *arguments: object) -> None:
    done = command("plan", "--json", *arguments)
    assert done.code == code, done
    (line,) = done.errors
    at = 0
    for word in words.split(" … "):
        assert word in line[at:], (word, line)
        at = line.index(word, at) + len(word)
    assert done.json["error"]["message"] in line


def test_latency_is_what_the_file_says_to_the_nanosecond(profile):
    found = planned("--profile", profile(), "--at", "2", "--assign", "a,b")
    # 1 + 3000·8/8000 to a; 4 + 4; 0.5 + 500·8/80000; 1 + 1; 3 + 40·8/8000 back.
    assert found["predicted"]["latency_ms"] == round(4 + 8 + 0.55 + 2 + 3.04, 6)
    assert found["predicted"]["bottleneck_ms"] == 8
    assert found["stages"] == [{"ops": [0, 2], "nodes": ["a"]}, {"ops": [2, 4], "nodes": ["b"]}]


def test_the_best_plan_and_the_best_single_device_are_found(profile):
    found = planned("--profile", profile())
    # b is fastest, has room for two operators, and is reached through a; c ends it, for b's way back is long.
    assert [(stage["ops"], *stage["nodes"]) for stage in found["stages"]] == [
        ([0, 1], "a"),
        ([1, 3], "b"),
        ([3, 4], "c"),
    ]
    assert found["predicted"]["latency_ms"] == round(4 + 4 + 1.3 + 2 + 2.01 + 2 + 1.04, 6)
    assert found["best_single"]["node"] == "a", "no other is linked both ways"
    assert found["best_single"]["latency_ms"] == round(4 + 16 + 1.04, 6)
    assert found["gap"] == 0
    assert found["runners_up"]
    assert all(entry["latency_ms"] >= found["predicted"]["latency_ms"] for entry in found["runners_up"])


def test_a_device_alone_is_the_plan_where_it_is_best(profile):
    def near(tree: dict[str, Any]) -> None:
        tree["devices"][0]["op_ms"] = [1, 1, 1, 1]

    found = planned("--profile", profile(near))
    assert found["stages"] == [{"ops": [0, 4], "nodes": ["a"]}]
    assert found["predicted"]["latency_ms"] == found["best_single"]["latency_ms"]


def test_replicas_share_requests_and_the_slowest_counts(profile):
    def linked(tree: dict[str, Any]) -> None:
        tree["links"] += [
            {"from": "a", "to": "c", "latency_ms": 0.5, "mbit_s": 80},
        ]

    found = planned("--profile", profile(linked), "--at", "2", "--assign", "a,b+c")
    # The slower way is over b: 0.55 + 4 (c is the slower replica) + 3.04 back.
    assert found["predicted"]["latency_ms"] == round(4 + 8 + 0.55 + 4 + 3.04, 6)
    assert found["predicted"]["bottleneck_ms"] == 8


def test_compromises_are_listed_and_drawn(profile, tmp_path):
    svg = tmp_path / "frontier.svg"
    found = planned("--profile", profile(), "--frontier", "latency,throughput", "--svg", svg)["frontier"]
    assert [entry["latency"] for entry in found] == sorted(entry["latency"] for entry in found)
    assert [entry["throughput"] for entry in found] == sorted(
        (entry["throughput"] for entry in found), reverse=True
    )
    assert svg.read_text().startswith("<svg")


def test_the_preview_explains_the_plan_with_units(profile, tmp_path):
    svg = tmp_path / "plan.svg"
    done = command("plan", "--profile", profile(), "--preview", "--svg", svg)
    assert done.code == 0
    for words in ("operators 0..1 of 4", "ms latency", "One request", "full offload a", "exact"):
        assert words in done.err
    assert "<title>" in svg.read_text()


def _link(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["links"][1].update({field: value})


def _device(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["devices"][1].update({field: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree.update(devices=[]), "devices: there is none"),
        (_link("mbit_s", 0), "links[1].mbit_s: 0; give more than 0"),
        (_link("mbit_s", -5), "links[1].mbit_s: -5"),
        (_link("latency_ms", -1), "links[1].latency_ms: -1"),
        (_link("to", "nobody"), "links[1].to: 'nobody' is neither"),
        (_device("op_ms", [1, 1]), "devices[1].op_ms: 2 values … 4"),
        (_device("memory_bytes", 0), "devices[1].memory_bytes: 0"),
        (_device("speed", 3), "unknown field `speed`"),
        (_device("measured_at", "2001-01-01T00:00:00+00:00"), "stale: device b … --merge"),
        (lambda tree: tree["cuts"].append({"at": 9, "bytes": 1}), "cuts[3].at: 9 is out of range"),
        (lambda tree: tree.update(requester="ghost"), "requester: 'ghost' is no device"),
    ],
)
def test_a_profile_that_cannot_be_right_is_refused_by_field(profile, change, words):
    refused(FAILED, words, "--profile", profile(change))


def test_files_that_are_no_profiles_are_refused(tmp_path):
    refused(FAILED, "No such file", "--profile", tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("")
    refused(FAILED, "not a profile", "--profile", tmp_path / "empty.json")
    (tmp_path / "list.json").write_text("[]")
    refused(FAILED, "profile", "--profile", tmp_path / "list.json")


def test_a_profile_of_another_model_is_refused(profile, digits):
    refused(FAILED, "model_sha256 … collab profile", digits.path, "--profile", profile())


def test_a_model_that_fits_nowhere_says_by_how_much(profile):
    def heavy(tree: dict[str, Any]) -> None:
        for device in tree["devices"]:
            device["op_bytes"] = [3000, 1, 1, 1]

    refused(FAILED, "'c' … 1,000 bytes", "--profile", profile(heavy))


def test_devices_that_cannot_reach_each_other_are_named(profile):
    def cut_off(tree: dict[str, Any]) -> None:
        tree["links"] = [entry for entry in tree["links"] if entry["to"] != "phone"]

    refused(FAILED, "phone", "--profile", profile(cut_off))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--forbid", "a,b,c"), FAILED, "forbidden"),
        (("--forbid", "z"), FAILED, "'z'"),
        (("--first-on", "b", "--forbid", "b"), FAILED, "first_on … 'b'"),
        (("--first-on", "a", "--first-ops", 5), FAILED, "first_ops … 5"),
        (("--assign", "a,b", "--forbid", "b"), FAILED, "'b'"),
        (("--at", "2,1"), FAILED, "at: 2, 1 do not ascend"),
        (("--at", "7"), FAILED, "7"),
        (("--deadline-ms", 1), FAILED, "deadline_ms: 1 ms cannot be met … 16.35"),
        (("--transport", "pigeon"), FAILED, "pigeon"),
        (("--codecs", "int8", "--codec-error", 0.1, "--at", "2"), FAILED, "int8 … collab profile --codecs"),
        (("--threads", 2), FAILED, "--threads 2 … collab profile --threads 2"),
        (("--objective", "beauty"), USAGE, "--objective 'beauty' … latency"),
        (("--frontier", "latency,latency"), USAGE, "--frontier"),
        (("--assign", "a,nobody"), USAGE, "'nobody' … a, b, c"),
    ],
)
def test_wishes_that_contradict_each_other_or_the_profile_are_refused(profile, options, code, words):
    refused(code, words, "--profile", profile(), *options)


def test_what_needs_a_model_or_a_profile_says_so():
    refused(USAGE, "MODEL")
    done = command("plan", "--out", "plan.yaml")
    assert done.code == USAGE
    assert "MODEL" in done.errors[0]
