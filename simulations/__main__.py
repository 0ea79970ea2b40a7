"""Run experiments: ``python -m simulations baselines --quick``; see docs/experiments.md.

Cases that are done and have not changed are not run again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collab.cli.scenarios import require_libraries
from collab.errors import CollabError, UsageError

INTERRUPTED = 130
"""Exit code of a run of which cases are missing."""


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m simulations", description=__doc__, formatter_class=shape)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments; all without a name")
    parser.add_argument("--quick", action="store_true", help="fewer cases, with fewer requests")
    parser.add_argument("--out", type=Path, default=Path("build/experiments"), help="folder for results")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUE,…",
        help="only these cases, such as kind=simulated or profile=lte,wifi6",
    )
    parser.add_argument("--again", action="store_true", help="also run what is done already")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case later than that")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run what is asked for, and write tables and plots; the exit code."""
    options = arguments(given)
    try:
        require_libraries()
        return run(options)
    except CollabError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    """Every experiment that was named."""
    from simulations.catalogue import EXPERIMENTS, STUDIES
    from simulations.choosing import allowed
    from simulations.running import Runner, say

    unknown = [name for name in options.names if name not in {*EXPERIMENTS, *STUDIES}]
    if unknown:
        raise UsageError(
            f"{unknown[0]!r}: there is no such experiment; there are {', '.join((*EXPERIMENTS, *STUDIES))}"
        )
    runner = Runner(options.out, options.again, time.monotonic() + options.minutes * 60)
    missing = 0
    # Cases of scenarios are picked by axes, of which a study has none.
    for name in options.names or (EXPERIMENTS if options.only else (*EXPERIMENTS, *STUDIES)):
        if name in STUDIES:
            conclude(options.out / name, STUDIES[name], options)
            continue
        experiment = EXPERIMENTS[name]
        cases = allowed(experiment.cases(options.quick), options.only)
        done = list(runner.run(options.out / name, cases))
        missing += len(cases) - len(done)
        if done:
            write(options.out / name, experiment, done, len(cases) - len(done))
            say(f"{name}: {len(done)} of {len(cases)} cases, written to {options.out / name}")
    if missing:
        say(f"{missing} cases are missing; the same command goes on with them")
    return INTERRUPTED if missing else 0


def conclude(folder: Path, study: Any, options: argparse.Namespace) -> None:
    """Compute a study, always anew, and write what it came to."""
    from simulations.running import say

    if options.only:
        raise UsageError(f"--only: {study.name} has no cases; leave it out")
    folder.mkdir(parents=True, exist_ok=True)
    found = study.run(options.quick)
    put(folder, study, found.rows, found.table, found.plots, 0)
    say(f"{study.name}: written to {folder}")


def write(folder: Path, experiment: Any, done: Sequence[Any], missing: int) -> None:
    """A table of all cases as CSV and JSON, the table for people, and the plots."""
    rows = [row for one in done for row in one.rows()]
    put(folder, experiment, rows, experiment.table(done), experiment.draw(done), missing)


def put(folder: Path, experiment: Any, rows: Any, table: str, plots: Mapping[str, str], missing: int) -> None:
    """Write results into a folder that exists."""
    from collab.cli.files import write_text

    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    document = {
        "experiment": experiment.name,
        "question": experiment.question,
        "missing": missing,
        "rows": rows,
    }
    write_text(folder / "results.json", json.dumps(document, indent=1, ensure_ascii=False))
    write_text(folder / "table.md", table)
    for name, svg in plots.items():
        write_text(folder / f"{name}.svg", svg)


if __name__ == "__main__":
    sys.exit(main())
