"""Sweeps: which runs there are, and that it does not matter who works them off."""

from __future__ import annotations

from typing import Any

import pytest

from collab.emulation.report import report
from collab.emulation.simulator import Inputs, simulate
from collab.emulation.summary import summarise
from collab.emulation.sweeps import Task, on_cores, on_dask, one_by_one, parse_sweep, points_of, run_points
from collab.errors import ConfigError, PeerUnreachable, UsageError
from tests.unit.emulation.scenarios import PROFILE, tree


def test_every_combination_of_values_and_seeds_is_a_point():
    given = tree(links=[{"from": "a", "to": "b"}], workload={"kind": "poisson", "rate": 1, "requests": 2})
    sweeps = [parse_sweep("links.0.profile=lte,wifi6"), parse_sweep("workload.rate=1..3")]
    points = points_of(given, sweeps, seeds=2)
    assert len(points) == 12
    assert dict(points[0].values) == {"links.0.profile": "lte", "workload.rate": 1, "seed": 1}
    assert points[-1].scenario.links[0].profile == "wifi6"
    assert points[-1].scenario.workload.rate == 3
    assert points[-1].scenario.seed == 2
    assert given["links"] == [{"from": "a", "to": "b"}]


@pytest.mark.parametrize("text", ["workload.rate", "=1", "a=", "a=1..x", "a=3..1"])
def test_a_sweep_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="--sweep"):
        parse_sweep(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("links.3.profile=lte", "links.3: there is no such entry, there are 0"),
        ("wrkload.rate=1", "wrkload: the scenario has no such field"),
        ("name.x=1", "name is a value"),
        ("workload.kind=poison", "workload.kind"),
    ],
)
def test_a_field_that_is_not_there_is_named(text, said):
    with pytest.raises(ConfigError, match=said):
        points_of(tree(links=[]), [parse_sweep(text)])


def test_other_processes_give_what_this_one_gives(tracker):
    points = points_of(tree(plans=["local", "offload"], noise=0.1), [], seeds=2)
    inputs = Inputs(PROFILE)
    done = []
    here = run_points(points, inputs, one_by_one(), lambda number, total: done.append((number, total)))
    assert here == tuple(simulate(point.scenario, inputs) for point in points)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert run_points(points, inputs, on_cores(2)) == here


LONG = {"kind": "closed", "requests": 10**7}


def test_an_interrupt_keeps_what_was_done_and_marks_what_is_missing(drawing):
    points = points_of(tree(workload=LONG), [parse_sweep("workload.requests=2,10000000,3")])

    def interrupt(requests):
        if requests > 500:
            raise KeyboardInterrupt

    whole, begun, missing = run_points(points, Inputs(PROFILE), one_by_one(interrupt))
    assert [(len(r.askings), r.partial) for r in (whole, missing)] == [(2, False), (0, True)]
    assert begun.partial
    assert 500 <= len(begun.askings) < 2000
    assert summarise(missing)["plans"][0]["latency_ms"]["p50"] is None
    assert "Stopped before its end" in report(missing)


def test_an_interrupt_stops_other_processes_and_takes_what_they_have(tracker):
    points = points_of(tree(workload=LONG), [parse_sweep("workload.requests=2,10000000")])
    tasks = [Task(number, point.scenario, 0, 0) for number, point in enumerate(points)]
    work: Any = on_cores(2)(tasks, Inputs(PROFILE))
    number, whole = next(work)
    assert (number, whole.partial, len(whole.askings)) == (0, False, 2)
    rest = [work.throw(KeyboardInterrupt), *work]
    assert [(number, run.partial) for number, run in rest] == [(1, True)]


@pytest.mark.slow
def test_a_dask_cluster_gives_what_this_process_gives():
    distributed = pytest.importorskip("distributed")
    points = points_of(tree(noise=0.1), [], seeds=2)
    inputs = Inputs(PROFILE)
    here = run_points(points, inputs, one_by_one())
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
    ) as cluster:
        assert run_points(points, inputs, on_dask(cluster.scheduler_address)) == here


def test_a_scheduler_that_is_not_there_is_named():
    pytest.importorskip("distributed")
    with pytest.raises(PeerUnreachable, match="--dask nowhere: no scheduler answers there"):
        list(on_dask("nowhere")([], Inputs(PROFILE)))
