"""Whether a stage's worker would gain by computing several requests at once.

For each model: LiteRT resized to a leading axis of 2, 4 and 8 beside the same rows one after
another, in turn in one run on one thread, the median of paired ratios; whether every row has
the same bits; and what one more interpreter of that size holds in memory.  Models: the demo
model and its three stages, those of `benchmarks.fashion_training` and `benchmarks.toolchain`,
and more that are named.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.figures import Figure, run
from benchmarks.soak import resident_mb
from collab.assets import path as asset
from collab.graph import read_model, split

BATCHES = (1, 2, 4, 8)
HERE = Path(__file__).with_name("assets")
MODELS = [HERE / f"fashion_{name}.tflite" for name in ("cnn", "depthwise", "large", "mlp")]
MODELS += sorted((HERE / "toolchain").glob("*.tflite"))
MORE: list[Path] = []


class Sized(NamedTuple):
    """An interpreter for some rows at a time."""

    interpreter: Any
    into: int
    out: int

    def run(self, rows: np.ndarray) -> np.ndarray:
        """The first output for rows along the leading axis."""
        self.interpreter.set_tensor(self.into, rows)
        self.interpreter.invoke()
        return np.asarray(self.interpreter.get_tensor(self.out))


def sized(path: Path, rows: int) -> Sized:
    """Raises `RuntimeError` or `ValueError` where the model has no such size."""
    interpreter = Interpreter(str(path), num_threads=1)
    (given, *others) = interpreter.get_input_details()
    if others:
        raise ValueError("has several inputs")
    if rows > 1:
        interpreter.resize_tensor_input(given["index"], [rows, *given["shape"][1:]])
    interpreter.allocate_tensors()
    return Sized(interpreter, given["index"], interpreter.get_output_details()[0]["index"])


def inputs(path: Path) -> np.ndarray:
    """As many rows as the largest batch has."""
    (given, *_) = sized(path, 1).interpreter.get_input_details()
    shape = (max(BATCHES), *given["shape"][1:])
    drawn = np.random.default_rng(0).random(shape)
    return (drawn * (1 if given["dtype"] is np.float32 else 100)).astype(given["dtype"])


def ms_a_row(made: Sized, rows: np.ndarray, seconds: float) -> float:
    """Mean time of one row."""
    begun, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds or not count:
        made.run(rows)
        count += len(rows)
    return elapsed / count * 1000


def compare(name: str, path: Path, seconds: float, rounds: int) -> list[Figure]:
    """Figures of one model; one alone where it cannot be resized."""
    x = inputs(path)
    made = {1: sized(path, 1)}
    grown: dict[int, float] = {}
    for count in BATCHES[1:]:
        before = resident_mb(_PID)
        try:
            made[count] = sized(path, count)
            made[count].run(x[:count])
        except (RuntimeError, ValueError) as error:
            how = " ".join(str(error).split())[:80]
            return [Figure(f"{name}: can be resized", 0.0, "", "", None, how)]
        grown[count] = resident_mb(_PID) - before
    alone = np.concatenate([made[1].run(x[i : i + 1]) for i in range(len(x))])
    times: dict[int, list[float]] = {count: [] for count in made}
    for _ in range(rounds):
        for count, one in made.items():
            times[count].append(ms_a_row(one, x[:count], seconds))
    found = []
    for count in BATCHES[1:]:
        together = made[count].run(x[:count])
        same = together.tobytes() == alone[:count].tobytes() and together.shape == alone[:count].shape
        gain = statistics.median(one / more for one, more in zip(times[1], times[count], strict=True))
        bits = "same bits" if same else "OTHER SHAPE OR BITS"
        how = f"{statistics.median(times[count]):.3f} ms a row; {bits}; {grown[count]:.1f} MB more"
        found.append(Figure(f"{name}: {count} at once", gain, "times", "", statistics.median(times[1]), how))
    return found


_PID = os.getpid()


def all_models(options: Namespace) -> list[Figure]:
    """All figures."""
    seconds, rounds = (0.01, 5) if options.quick else (0.04, 15)
    found = compare("digits", asset("digits.tflite"), seconds, rounds)
    with tempfile.TemporaryDirectory() as folder:
        for number, stage in enumerate(split(read_model(asset("digits.tflite")), [10, 20])):
            file = Path(folder) / f"{number}.tflite"
            file.write_bytes(stage.data)
            found += compare(f"digits, stage {number} of 3", file, seconds, rounds)
    for path in (*MODELS, *MORE):
        found += compare(path.stem, path, seconds, rounds)
    return found


async def measure(options: Namespace) -> list[Figure]:
    """All figures."""
    return await asyncio.to_thread(all_models, options)


if __name__ == "__main__":
    MORE = [Path(word) for word in sys.argv[1:] if word.endswith(".tflite")]
    sys.argv = [word for word in sys.argv if not word.endswith(".tflite")]
    run(measure, __doc__)
