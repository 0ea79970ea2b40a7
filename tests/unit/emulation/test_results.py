"""Results: folders, figures, reports and comparisons."""

from __future__ import annotations

import pytest

from collab.emulation.compare import compare
from collab.emulation.folders import read_results, write_results
from collab.emulation.report import comparison, report
from collab.emulation.summary import percentile, summarise
from collab.errors import InputError
from tests.unit.emulation.scenarios import run

PLANS = ["local", {"name": "two", "at": [2], "assign": ["a", "b"]}]


@pytest.fixture(scope="module")
def results():
    return run(
        plans=PLANS,
        workload={"kind": "poisson", "rate": 50, "duration_s": 1, "deadline_ms": 40},
        faults=[{"kill": "b", "at_s": 0.5, "for_s": 0.2}],
    )


def test_what_is_written_is_read_back(results, tmp_path):
    write_results(tmp_path / "run", results)
    found = read_results(tmp_path / "run")
    assert found.plans == results.plans
    assert found.marks == results.marks
    assert summarise(found) == summarise(results)


@pytest.mark.parametrize("name", ["run.json", "requests.csv"])
def test_a_broken_folder_is_refused_with_the_file(results, tmp_path, name):
    write_results(tmp_path, results)
    (tmp_path / name).write_text("nothing")
    with pytest.raises(InputError, match=name):
        read_results(tmp_path)


def test_a_broken_row_is_refused_with_its_line(results, tmp_path):
    write_results(tmp_path, results)
    file = tmp_path / "requests.csv"
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace("local", "local,x", 1)
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 3"):
        read_results(tmp_path)


def test_percentiles_are_straight_between_ranks():
    assert percentile([1.0, 2.0, 4.0], 50) == 2
    assert percentile([1.0, 2.0], 75) == 1.75
    assert percentile([], 50) != percentile([], 50)


def test_failed_and_late_requests_are_misses(results):
    two = summarise(results)["plans"][1]
    assert two["errors"].keys() <= {"node_lost", "deadline", "overloaded"}
    assert two["failed"] > 0
    assert two["deadline_misses"] >= two["failed"]
    assert two["requests"] == len(results.of("two"))


def test_a_report_needs_nothing_outside_of_it_and_escapes_names(results, drawing):
    text = report(results)
    assert text.count("<svg") == 4
    assert "kill b" in text
    assert "src=" not in text
    assert report(results) == text
    both = comparison(results, results, ("<first>", "second"))
    assert "&lt;first&gt;" in both
    assert "<first>" not in both


def test_runs_are_compared_plan_by_plan(results):
    slower = run(plans=["local"], hosts={"me": {"device": "slow", "stretch": 2}, "a": {"device": "fast"}})
    pairs = {pair.figure: pair for pair in compare(results, slower)}
    assert pairs["p50 ms"].plan == "local"
    assert pairs["p50 ms"].ratio == pytest.approx(2, abs=0.1)
    assert pairs["failed"].ratio is None
    with pytest.raises(InputError, match="no plan in common"):
        compare(slower, run())
