"""``collab release policy explain``: what it prints, what scripts read, what a mistake says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collab.cli import release_policy
from collab.errors import ConfigError, InputError

SHIPPED = sorted((Path(__file__).parents[3] / "simulations" / "policies").glob("*.yaml"))
POLICY = """
name: field
rules:
  - then: faster
    when: {kind: level, measure: psi, at_least: 0.2}
  - then: check
    when:
      kind: all
      of:
        - {kind: level, measure: battery, at_least: 0.5, until: 0.3}
        - {kind: every, hours: 24}
"""
TOML = """
name = "field"
[[rules]]
then = "check"
when = { kind = "is", flag = "charging" }
"""


def call(*words):
    result = CliRunner().invoke(release_policy.app, ["explain", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "policy.toml").write_text(TOML)
    (tmp_path / "state.json").write_text('{"time_s": 1700000000, "battery": 0.4, "charging": true}')
    return tmp_path


def test_each_clause_is_said_with_its_verdict_and_nothing_goes_to_standard_output(folder):
    result = call(folder / "policy.yaml", "--state", folder / "state.json")
    assert result.stdout == ""
    for word in ("faster", "psi is not known", "battery 0.4 < 0.5", "never looked", "wait (no rule)"):
        assert word in result.stderr


def test_scripts_read_one_object_and_give_its_memory_back(folder):
    state = folder / "state.json"
    state.write_text('{"time_s": 1700000000, "battery": 0.6}')
    first = json.loads(call(folder / "policy.yaml", "--state", state, "--json").stdout)
    assert (first["policy"], first["action"], first["rule"]) == ("field", "check", 1)
    assert [line["kind"] for line in first["clauses"]] == ["level", "all", "level", "every"]
    assert first["clauses"][0]["verdict"] == "unknown"
    memory = folder / "memory.json"
    memory.write_text(json.dumps(first["memory"]))
    state.write_text('{"time_s": 1700000060, "battery": 0.4}')
    again = json.loads(call(folder / "policy.yaml", "--state", state, "--memory", memory, "--json").stdout)
    assert again["action"] == "check"
    without = json.loads(call(folder / "policy.yaml", "--state", state, "--json").stdout)
    assert without["action"] == "wait"


def test_when_time_alone_changes_it_is_said_in_utc(folder):
    (folder / "state.json").write_text('{"time_s": 1700000000, "battery": 1, "checked_s": 1699999999}')
    assert (
        "time alone may change this at 2023-11-1"
        in call(folder / "policy.yaml", "--state", folder / "state.json").stderr
    )


def test_a_policy_may_be_toml(folder):
    found = json.loads(call(folder / "policy.toml", "--state", folder / "state.json", "--json").stdout)
    assert (found["action"], found["why"]) == ("check", "charging")


@pytest.mark.parametrize("policy", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_policies_that_are_shipped_can_be_explained(policy, folder):
    found = json.loads(call(policy, "--state", folder / "state.json", "--json").stdout)
    assert found["policy"] == policy.stem
    assert found["action"] == "check" or "in the window" not in str(found["clauses"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.yaml", "name: [", "p.yaml: cannot be read"),
        ("p.yaml", "a: &x [1]\nb: *x", "has an alias"),
        ("p.yaml", "name: p\nrules: []", "p.yaml: rules: 0 rules"),
        ("p.yaml", "[" * 5_000, "nested deeper than 64"),
        ("p.yaml", "", "p.yaml: policy: Expected `object`"),
        ("p.toml", "name = ", "p.toml: cannot be read"),
    ],
)
def test_a_policy_that_cannot_be_read_is_one_clear_error(folder, name, text, said):
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        call(folder / name, "--state", folder / "state.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "state.json: is no JSON"),
        ("[1]", "state.json: state: Expected `object`"),
        ('{"time_s": 1, "batery": 1}', "unknown field `batery`"),
        ("[" * 100_000, "is no JSON"),
        (" " * ((1 << 20) + 1), "over 1048576 bytes"),
    ],
)
def test_a_state_that_cannot_be_read_is_one_clear_error(folder, text, said):
    (folder / "state.json").write_text(text)
    with pytest.raises(InputError, match=said):
        call(folder / "policy.yaml", "--state", folder / "state.json")


def test_a_file_that_is_missing_is_named(folder):
    with pytest.raises(InputError, match=r"gone\.json: No such file"):
        call(folder / "policy.yaml", "--state", folder / "gone.json")
    (folder / "policy.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no text in UTF-8"):
        call(folder / "policy.yaml", "--state", folder / "state.json")
