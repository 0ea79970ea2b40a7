"""What updates cost to send and to add up, and what their forms cost in accuracy.

Ten clients train a small perceptron on Fashion-MNIST in process, so that updates are those of real training.
Every form of compression goes the whole way, bytes included, both ways.  Adding up
in fixed point is timed in turn with a plain float64 sum of the same updates.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import fashion
from benchmarks.figures import Figure, run
from collab.federated.aggregate.fixed import FixedSum, weight_units
from collab.federated.aggregate.rounds import RoundAggregator
from collab.federated.aggregate.settings import Aggregation, Combine
from collab.federated.compression.models import decode_model, encode_model
from collab.federated.compression.settings import Compression
from collab.federated.compression.updates import decode_update, encode_update
from collab.federated.spool import DiskSpool
from collab.federated.update import Parameters, Update

CLIENTS: Final = 10
IMAGES: Final = 500
"""Of each client."""
BATCH: Final = 20
RATE: Final = 0.1

Floats = NDArray[np.float32]
Data = tuple[Floats, NDArray[np.int64]]

WAYS: Final[dict[str, tuple[Compression, Compression, bool]]] = {
    "raw": (Compression(), Compression(), True),
    "fp16": (Compression(elements="fp16"), Compression(), True),
    "int8": (Compression(elements="int8"), Compression(), True),
    "int8 without feedback": (Compression(elements="int8"), Compression(), False),
    "int8c stochastic": (Compression(elements="int8c", rounding="stochastic"), Compression(), True),
    "int8 both ways": (Compression(elements="int8"), Compression(elements="int8"), True),
    "top 10 % int8 both ways": (
        Compression(elements="int8", top=0.1),
        Compression(elements="int8", top=0.1),
        True,
    ),
    "top 1 % fp16": (Compression(elements="fp16", top=0.01), Compression(), True),
    "top 1 % fp16 without feedback": (Compression(elements="fp16", top=0.01), Compression(), False),
}
"""Form upwards, form downwards, and whether what was lost is sent later."""


def initial() -> dict[str, Floats]:
    """784 inputs, 200 hidden units, 10 classes: 159,010 weights."""
    rng = np.random.default_rng(1)
    return {
        "hidden": rng.normal(0, (2 / 784) ** 0.5, (784, 200)).astype(np.float32),
        "hidden_bias": np.zeros(200, np.float32),
        "out": rng.normal(0, (2 / 200) ** 0.5, (200, 10)).astype(np.float32),
        "out_bias": np.zeros(10, np.float32),
    }


def forward(model: Parameters, images: Floats) -> tuple[Floats, Floats]:
    """Hidden activations and probabilities."""
    hidden = np.maximum(images @ model["hidden"] + model["hidden_bias"], 0)
    scores = hidden @ model["out"] + model["out_bias"]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, odds / odds.sum(axis=1, keepdims=True)


def trained(model: Parameters, data: Data, seed: int) -> dict[str, Floats]:
    """The change of one epoch of plain gradient descent."""
    images, labels = data
    at = {name: array.astype(np.float32) for name, array in model.items()}
    order = np.random.default_rng(seed).permutation(len(labels))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        hidden, error = forward(at, images[batch])
        error[np.arange(len(batch)), labels[batch]] -= 1
        error /= len(batch)
        back = (error @ at["out"].T) * (hidden > 0)
        at["out"] -= RATE * (hidden.T @ error)
        at["out_bias"] -= RATE * error.sum(axis=0)
        at["hidden"] -= RATE * (images[batch].T @ back)
        at["hidden_bias"] -= RATE * back.sum(axis=0)
    return {name: (array - model[name]).astype(np.float32) for name, array in at.items()}


def learned(way: str, parts: list[Data], test: Data, rounds: int) -> tuple[float, float, float]:
    """Accuracy after some rounds, and bytes of an update and of a broadcast."""
    up, down, kept = WAYS[way]
    random = np.random.default_rng(3)
    target: Parameters = initial()
    held = target
    feedback: list[Parameters] = [{}] * CLIENTS
    sent_up = sent_down = 0
    for number in range(rounds):
        if number:
            message = encode_model(target, down, held)
            held = decode_model(message.data, held)
            sent_down += len(message.data)
        aggregator = RoundAggregator(Aggregation(), target)
        for client, data in enumerate(parts):
            delta = trained(held, data, 1000 * number + client)
            update = Update(number, str(client), len(data[1]), delta)
            encoded = encode_update(update, up, feedback[client] if kept else None, random)
            feedback[client] = encoded.feedback
            sent_up += len(encoded.data)
            aggregator.add(decode_update(encoded.data))
        target = aggregator.finish()
    accuracy = float((forward(target, test[0])[1].argmax(axis=1) == test[1]).mean())
    return accuracy, sent_up / rounds / CLIENTS, sent_down / max(1, rounds - 1)


def learning(quick: bool) -> list[Figure]:
    """Accuracy and bytes of every way, beside raw."""
    images, test = fashion.images("train"), fashion.images("t10k")
    flat = (images.images[: CLIENTS * IMAGES].reshape(-1, 784) / 255).astype(np.float32)
    parts = [(flat[c::CLIENTS], images.labels[c : CLIENTS * IMAGES : CLIENTS]) for c in range(CLIENTS)]
    held_out = (test.images.reshape(-1, 784) / 255).astype(np.float32), test.labels
    rounds, raw = 2 if quick else 20, 4 * sum(array.size for array in initial().values())
    figures, best = [], 0.0
    for way in WAYS:
        accuracy, up, down = learned(way, parts, held_out, rounds)
        best = best or accuracy
        both = way == "int8 both ways"
        most, least = ("<= 0.25", f">= {100 * best - 0.3:.2f}") if both else ("", "")
        how = f"{rounds} rounds of {CLIENTS} clients with {IMAGES} images, test images"
        figures += [
            Figure(f"{way}: accuracy", 100 * accuracy, "%", least, 100 * best, how),
            Figure(f"{way}: update", up / raw, "of float32", most, None, f"{up:.0f} of {raw} bytes"),
            Figure(
                f"{way}: broadcast", down / raw, "of float32", most, None, f"{down:.0f} bytes from round 2"
            ),
        ]
    return figures


def timed(*works: Callable[[], object], repeats: int) -> list[float]:
    """Median seconds of each, done in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def speeds(quick: bool) -> list[Figure]:
    """Encoding, decoding and adding up a million weights."""
    size, repeats = (1 << 18, 3) if quick else (1 << 20, 9)
    rng = np.random.default_rng(1)
    delta = {"w": rng.laplace(0, 0.001, (size // 64, 64)).astype(np.float32)}
    update, megabytes = Update(0, "c", 600, delta), 4 * size / 1e6
    figures = []
    for way, (up, _, _) in WAYS.items():
        if "feedback" in way or "both" in way:
            continue
        data = encode_update(update, up, None, rng).data
        write, read = timed(
            partial(encode_update, update, up, None, rng), partial(decode_update, data), repeats=repeats
        )
        how = f"{megabytes:.1f} MB of float32, feedback made"
        figures += [
            Figure(f"{way}: encode", megabytes / write, "MB/s", "", None, how),
            Figure(f"{way}: decode", megabytes / read, "MB/s", "", None, how),
        ]
    total, plain = FixedSum({"w": delta["w"].shape}), np.zeros(delta["w"].shape)

    def float64() -> None:
        nonlocal plain
        plain += 600.0 * delta["w"].astype(np.float64)

    fixed, bare = timed(lambda: total.add(delta, weight_units(600)), float64, repeats=repeats)
    figures.append(Figure("add in fixed point", fixed * 1e3, "ms", "", bare * 1e3, "beside a sum in float64"))
    rules: tuple[Combine, ...] = ("median", "trimmed-mean", "multi-krum")
    figures += [
        Figure(f"{rule} of 10", robust(rule, delta) * 1e3, "ms", "", None, "spooled to disk")
        for rule in rules
    ]
    return figures


def robust(rule: Combine, delta: Parameters) -> float:
    """Seconds of a robust rule over ten updates, spooling included."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, DiskSpool(Path(folder)) as spool:
        aggregator = RoundAggregator(Aggregation(combine=rule, byzantine=2), delta, spool=spool)
        for client in range(10):
            aggregator.add(Update(0, str(client), 1, delta))
        aggregator.finish()
    return time.perf_counter() - start


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    return [*learning(options.quick), *speeds(options.quick)]


if __name__ == "__main__":
    run(measure, __doc__)
