"""``collab simulate`` from files to files."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from collab.cli import main, scenarios
from collab.core.profile import to_json
from collab.emulation.folders import read_results
from collab.errors import BackendError, ConfigError, InputError
from tests.unit.emulation.scenarios import PROFILE, tree


@pytest.fixture
def invoke(tmp_path):
    main._register()

    def call(*arguments, **changes):
        (tmp_path / "P.json").write_bytes(to_json(PROFILE))
        given = tree(**{"profile": "P.json", **changes})
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(given))
        found = CliRunner().invoke(main.app, ["simulate", str(tmp_path / "s.yaml"), *arguments])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return call


def test_a_scenario_is_run_and_a_folder_written(invoke, tmp_path, drawing):
    found = json.loads(invoke("--json", "--out", str(tmp_path / "out")).stdout)
    assert found["kind"] == "simulated"
    assert found["plans"][0]["requests"] == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"requests.csv", "links.csv", "run.json", "summary.json", "report.html"}


@pytest.mark.parametrize("command", ["simulate", "emulate"])
def test_without_the_libraries_they_are_named(command, monkeypatch, tmp_path):
    main._register()
    monkeypatch.setattr(scenarios, "find_spec", lambda name: None if name == "simpy" else name)
    found = CliRunner().invoke(main.app, [command, str(tmp_path / "s.yaml")])
    assert isinstance(found.exception, BackendError)
    assert str(found.exception) == (
        "scenarios need simpy: install the emulation extra (pip install 'collab[emulation]')"
    )


def test_a_sweep_prints_every_point(invoke):
    found = json.loads(invoke("--json", "--sweep", "hosts.a.stretch=1..3", "--jobs", "1").stdout)
    values = [point["values"]["hosts.a.stretch"] for point in found["points"]]
    medians = [point["summary"]["plans"][0]["latency_ms"]["p50"] for point in found["points"]]
    assert values == [1, 2, 3]
    assert medians == sorted(medians)


def test_links_that_follow_traces_are_simulated(invoke, tmp_path, drawing):
    (tmp_path / "slow.csv").write_text("0,1\n10,1\n")
    (tmp_path / "fast.csv").write_text("0,8\n10,8\n")
    links = [
        {
            "from": "me",
            "to": "a",
            "profile": {"up": {"trace": "slow.csv"}},
            "schedule": [{"at_s": 1.5, "profile": {"up": {"trace": "fast.csv"}}}],
        }
    ]
    load = {"kind": "trace", "at_s": [0.0, 3.0]}
    invoke("--out", str(tmp_path / "out"), links=links, workload=load)
    slow, fast = (asking.latency_ms for asking in read_results(tmp_path / "out").askings)
    # A thousand bytes and what is around them, at 1 and at 8 Mbit/s.
    assert slow - fast == pytest.approx(7, abs=1)


def test_mistakes_in_files_are_said_in_one_line(invoke, tmp_path):
    with pytest.raises(ConfigError, match="profile: it is missing"):
        invoke(profile="")
    with pytest.raises(InputError, match=r"none\.json"):
        invoke(profile="none.json")
    with pytest.raises(ConfigError, match=r"workload\.rate: -1"):
        invoke(workload={"kind": "poisson", "rate": -1, "requests": 1})
