"""``collab emulate``: a scenario with real nodes over emulated links; two runs beside each other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import AsJson
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.core.profile import Profile
    from collab.emulation.ability import BackendName
    from collab.emulation.results import Results
    from collab.emulation.runner import Material
    from collab.emulation.scenario import Scenario

EXAMPLE = """
Examples:

    collab emulate scenario.yaml --out run-1

    collab emulate scenario.yaml --backend userspace --json

    collab emulate compare run-1 run-2 --out compared
"""
INTERRUPTED = 130
"""Exit code after SIGINT, as shells have it; partial results are written all the same."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("emulate", epilog=EXAMPLE)(emulate)


def emulate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO | compare A B",
            help="A scenario file; or the word compare and the folders of two runs.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for measurements, summary and report.")] = None,
    backend: Annotated[str, typer.Option(help="How links are emulated: auto, netem or userspace.")] = "auto",
    json_: AsJson = False,
) -> None:
    """Run a scenario's plans on real nodes over emulated links, or compare two runs."""
    from collab.cli.scenarios import require_libraries

    require_libraries()
    if what[0] == "compare" and len(what) == 3:
        _compare(Path(what[1]), Path(what[2]), out, json_)
        return
    if len(what) != 1:
        raise UsageError(f"{' '.join(what)!r}: give one scenario file, or compare and two folders")
    _emulate(Path(what[0]), out, _backend(backend), json_)


def _backend(text: str) -> BackendName:
    for known in ("auto", "netem", "userspace"):
        if known == text:
            return known
    raise UsageError(f"--backend {text!r}: use auto, netem or userspace")


def _emulate(file: Path, out: Path | None, backend: BackendName, json_: bool) -> None:
    from collab.cli.files import write_profile
    from collab.cli.output import emit, say, show
    from collab.cli.scenario_tables import plans_table
    from collab.cli.scenarios import read_material, read_scenario
    from collab.emulation.ability import machine_lacks
    from collab.emulation.folders import write_results
    from collab.emulation.runner import check_emulated
    from collab.emulation.scenario import convert_scenario
    from collab.emulation.scenario_check import check_machine, check_scenario
    from collab.emulation.summary import summarise
    from collab.errors import BackendError

    scenario = convert_scenario(read_scenario(file))
    check_scenario(scenario)
    material = read_material(scenario, file.parent)
    check_emulated(scenario, material)
    check_machine(scenario, os.cpu_count() or 1, _free_bytes(), material.model.stat().st_size)
    if missing := machine_lacks():
        raise BackendError(missing)
    results, measured = asyncio.run(_run(scenario, material, backend))
    if out is not None:
        write_results(out, results)
        _report(out, results)
        if measured is not None:
            write_profile(out / "profile.json", measured)
        say(f"written to {out}")
    if json_:
        emit(summarise(results))
    else:
        show(plans_table(results, results.scenario))
        for note in results.notes:
            say(note)
    if results.partial:
        say("interrupted: the results are partial")
        raise typer.Exit(INTERRUPTED)


def _free_bytes() -> int:
    """Memory that processes may still take on this machine."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


async def _run(
    scenario: Scenario, material: Material, backend: BackendName
) -> tuple[Results, Profile | None]:
    from collab.cli.output import phases
    from collab.emulation.runner import Emulation

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with phases("requests") as tell:
        emulation = Emulation(scenario, material, backend, tell)
        return await emulation.run(stop), emulation.measured


def _report(out: Path, results: Results) -> None:
    from collab.cli.files import write_text
    from collab.emulation.report import report

    write_text(out / "report.html", report(results))


def _compare(first: Path, second: Path, out: Path | None, json_: bool) -> None:
    from collab.cli.files import write_text
    from collab.cli.output import emit, say, show, table
    from collab.emulation.compare import compare
    from collab.emulation.folders import read_results
    from collab.emulation.report import comparison

    names = _names(first, second)
    one, other = read_results(first), read_results(second)
    pairs = compare(one, other)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "compare.html", comparison(one, other, names))
        say(f"written to {out / 'compare.html'}")
    if json_:
        emit({"first": str(first), "second": str(second), "figures": [pair.to_json() for pair in pairs]})
        return
    rows = [(p.plan, p.figure, *_shown((p.first, p.second, p.ratio))) for p in pairs]
    show(table("", ("plan", "figure", *names, "ratio"), rows))


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What the runs are called: their folders, in full where these have one name."""
    if first.name and first.name != second.name:
        return first.name, second.name
    return str(first), str(second)


def _shown(values: Sequence[float | None]) -> list[Any]:
    return ["–" if value is None else value for value in values]
