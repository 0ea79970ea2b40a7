"""Federated rounds beside Flower's, learning beside centralised training, rules under poison, a large fleet.

    scripts/flower-environment /tmp/flower          # once
    FLOWER_ENVIRONMENT=/tmp/flower python -m benchmarks.federated [--part NAME]

Ten clients with 6,000 Fashion-MNIST images between them (Dirichlet 0.5), the small CNN of tests/data, batch
20, SGD, the same start weights.  Flower and ours run one after the other as real processes in two network
namespaces (root, iproute2); bytes are the kernel's on the cable between them.  A round's time leaves out the
first round, which contains the start; that is reported by itself.  Both go through each client's examples in
the same order, so that only arithmetic differs.  Flower runs twice: its legacy gRPC server and clients, and
SuperLink (a part of its own), whose rounds take half a minute, so it does two of them.

The parts ``learning``, ``transports`` and ``int8`` take long: with ``--keep DIR`` their runs are kept, and
``--minutes N`` ends a call early; the same call again goes on with them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import federated_learning as learning
from benchmarks import federated_ours as ours
from benchmarks import federated_paired as paired
from benchmarks import figures, flower
from benchmarks.federated_data import Setting, accuracy, after_one
from benchmarks.federated_kept import Shelf
from benchmarks.figures import Figure
from benchmarks.flower import Measured
from tests.identities import Identities

PARTS: Final = (
    "flower",
    "superlink",
    "accuracy",
    "int8",
    "learning",
    "transports",
    "poison",
    "fleet",
    "secure",
)
KEPT: Final = ("learning", "transports", "int8")
"""Parts of real processes that keep what they have done, in this order."""
INT8: Final = {"up": {"elements": "int8"}, "down": {"elements": "int8"}}
SEVEN: Final = {"deadline_s": 1e6, "least": 7}
"""Krum with two bad clients needs as many updates."""
LEGACY: Final = "Flower, legacy gRPC"


def beside_flower(quick: bool) -> list[Figure]:
    """Both systems on the same task."""
    setting = Setting(clients=4, samples=2400, rounds=3) if quick else Setting()
    found = [
        _in_folder(lambda folder: ours.measured(setting, folder, {}, "ours, raw")),
        _in_folder(lambda folder: flower.legacy(setting, folder)),
        _in_folder(lambda folder: ours.measured(setting, folder, INT8, "ours, int8")),
    ]
    how = f"{setting.clients} clients, {setting.samples} images, {setting.rounds} rounds of an epoch"
    figures_ = [*_ratios(found, how), *(figure for one in found for figure in _plain(one, how))]
    return figures_ if quick else [*figures_, *_of_mlp(replace(setting, model="mlp"))]


def superlink(quick: bool) -> list[Figure]:
    """Flower's SuperLink on the same task."""
    setting = Setting(clients=4, samples=2400, rounds=2) if quick else Setting(rounds=2)
    found = _in_folder(lambda folder: flower.superlink(setting, folder))
    return _plain(found, f"{setting.clients} clients, {setting.samples} images, 2 rounds of an epoch")


def _of_mlp(setting: Setting) -> list[Figure]:
    """The same with a model that is cheap to train, where a round is what the system costs."""
    mine = _in_folder(lambda folder: ours.measured(setting, folder, INT8, "ours, int8, MLP"))
    theirs = _in_folder(lambda folder: flower.legacy(setting, folder))
    ratio = mine.round_s / theirs.round_s
    how = f"int8; {LEGACY}; 50,890 weights, {setting.rounds} rounds"
    name = "time of a round of the MLP, by Flower's"
    return [Figure(name, ratio, "times", "<= 0.333", theirs.round_s, how), *_plain(mine, how)]


