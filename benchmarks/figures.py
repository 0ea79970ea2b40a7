"""Figures: what was measured beside what, and how they are printed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from collab.runtime.litert import LiteRT


@dataclass(frozen=True)
class Figure:
    """One measured figure, its target and the yardstick of the same run."""

    name: str
    value: float
    unit: str
    target: str
    """Such as ``<= 1.0``; empty for a figure that is only reported."""
    yardstick: float | None
    how: str

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.value <= float(bound) if sign == "<=" else self.value >= float(bound)


def arguments(description: str | None, parts: Sequence[str] = ()) -> argparse.Namespace:
    """The options that every benchmark has; of one with parts some can be named."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=shape)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, within a minute")
    parser.add_argument("--full", action="store_true", help="rebuild what is cached")
    if parts:
        parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these of {', '.join(parts)}")
    options = parser.parse_args()
    if unknown := set(getattr(options, "parts", ())).difference(parts):
        parser.error(f"there is no {', '.join(sorted(unknown))}; use {', '.join(parts)}")
    return options


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = {}
    for name in ("collab", "ai-edge-litert", "grpcio", "numpy", "protobuf"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "source"
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "runtime_class": str(LiteRT().runtime_class()),
        "packages": packages,
    }


def report(figures: Sequence[Figure], options: argparse.Namespace, where: dict[str, Any]) -> None:
    """Print the figures as a table, or as JSON."""
    if options.json:
        rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        print(json.dumps({"figures": rows, "machine": where}))
        return
    from collab.cli.output import show, table

    verdict = {True: "yes", False: "NO", None: ""}
    body = [
        (
            f.name,
            f"{f.value:.3g} {f.unit}",
            f.target,
            verdict[f.holds],
            f"{f.yardstick:.3g}" if f.yardstick else "",
        )
        for f in figures
    ]
    show(table("", ("figure", "value", "target", "holds", "yardstick"), body))
    print(f"{where['cores']} cores, load {where['load_before']}, {where['runtime_class']}")


Measure = Callable[[argparse.Namespace], Coroutine[Any, Any, list[Figure]]]


def run(measure: Measure, description: str | None, parts: Sequence[str] = ()) -> None:
    """Parse the options, measure, report; exit status 0 even where a target is missed."""
    import asyncio

    options = arguments(description, parts)
    where = machine()
    figures = asyncio.run(measure(options))
    report(figures, options, where)
    sys.stdout.flush()
