"""What the machine of federated rounds costs: its decisions, its journal, its memory with many clients.

No network and no training: clients answer at once.  The yardstick of the journal is as many
appends of as many bytes to a bare file, each with an fsync, in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.figures import Figure
from collab.core.ids import Digest
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated.disk import Folder
from collab.federated.journal import FileJournal, Journal, MemoryJournal
from collab.federated.orders import Capabilities, UpdateRef
from collab.federated.rounds import Rounds
from collab.federated.task import Task, convert_task

_TASK, _MODEL, _UPDATE = (Digest(digit * 64) for digit in "012")


@dataclass
class Cost:
    """Of one run."""

    rounds_s: list[float]
    journal_s: list[float]
    journal_bytes: int


def plain_task(clients: int, cohort: int, rounds: int, mode: str = "sync") -> Task:
    """Train on ``cohort`` of ``clients``; 100 of them evaluate."""
    chosen: dict[str, Any] = {"cohort": {"select": "random", "count": cohort}}
    if mode == "async":
        chosen = {"mode": "async", "buffered": {"buffer": cohort, "concurrency": cohort}}
    rest: dict[str, Any] = {"clients": {"minimum": clients}, "evaluation": {"count": min(clients, 100)}}
    return convert_task({"name": "toy", "model": "toy", "rounds": rounds} | rest | chosen)


def carried_out(task: Task, journal: Journal, size: Path | None = None) -> Cost:
    """A whole run whose clients answer at once."""
    cost = Cost([], [], 0)
    rounds = Rounds(task, journal.read())
    told: deque[on.Event] = deque()
    todo = deque(rounds.begin("run", _TASK, _MODEL, 8, 0.0))
    told += [on.Joined(f"client-{i}", Capabilities(samples=10)) for i in range(task.clients.minimum)]
    since = time.perf_counter()
    while todo or told:
        if not todo:
            todo.extend(rounds.handle(told.popleft(), 0.0))
            continue
        action = todo.popleft()
        told += answers(action)
        if isinstance(action, do.Persist):
            begun = time.perf_counter()
            journal.append(action.entry)
            cost.journal_s.append(time.perf_counter() - begun)
            cost.journal_bytes = max(cost.journal_bytes, size.stat().st_size if size is not None else 0)
            more = rounds.handle(on.Persisted(action.step), 0.0)
            if action.compact:
                journal.compact(rounds.snapshot())
            todo.extendleft(reversed(more))
        elif isinstance(action, do.Record):
            cost.rounds_s.append(time.perf_counter() - since)
            since = time.perf_counter()
        elif isinstance(action, do.Finish):
            assert action.exit_code == 0, action.reason
            break
    return cost


def answers(action: do.Action) -> Iterator[on.Event]:
    """What honest clients and a trainer would say."""
    match action:
        case do.Offer(client, order):
            yield on.Accepted(client, order)
        case do.Send(client, order):
            yield on.Sent(client, order, 1000)
            yield on.Announced(client, order, _UPDATE, 1000)
        case do.Fetch(client, order, digest, size):
            yield on.Arrived(client, order, UpdateRef(digest, size, 10))
        case do.Aggregate(round_):
            yield on.Aggregated(round_, _MODEL, 1000)
        case do.Evaluate(round_, _, clients):
            yield from (on.Evaluated(round_, client, 10, {"loss": 1.0}) for client in clients)


def bare_append_s(folder: Path, count: int, size: int) -> float:
    """Median of an append with an fsync."""
    took = []
    with open(folder / "bare", "ab") as file:
        for _ in range(count):
            begun = time.perf_counter()
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    return statistics.median(took)


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    rounds = 10 if options.quick else 40
    found = []
    for clients, cohort, mode in ((100, 10, "sync"), (10_000, 100, "sync"), (10_000, 100, "async")):
        cost = carried_out(plain_task(clients, cohort, rounds, mode), MemoryJournal())
        name = f"{mode}, {cohort} of {clients:,} clients: a round"
        value = statistics.median(cost.rounds_s[1:]) * 1e3
        found.append(Figure(name, value, "ms", "", None, "median of decisions alone, after the first"))
    peaks = []
    for count in (rounds // 2, rounds):
        tracemalloc.start()
        carried_out(plain_task(10_000, 100, count), MemoryJournal())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    how = f"peak of {rounds} rounds over that of {rounds // 2}, 100 of 10,000 clients"
    found.append(Figure("memory, twice the rounds", peaks[1] / peaks[0], "times", "<= 1.1", None, how))
    found.append(Figure("memory, 10,000 clients", peaks[1] / 2**20, "MiB", "", None, "Python's own peak"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cost = carried_out(plain_task(100, 10, rounds), FileJournal(Folder(folder)), folder / "journal")
        bare = bare_append_s(folder, len(cost.journal_s), 150)
    value = statistics.median(cost.journal_s) * 1e3
    how = "median; the yardstick is a bare append with fsync"
    found.append(Figure("a durable journal entry", value, "ms", f"<= {2 * bare * 1e3:.3g}", bare * 1e3, how))
    size = cost.journal_bytes / 2**10
    found.append(Figure("journal, 10 of 100 clients", size, "KiB", "", None, "largest that it ever was"))
    return found


if __name__ == "__main__":
    figures.run(measure, __doc__)