def accurate(quick: bool) -> list[Figure]:
    """Twice the same training: Flower's, and ours with int8 both ways (in process: the bits are the same)."""
    setting = Setting(clients=4, samples=2400, rounds=6) if quick else Setting(rounds=20)
    ends: dict[str, list[float]] = {"flower": [], "raw": [], "int8": []}
    apart = 0.0
    for seed in range(1, 2 if quick else 4):
        seeded = replace(setting, seed=seed)
        with tempfile.TemporaryDirectory(prefix="federated-") as folder:
            flower.legacy(seeded, Path(folder))
            last = range(seeded.rounds - learning.LAST + 1, seeded.rounds + 1)
            made = [accuracy(seeded, flower.after(seeded, Path(folder), number)) for number in last]
            first = flower.after(seeded, Path(folder), 1)
        one = after_one(seeded)
        apart = max(apart, *(float(np.abs(first[name] - one[name]).max()) for name in first))
        ends["flower"].append(float(np.mean(made)))
        ends["raw"].append(learning.last_mean(learning.run_here(seeded)[0]))
        ends["int8"].append(learning.last_mean(learning.run_here(seeded, compression=INT8)[0]))
    seeds = len(ends["flower"])
    how = f"mean of the last {learning.LAST} of {setting.rounds} rounds, {seeds} seeds, the same order"
    found = []
    for name in ("int8", "raw"):
        gaps = np.subtract(ends[name], ends["flower"])
        found.append(
            Figure(
                f"accuracy with {name} less Flower's",
                float(gaps.mean()),
                "points",
                ">= -0.3",
                float(np.mean(ends["flower"])),
                f"{how}; by seed {_listed(gaps.tolist())}",
            )
        )
    how = "largest difference of a weight, no compression"
    return [*found, Figure("aggregates after one round beside Flower's", apart, "", "", None, how)]


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def masked(quick: bool) -> list[Figure]:
    """What secure aggregation costs a round, on a cluster with certificates."""
    setting = Setting(model="mlp", rounds=4 if quick else 8)

    def run(name: str, **fields: Any) -> Measured:
        def measure(folder: Path) -> Measured:
            return ours.measured(setting, folder, {}, name, Identities(folder / "cluster"), **fields)

        return _in_folder(measure)

    plain = run("plain")
    found = [("64 bits", run("secure", secure_aggregation=True))]
    narrow = {"ring_bits": 32, "fraction_bits": 20, "limit": 1.0, "max_samples": 1}
    fields = {"secure_aggregation": {"encoding": narrow}, "aggregation": {"weighting": "uniform"}}
    if not quick:
        found.append(("32 bits", run("narrow", **fields)))
    how = f"{setting.clients} node processes, mTLS, 50,890 weights, an epoch of {setting.samples} images"
    a_client = plain.round_bytes / setting.clients / 1e6
    out = [
        Figure("a round without secure aggregation", plain.round_s, "s", "", None, f"median; {how}"),
        Figure("bytes of a client and round without it", a_client, "MB", "", None, "on the cable, both ways"),
    ]
    for ring, one in found:
        size = one.round_bytes / setting.clients / 1e6
        out += [
            Figure(f"a round with secure aggregation, {ring}", one.round_s, "s", "", plain.round_s, how),
            Figure(f"bytes of a client and round with it, {ring}", size, "MB", "", a_client, "on the cable"),
        ]
    return out


def _in_folder(measure: Callable[[Path], Measured]) -> Measured:
    with tempfile.TemporaryDirectory(prefix="federated-") as folder:
        return measure(Path(folder))


def _ratios(found: list[Measured], how: str) -> list[Figure]:
    by_name = {one.name: one for one in found}
    raw, int8, legacy = by_name["ours, raw"], by_name["ours, int8"], by_name[LEGACY]
    rivals = [one for one in found if one.name.startswith("Flower")]
    faster = min(rivals, key=lambda one: one.round_s)
    return [
        Figure(
            "time of a round, by the faster Flower's",
            int8.round_s / faster.round_s,
            "times",
            "<= 0.333",
            faster.round_s,
            f"int8; {faster.name}; {how}",
        ),
        Figure(
            "time of a round, raw, by the faster Flower's",
            raw.round_s / faster.round_s,
            "times",
            "",
            faster.round_s,
            how,
        ),
        Figure(
            "bytes of a round, int8, by Flower's",
            int8.round_bytes / legacy.round_bytes,
            "times",
            "<= 0.25",
            legacy.round_bytes / 1e6,
            f"both ways on the cable, yardstick in MB; {how}",
        ),
        Figure(
            "bytes of a round, raw, by Flower's",
            raw.round_bytes / legacy.round_bytes,
            "times",
            "",
            legacy.round_bytes / 1e6,
            "lossless compression only",
        ),
        Figure(
            "memory of a client, by Flower's with TensorFlow",
            int8.client_mb / legacy.client_mb,
            "times",
            "<= 0.2",
            legacy.client_mb,
            "largest resident memory, median client",
        ),
        Figure(
            "memory of the server, by Flower's",
            int8.server_mb / legacy.server_mb,
            "times",
            "",
            legacy.server_mb,
            "largest resident memory",
        ),
    ]


