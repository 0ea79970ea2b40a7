"""Compressed models beside their float32 baseline: right answers, size, time, memory, exact cuts.

A CNN of 438,000 parameters and MobileNetV3-small at 32 by 32, both trained on Fashion-MNIST; all
10,000 test images, paired.  Times are those of one thread, each variant in turns with its
baseline.  The CNN's variants are committed; those of MobileNetV3-small are larger than what is
committed and come from the cache that ``--full`` (hours) fills; without them their figures are
left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Final

import numpy as np

from benchmarks.fashion import images
from benchmarks.figures import Figure, run
from benchmarks.toolchain_models import CACHE, KINDS, make, taught, variants
from collab.toolchain.compress.frontier import Paired, paired
from collab.toolchain.compress.measure import arena_bytes, exact_cuts, right, times_ms, zstd_bytes

TITLES: Final = {"cnn": "CNN", "v3": "MobileNetV3-small"}
ROUNDS: Final = {True: 15, False: 60}
"""Turns of timing, quick and not."""
DROPS: Final = {"int8": 0.5, "structured-pruned": 1.0, "best chain": 1.0, "best chain with a student": 1.0}
"""Points that may be lost, where the project has a target."""


def figures_of(title: str, found: Mapping[str, bytes], side: int, rounds: int) -> list[Figure]:
    """All figures of one baseline and its variants."""
    tests = taught(images("t10k"), side)
    baseline = found["baseline"]
    answers = {label: right(data, tests.inputs, tests.labels) for label, data in found.items()}
    size = zstd_bytes(baseline)
    made = [
        Figure(
            f"{title}: baseline, right", 100 * float(answers["baseline"].mean()), "%", "", None, _how(0, 0)
        ),
        Figure(f"{title}: baseline, zstd", size / 1000, "kB", "", None, f"file {len(baseline)} bytes"),
    ]
    for label, data in found.items():
        if label == "baseline":
            continue
        change = paired(answers[label], answers["baseline"])
        ours, theirs = times_ms([data, baseline], tests.inputs[:1], rounds)
        name = f"{title}: {label}"
        made += [
            _accuracy(name, label, change),
            *_sizes(name, label, data, baseline),
            _speed(name, label, ours, theirs),
            Figure(
                f"{name}, arena", arena_bytes(data) / 1000, "kB", "", arena_bytes(baseline) / 1000, "planned"
            ),
            _cuts(name, data, tests.inputs),
        ]
    return made


def _how(low: float, high: float) -> str:
    return (
        f"10,000 test images; 95 % of the difference {low:+.2f} to {high:+.2f}"
        if low or high
        else "10,000 test images"
    )


def _accuracy(name: str, label: str, change: Paired) -> Figure:
    target = f">= {-DROPS[label]}" if label in DROPS else ""
    return Figure(f"{name}, points", change.points, "points", target, 0.0, _how(change.low, change.high))


def _sizes(name: str, label: str, data: bytes, baseline: bytes) -> list[Figure]:
    file = len(data) / len(baseline)
    sent = zstd_bytes(data) / zstd_bytes(baseline)
    chain = label.startswith("best chain") and name.startswith("CNN")
    return [
        Figure(
            f"{name}, file",
            file,
            "of the baseline",
            "<= 0.31" if label == "int8" else "",
            1.0,
            f"{len(data)} bytes",
        ),
        Figure(
            f"{name}, zstd",
            sent,
            "of the baseline",
            "<= 0.10" if chain else "",
            1.0,
            f"{zstd_bytes(data)} bytes",
        ),
    ]


def _speed(name: str, label: str, ours_ms: float, theirs_ms: float) -> Figure:
    target = ">= 1.8" if label == "structured-pruned" else ""
    how = f"{ours_ms:.4f} ms beside {theirs_ms:.4f} ms, one thread, in turns"
    return Figure(f"{name}, times as fast", theirs_ms / ours_ms, "x", target, 1.0, how)


def _cuts(name: str, data: bytes, inputs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Figure:
    report = exact_cuts(data, inputs)
    share = report.exact / max(1, report.tried)
    return Figure(f"{name}, exact cuts", share, "of all", ">= 1.0", 1.0, f"{report.exact} of {report.tried}")


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Every baseline whose variants are there."""
    if options.full:
        make(list(KINDS), CACHE / "toolchain")
    made: list[Figure] = []
    for name, kind in KINDS.items():
        found = variants(name)
        if not found:
            print(f"{TITLES[name]}: its variants are not here; --full makes them", file=sys.stderr)
            continue
        made += figures_of(TITLES[name], found, kind.side, ROUNDS[options.quick])
    return made


if __name__ == "__main__":
    run(measure, __doc__)
