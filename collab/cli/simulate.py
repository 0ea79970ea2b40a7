"""``collab simulate``: a scenario in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import AsJson
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.emulation.results import Results
    from collab.emulation.sweeps import Point

EXAMPLE = """
Examples:

    collab simulate scenario.yaml --out run-1

    collab simulate scenario.yaml --sweep topology.profile=lte,wifi6 --sweep workload.rate=1..10 --json

    collab simulate scenario.yaml --seeds 100 --dask tcp://10.0.0.5:8786 --out sweep
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", epilog=EXAMPLE)(simulate)


def simulate(
    scenario: Annotated[Path, typer.Argument(help="A scenario file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for measurements, summary and report.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="A field and its values, such as workload.rate=1..10; may be given several times."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs with so many seeds.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes; 0 takes all cores.")] = 0,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to work on, or local for one here.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Run a scenario's plans in virtual time, by the state machines of real nodes and clients.

    Interrupted, it keeps what was done until then, marks it as partial, and ends with exit code 130.
    """
    from collab.cli.output import emit, progress, say, show
    from collab.cli.scenarios import read_inputs, read_scenario, require_libraries

    require_libraries()
    from collab.emulation.sweeps import on_cores, on_dask, one_by_one, parse_sweep, points_of, run_points

    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: give 1 or more")
    if jobs < 0:
        raise UsageError(f"--jobs {jobs}: give 0 or more")
    tree = read_scenario(scenario)
    points = points_of(tree, [parse_sweep(text) for text in sweep or ()], seeds)
    inputs = read_inputs(points[0].scenario, scenario.parent)
    single = len(points) == 1
    count = _processes(points, jobs) if dask is None else 0
    with progress("simulating", "requests" if count == 1 else "runs") as bar:
        if count == 1:
            requests = _requests(points)
            results = run_points(points, inputs, one_by_one(lambda done: bar(done, requests)))
        else:
            work = on_cores(count) if dask is None else on_dask(dask)
            results = run_points(points, inputs, work, bar)
    if out is not None:
        _write(out, points, results)
        say(f"written to {out}")
    document = _document(points, results)
    if json_:
        emit(document["points"][0]["summary"] if single else document)
    else:
        show(*(_table(point, result) for point, result in zip(points, results, strict=True)))
    if any(result.partial for result in results):
        say("interrupted: the figures are of what was done until then")
        raise typer.Exit(_INTERRUPTED)


def _processes(points: Sequence[Point], jobs: int) -> int:
    """How many to use: starting processes takes longer than a small run."""
    import os

    runs = sum(len(p.scenario.plans) * p.scenario.repetitions for p in points)
    if jobs == 0 and _requests(points) < _MANY:
        return 1
    return min(jobs or os.cpu_count() or 1, runs)


def _requests(points: Sequence[Point]) -> int:
    """Of all runs; a guess where a workload ends by time."""
    return sum(
        (p.scenario.workload.requests or _MANY) * len(p.scenario.plans) * p.scenario.repetitions
        for p in points
    )


_INTERRUPTED = 130
"""As shells count what SIGINT has ended."""
_MANY = 5_000
"""Requests that are worth more than one process."""


def _document(points: Sequence[Point], results: Sequence[Results]) -> dict[str, Any]:
    from collab.emulation.summary import summarise

    return {
        "points": [
            {"values": dict(point.values), "summary": summarise(result)}
            for point, result in zip(points, results, strict=True)
        ]
    }


def _write(out: Path, points: Sequence[Point], results: Sequence[Results]) -> None:
    """One folder, or one for each point and a table of all."""
    import json

    from collab.cli.files import write_text
    from collab.emulation.folders import write_results
    from collab.emulation.report import report

    for number, result in enumerate(results):
        folder = out if len(results) == 1 else out / f"point-{number:04d}"
        write_results(folder, result)
        write_text(folder / "report.html", report(result))
    if len(results) > 1:
        write_text(out / "sweep.json", json.dumps(_document(points, results), indent=1, ensure_ascii=False))


def _table(point: Point, result: Results) -> Any:
    from collab.cli.scenario_tables import plans_table

    values = ", ".join(f"{name} {value}" for name, value in point.values.items())
    if result.partial:
        values += " (partial)"
    return plans_table(result, f"{result.scenario}: {values}")
