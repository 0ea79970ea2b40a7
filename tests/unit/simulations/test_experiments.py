"""Experiments: their cases, what becomes of them, and how a run that was stopped goes on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from collab.emulation.profiles import PROFILES
from collab.emulation.scenario import convert_scenario
from collab.emulation.scenario_check import check_scenario
from collab.emulation.simulator import Inputs, prepare, simulate
from collab.errors import UsageError
from simulations import running
from simulations.__main__ import main, write
from simulations.catalogue import EXPERIMENTS
from simulations.choosing import allowed
from simulations.codecs import moving_ms
from simulations.experiment import HERE, Case, scenario
from simulations.models import CODECS, MODELS, kept_profile
from simulations.running import Runner

NOWHERE = Path("/nonexistent")


def simulated(name: str) -> list[Case]:
    return [case for case in EXPERIMENTS[name].cases(True) if case.kind == "simulated"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_case_can_run_and_has_a_folder_of_its_own(name):
    cases = [case for quick in (True, False) for case in EXPERIMENTS[name].cases(quick)]
    for case in cases:
        check_scenario(convert_scenario(case.tree))
    full = [case.name for case in EXPERIMENTS[name].cases(False)]
    assert len(set(full)) == len(full)
    assert {case.kind for case in cases} == {"simulated", "emulated"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_gives_rows_a_table_and_plots(name, tmp_path):
    # Two that differ, where there are two.
    cases = simulated(name)[:: max(1, len(simulated(name)) - 1)]
    done = list(Runner(tmp_path).run(tmp_path / name, cases))
    write(tmp_path / name, EXPERIMENTS[name], done, 0)
    with open(tmp_path / name / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    plans = sum(len(case.tree["plans"]) for case in cases)
    assert len(rows) == plans == len(json.loads((tmp_path / name / "results.json").read_text())["rows"])
    assert all(float(row["p50_ms"]) > 0 and row["placed"] for row in rows)
    assert all(int(row["failed"]) < int(row["requests"]) for row in rows)
    plots = list((tmp_path / name).glob("*.svg"))
    assert plots
    assert all(plot.read_text("utf-8").startswith("<svg") for plot in plots)
    assert (tmp_path / name / "table.md").read_text("utf-8").count("\n| ") >= len(cases)


def test_cases_that_are_done_are_read_back_and_changed_ones_run_again(tmp_path, monkeypatch):
    case = simulated("codecs")[-1]
    first = list(Runner(tmp_path).run(tmp_path / "codecs", [case]))
    ran: list[int] = []

    def counted(*given):
        ran.append(1)
        return simulate(*given)

    monkeypatch.setattr(running, "simulate", counted)
    again = list(Runner(tmp_path).run(tmp_path / "codecs", [case]))
    assert not ran
    assert [one.rows() for one in again] == [one.rows() for one in first]
    other = Case(case.kind, case.values, {**case.tree, "seed": 2}, case.model)
    (changed,) = Runner(tmp_path).run(tmp_path / "codecs", [other])
    assert changed.rows() != first[0].rows()
    assert ran == [1]


def test_a_run_that_has_no_time_says_what_is_missing(tmp_path, capsys):
    given = ["quorum", "--quick", "--only", "kind=simulated", "--minutes", "0", "--out", str(tmp_path)]
    assert main(given) == 130
    assert "1 cases are missing" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.csv"))


def test_an_interrupted_case_is_not_kept(tmp_path, monkeypatch):
    def interrupted(*given):
        return replace(simulate(*given), partial=True)

    monkeypatch.setattr(running, "simulate", interrupted)
    runner = Runner(tmp_path)
    assert list(runner.run(tmp_path / "quorum", simulated("quorum"))) == []
    assert runner.stopped
    assert not list(tmp_path.rglob("case.json"))


def test_an_unknown_name_is_answered_with_those_that_there_are(tmp_path, capsys):
    assert main(["quorom", "--out", str(tmp_path)]) == 2
    assert "there are baselines, nodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("profile", "write AXIS=VALUE"),
        ("profile=5g", "profile may be 5g-sa-midband"),
        ("plan=local", "axes are kind, model, profile"),
    ],
)
def test_what_lets_no_case_through_is_refused(only, said):
    with pytest.raises(UsageError, match=said):
        allowed(EXPERIMENTS["baselines"].cases(False), ["kind=simulated", only])


def test_only_some_values_of_an_axis_can_be_chosen():
    cases = allowed(EXPERIMENTS["baselines"].cases(False), ["kind=simulated", "profile=lte,wifi6"])
    assert {case.values["profile"] for case in cases} == {"lte", "wifi6"}
    assert len(cases) == 6


def test_baselines_are_simulated_over_every_link_of_the_library():
    cases = [case for case in EXPERIMENTS["baselines"].cases(False) if case.kind == "simulated"]
    assert {case.values["profile"] for case in cases} == set(PROFILES)
    assert len({case.values["model"] for case in cases}) == 3
    for case in cases:
        _, placed = prepare(convert_scenario(case.tree), Inputs(kept_profile(case.model, NOWHERE)))
        local, offload, divided = (one.predicted.latency_ms for one in placed if one.predicted)
        assert divided <= min(local, offload)


def test_smaller_tensors_take_less_time_on_a_slow_link(tmp_path):
    slow = simulated("codecs")[:1]
    (one,) = Runner(tmp_path).run(tmp_path / "codecs", slow)
    assert moving_ms(one, "int8") < moving_ms(one, "fp16") < moving_ms(one, "raw")


def test_kept_profiles_are_of_models_that_there_are_and_name_no_folder():
    assert {path.stem for path in (HERE / "profiles").iterdir()} == set(MODELS)
    for name in MODELS:
        profile = kept_profile(name, NOWHERE)
        assert profile.model == f"{name}.tflite"
        known = {codec.codec for codec in profile.devices[0].codecs}
        assert len(known) == len(CODECS.get(name, ()))


def test_scenario_files_are_those_of_the_experiments():
    files = {path.stem for path in HERE.glob("*.yaml")}
    assert files - {"thousand"} == set(EXPERIMENTS)
    for name in EXPERIMENTS:
        tree, model = scenario(name)
        assert tree["name"] == name
        assert model in MODELS
        prepare(convert_scenario(tree), Inputs(kept_profile(model, NOWHERE)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_described_with_its_question_its_command_and_a_small_plot(name):
    docs = HERE.parent / "docs"
    _, mark, section = (docs / "experiments.md").read_text("utf-8").partition(f"\n## {name}\n")
    assert mark
    section = section.partition("\n## ")[0]
    assert EXPERIMENTS[name].question in section
    assert f"`python -m simulations {name}`" in section
    plots = re.findall(r"\]\((images/experiments/\S+\.svg)\)", section)
    assert plots
    assert all((docs / plot).stat().st_size < 100_000 for plot in plots)