def _plain(one: Measured, how: str) -> list[Figure]:
    return [
        Figure(f"{one.name}: a round", one.round_s, "s", "", None, f"median but the first; {how}"),
        Figure(f"{one.name}: until the first round is over", one.first_s, "s", "", None, "start included"),
        Figure(f"{one.name}: bytes of a round", one.round_bytes / 1e6, "MB", "", None, "on the cable"),
        Figure(f"{one.name}: memory of a client", one.client_mb, "MB", "", None, "median client"),
        Figure(f"{one.name}: memory of the server", one.server_mb, "MB", "", None, "largest process"),
        Figure(f"{one.name}: accuracy", one.accuracy, "%", "", None, "10,000 test images"),
    ]


def over_links(part: str, options: argparse.Namespace) -> list[Figure]:
    """A part that runs real processes; nothing yet if the time is over before its end."""
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    setting = paired.setting_of(options.quick, options.full)
    seeds = range(1, 2 if options.quick else 1 + options.seeds)
    with tempfile.TemporaryDirectory(prefix="federated-") as scratch:
        shelf = Shelf(options.keep or Path(scratch), until)
        if part == "learning":
            return paired.learned(shelf, setting, seeds)
        if part == "int8":
            return paired.compressed(shelf, setting, seeds)
        return paired.transported(shelf, setting)


def poisoned(quick: bool) -> list[Figure]:
    """Two of ten send the opposite of what they learned, ten times as large."""
    setting = Setting("mlp", rule="iid", samples=6000, rounds=5 if quick else 12, epochs=2)
    clean = learning.last_mean(learning.run_here(setting)[0])
    rules: dict[str, dict[str, Any]] = {
        "FedAvg": {},
        "median": {"aggregation": {"combine": "median"}},
        "trimmed mean": {"aggregation": {"combine": "trimmed-mean", "trim": 0.2}},
        "Krum": {"aggregation": {"combine": "krum", "byzantine": 2}, "round": SEVEN},
        "multi-Krum": {"aggregation": {"combine": "multi-krum", "byzantine": 2}, "round": SEVEN},
        "norm gate": {"gate": {"relative_norm": 3.0}},
    }
    found = []
    for name, fields in rules.items():
        got = learning.last_mean(learning.run_here(setting, bad=2, **fields)[0])
        how = f"2 of 10 bad; without them FedAvg has {clean:.2f} %; mlp, IID, {setting.rounds} rounds"
        target = "" if name == "FedAvg" else "<= 2.0"
        found.append(Figure(f"{name} under poison: points lost", clean - got, "points", target, clean, how))
    return found


def fleet(quick: bool) -> list[Figure]:
    """A hundred of ten thousand clients in each round."""
    rounds = 5 if quick else 40
    found = []
    for clients in (1_000, 10_000):
        setting = Setting("mlp", clients=clients, samples=60_000, rounds=rounds, seed=1)
        cohort = {"select": "random", "count": 100}
        import time

        began = time.monotonic()
        accuracies, records, memory = learning.run_here(setting, every=rounds, cohort=cohort)
        took = (time.monotonic() - began) / rounds
        early = memory[len(memory) // 4]
        how = f"{clients} clients, 100 in each of {rounds} rounds, {accuracies[-1]:.1f} % at the end"
        found += [
            Figure(f"{clients} clients: time of a round", took, "s", "", None, how),
            Figure(f"{clients} clients: memory of the server", memory[-1], "MB", "", None, how),
            Figure(
                f"{clients} clients: growth of that memory after a quarter",
                100 * (memory[-1] / early - 1),
                "%",
                "<= 5",
                early,
                f"{how}; {sum(len(r.took_part) for r in records)} updates",
            ),
        ]
    return found


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--full", action="store_true", help="learning at full length: hours")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument("--keep", type=Path, help="folder of runs: what is there is not run again")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of runs of real processes")
    parser.add_argument("--minutes", type=float, help="end after so long; the same call then goes on")
    options = parser.parse_args()
    where = figures.machine()
    found: list[Figure] = []
    for part in options.part or PARTS:
        if part == "flower":
            found += beside_flower(options.quick)
        elif part == "superlink":
            found += superlink(options.quick)
        elif part == "accuracy":
            found += accurate(options.quick)
        elif part in KEPT:
            found += over_links(part, options)
        elif part == "poison":
            found += poisoned(options.quick)
        elif part == "secure":
            found += masked(options.quick)
        else:
            found += fleet(options.quick)
    figures.report(found, options, where)


if __name__ == "__main__":
    main()
