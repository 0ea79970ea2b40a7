"""``collab emulate`` where nothing has to be emulated: mistakes, and comparing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from collab.assets import path as asset
from collab.cli import emulate, main
from collab.emulation.folders import write_results
from collab.emulation.results import Asking, PlanRun, Results
from collab.errors import ConfigError, InputError, UsageError
from tests.unit.emulation.scenarios import tree


@pytest.fixture
def invoke():
    main._register()

    def call(*arguments):
        found = CliRunner().invoke(main.app, ["emulate", *map(str, arguments)])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return call


@pytest.fixture
def scenario_file(tmp_path):
    def write(**changes):
        file = tmp_path / "s.yaml"
        file.write_text(yaml.safe_dump(tree(model=str(asset("digits.tflite")), **changes)))
        return file

    return write


def run_folder(folder: Path, latency_ms: float) -> Path:
    askings = tuple(
        Asking("two", 0, i, "me", 10.0 * i, latency_ms, "ok", 1, False, ("a",), ()) for i in range(4)
    )
    plans = (PlanRun("two", ("stage-0",), (("a",),)),)
    write_results(folder, Results("small", "emulated", 1, plans, 1000.0, askings))
    return folder


def test_mistakes_are_said_before_anything_starts(invoke, scenario_file, monkeypatch):
    with pytest.raises(UsageError, match="--backend 'fast': use auto, netem or userspace"):
        invoke(scenario_file(), "--backend", "fast")
    with pytest.raises(UsageError, match="give one scenario file, or compare and two folders"):
        invoke("compare", "a")
    with pytest.raises(ConfigError, match=r"topology\.profile: .*did you mean|topology\.profile: "):
        invoke(scenario_file(topology={"shape": "mesh", "profile": "lt"}))
    with pytest.raises(InputError, match=r"none\.json"):
        invoke(scenario_file(profile="none.json"))
    with pytest.raises(ConfigError, match=r"hosts: their cpu adds up to 900 cores"):
        invoke(scenario_file(hosts={"me": {}, "a": {"cpu": 900}, "b": {}}))
    monkeypatch.setattr(emulate, "_free_bytes", lambda: 10_000_000)
    with pytest.raises(ConfigError, match=r"hosts: 3 nodes need .* 10 MB are free"):
        invoke(scenario_file())


def test_a_scenario_without_a_model_is_refused(invoke, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(tree()))
    with pytest.raises(ConfigError, match="model: it is missing"):
        invoke(tmp_path / "s.yaml")


def test_two_runs_are_compared(invoke, tmp_path, drawing):
    first, second = run_folder(tmp_path / "one", 10.0), run_folder(tmp_path / "two", 20.0)
    found = invoke("compare", first, second, "--out", tmp_path / "both", "--json")
    document = json.loads(found.stdout)
    figures = {figure["figure"]: figure["ratio"] for figure in document["figures"]}
    assert figures["p50 ms"] == 2.0
    page = (tmp_path / "both" / "compare.html").read_text("utf-8")
    assert "<h1>one and two</h1>" in page
    assert "p50 ms" in invoke("compare", first, second).output


def test_runs_of_one_name_are_told_apart():
    assert emulate._names(Path("a/run"), Path("b/run")) == ("a/run", "b/run")
