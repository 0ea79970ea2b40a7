"""Learning over links, in pairs: centralised training, int8 and raw, one transport and another.

All runs of a pair have the same data, start weights, trainer and number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from benchmarks.federated_data import Setting
from benchmarks.federated_kept import LAST, Result, Run, Shelf
from benchmarks.federated_learning import alone
from benchmarks.figures import Figure

INT8: Final = {"up": {"elements": "int8"}, "down": {"elements": "int8"}}
_T: Final = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5 %, by the number of differences."""
LONG: Final = ("mqtt", "coap+tcp")
SHORT: Final = ("mqtt-qos0", "coap+udp")
"""Transports that are compared with gRPC over all rounds of a seed, and over a few."""
FEW: Final = 5


def setting_of(quick: bool, full: bool) -> Setting:
    """Ten clients with unlike parts, five local epochs."""
    if quick:
        return Setting("mlp", samples=2000, rounds=6, epochs=2)
    return Setting("mlp", samples=60_000 if full else 20_000, rounds=50, epochs=5)


def learned(shelf: Shelf, setting: Setting, seeds: Iterable[int]) -> list[Figure]:
    """Ten clients with unlike data beside all the data in one place."""
    pairs = []
    for seed in seeds:
        seeded = replace(setting, seed=seed)
        apart, whole = shelf.get(_raw(seeded)), shelf.get(Run("centralised", alone(seeded)))
        if apart is None or whole is None:
            return []
        pairs.append((apart, whole))
    how = _how(setting, len(pairs))
    gaps = [whole.last_mean - apart.last_mean for apart, whole in pairs]
    there, here = ([pair[at].last_mean for pair in pairs] for at in (1, 0))
    steps = f"{pairs[0][0].steps} steps together, {pairs[0][1].steps} in one place"
    rounds = setting.rounds
    return [
        Figure(
            "processes: points behind centralised training, Dirichlet 0.5",
            float(np.mean(gaps)),
            "points",
            "<= 1.0",
            float(np.mean(there)),
            f"{how}; {_differences(gaps)}; {steps}",
        ),
        Figure(
            "processes: accuracy of ten clients",
            float(np.mean(here)),
            "%",
            "",
            float(np.mean(there)),
            f"gRPC; by seed {_listed(here)}, centralised {_listed(there)}",
        ),
        Figure(
            "processes: updates", _mb(r.up_bytes / rounds for r, _ in pairs), "MB a round", "", None, "raw"
        ),
        Figure(
            "processes: broadcasts",
            _mb(r.down_bytes / rounds for r, _ in pairs),
            "MB a round",
            "",
            None,
            "raw",
        ),
        Figure(
            "processes: on the cable",
            _mb(r.cable_bytes / rounds for r, _ in pairs),
            "MB a round",
            "",
            None,
            "both ways, with headers; start and evaluation included",
        ),
    ]


def compressed(shelf: Shelf, setting: Setting, seeds: Iterable[int]) -> list[Figure]:
    """int8 both ways beside raw."""
    pairs = []
    for seed in seeds:
        seeded = replace(setting, seed=seed)
        raw, small = shelf.get(_raw(seeded)), shelf.get(Run("int8", seeded, compression=INT8))
        if raw is None or small is None:
            return []
        pairs.append((raw, small))
    gaps = [small.last_mean - raw.last_mean for raw, small in pairs]
    before, after = (float(np.mean([pair[at].last_mean for pair in pairs])) for at in (0, 1))
    ratio = [small.cable_bytes / raw.cable_bytes for raw, small in pairs]
    how = _how(setting, len(pairs))
    return [
        Figure(
            "processes: accuracy with int8 both ways less raw",
            float(np.mean(gaps)),
            "points",
            ">= -0.3",
            before,
            f"{how}; {_differences(gaps)}",
        ),
        Figure("processes: accuracy with int8 both ways", after, "%", "", before, "yardstick: raw"),
        Figure(
            "processes: bytes with int8 both ways, by raw",
            float(np.mean(ratio)),
            "times",
            "",
            None,
            "on the cable",
        ),
    ]


def transported(shelf: Shelf, setting: Setting) -> list[Figure]:
    """The same run over every transport: whether the models are the same, and what each costs."""
    base = shelf.get(_raw(setting))
    if base is None:
        return []
    found = _of_transport("grpc", base)
    few = replace(setting, rounds=min(FEW, setting.rounds))
    for transport in (*LONG, *SHORT):
        run = Run(transport, setting if transport in LONG else few, transport)
        got = shelf.get(run)
        if got is None:
            return []
        same = sum(mine == its for mine, its in zip(got.digests, base.digests, strict=False))
        rounds = len(got.digests)
        found += [
            Figure(
                f"{transport}: rounds whose model is gRPC's, by digest",
                100 * same / rounds,
                "%",
                ">= 100",
                None,
                f"{same} of {rounds}",
            ),
            *_of_transport(transport, got),
        ]
    return found


def _of_transport(name: str, got: Result) -> list[Figure]:
    rounds = len(got.digests)
    how = f"{rounds} rounds; {got.up_bytes / 1e6:.1f} MB of updates, {got.down_bytes / 1e6:.1f} MB of models"
    last = "of the last round" if rounds <= FEW else f"mean of the last {LAST}"
    value = got.accuracies[-1] if rounds <= FEW else got.last_mean
    return [
        Figure(f"{name}: on the cable", got.cable_bytes / rounds / 1e6, "MB a round", "", None, how),
        Figure(f"{name}: a round", float(np.median(got.seconds)), "s", "", None, "median, training included"),
        Figure(f"{name}: accuracy", value, "%", "", None, last),
    ]


def _raw(setting: Setting) -> Run:
    return Run("raw", setting)


def _how(setting: Setting, seeds: int) -> str:
    return (
        f"{setting.clients} processes, {setting.model}, {setting.samples} images, batch 20, {setting.epochs} "
        f"epochs, {setting.rounds} rounds, {seeds} seeds, mean of the last {LAST}"
    )


def _differences(values: Sequence[float]) -> str:
    """By seed, with the interval of their mean."""
    half = _T[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) in _T else 0.0
    return f"paired differences {_listed(values)}, ±{half:.2f} (95 %, t)"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _mb(values: Iterable[float]) -> float:
    return float(np.mean(list(values))) / 1e6
