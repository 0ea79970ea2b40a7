"""``collab fed simulate``: a federated task with thousands of clients in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson
from collab.errors import ConfigError, InputError, UsageError

if TYPE_CHECKING:
    from collab.emulation.fleet.holdings import LiteRtHoldings
    from collab.emulation.fleet.labour import Labour
    from collab.emulation.fleet.world import Conditions
    from collab.federated.actions import Finish, Notify
    from collab.federated.partition import Partition
    from collab.federated.records import RoundRecord
    from collab.federated.task import Task

EXAMPLE = """
Examples:

    collab fed simulate task.yaml --data train.npz --test test.npz --clients 10000 --out run-1

    collab fed simulate task.yaml --data train.npz --partition shards:2 --clients 100 --drop-outs 0.3 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the group ``fed``."""
    app.command("simulate", epilog=EXAMPLE)(simulate)


def simulate(
    task: Annotated[Path, typer.Argument(help="A task file.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Examples of all clients: an .npz with x and y.")],
    test: Annotated[
        Path | None, typer.Option(help="Examples on which the server evaluates (evaluation.where: server).")
    ] = None,
    clients: Annotated[int, typer.Option(help="How many share the examples; 0 with natural: all.")] = 100,
    partition: Annotated[
        str,
        typer.Option(
            help="Who holds what: iid, dirichlet:ALPHA, shards:EACH, lognormal:SIGMA, power:EXPONENT, or "
            "natural (an array owner beside x and y)."
        ),
    ] = "dirichlet:0.5",
    at_least: Annotated[int, typer.Option(help="Examples of every client.")] = 1,
    held_out: Annotated[float, typer.Option(help="Share of each client's examples to evaluate on.")] = 0.0,
    scale: Annotated[float, typer.Option(help="What x is divided by, such as 255.")] = 1.0,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Training takes what it takes here.", show_default=False)
    ] = False,
    step_ms: Annotated[float, typer.Option(help="A training step of a device, in virtual time.")] = 20.0,
    spread: Annotated[float, typer.Option(help="Sigma of the log-normal law of devices' speeds.")] = 0.0,
    mbit_s: Annotated[float, typer.Option(help="Rate of every link, each way.")] = 10.0,
    rtt_ms: Annotated[float, typer.Option(help="Round trip of every link.")] = 50.0,
    drop_outs: Annotated[float, typer.Option(help="Share of orders during which a client goes away.")] = 0.0,
    jobs: Annotated[int, typer.Option(help="Processes that train; 0 takes all cores.")] = 0,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to train on, or local for one here.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for rounds, summary and plots.")] = None,
    json_: AsJson = False,
) -> None:
    """Run a federated task in one place, with the machines, rules and trainer of real nodes.

    Interrupted, it keeps the rounds that were recorded and ends with exit code 130.
    """
    import tempfile

    from collab.cli.fed_partition import divided, partition_table, spread_out
    from collab.cli.fed_running import read_task
    from collab.cli.output import emit, say, show
    from collab.emulation.fleet.world import Conditions

    found = read_task(task)
    conditions = Conditions(
        virtual=not real_time,
        step_s=_over("--step-ms", step_ms) / 1e3,
        spread=_share("--spread", spread, 5.0),
        down_bytes_s=_over("--mbit-s", mbit_s) * 1e6 / 8,
        up_bytes_s=mbit_s * 1e6 / 8,
        rtt_s=_over("--rtt-ms", rtt_ms) / 1e3,
        drop_outs=_share("--drop-outs", drop_outs, 0.99),
    )
    _refuse(found, jobs, test)
    _over("--scale", scale)
    _share("--held-out", held_out, 0.9)
    with tempfile.TemporaryDirectory(prefix="collab-fleet-") as scratch:
        folder = Path(scratch)
        model = (task.parent / Path(found.model).expanduser()).resolve()
        part, labels = divided(data, folder, partition, clients, found.seed, at_least)
        from collab.federated.partition import outcome

        came = outcome(part, labels)
        if test is not None:
            spread_out(test, folder, "test_")
        if not json_:
            show(partition_table(partition, asdict(came)))
        holdings = _holdings(model, folder, part, held_out, scale)
        watched = _Watched(found, say if not json_ else lambda text: None)
        with _labour(holdings, jobs, dask) as labour:
            finish = watched.run(found, holdings, labour, folder, conditions)
        document = watched.document(finish, asdict(came))
        if out is not None:
            _write(out, watched.records, document, part, labels)
            say(f"written to {out}")
    if json_:
        emit(document)
    elif finish is not None:
        say(f"{finish.outcome}: {finish.reason}")
    if finish is None or finish.exit_code:
        raise typer.Exit(_INTERRUPTED if finish is None else finish.exit_code)


_INTERRUPTED: Final = 130
"""As shells count what SIGINT has ended."""


def _over(option: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} {value:g}: give a number above 0")
    return value


def _share(option: str, value: float, most: float) -> float:
    if not 0 <= value <= most:
        raise UsageError(f"{option} {value:g}: give 0 to {most:g}")
    return value


def _refuse(task: Task, jobs: int, test: Path | None) -> None:
    """What a simulation cannot do is said before anything is read."""
    if jobs < 0:
        raise UsageError(f"--jobs {jobs}: give 0 or more")
    if task.evaluation.every and task.evaluation.where == "server" and test is None:
        raise UsageError("--test: it is missing; evaluation.where is server")


def _holdings(model: Path, folder: Path, part: Partition, held_out: float, scale: float) -> LiteRtHoldings:
    from collab.emulation.fleet.holdings import LiteRtHoldings

    if not model.is_file():
        raise InputError(f"model {model}: no such file")
    holdings = LiteRtHoldings(model, folder, part, held_out, scale)
    holdings.initial()  # a broken model is said here, not by each client
    if min(holdings.sizes) < 1:
        raise ConfigError(f"--held-out {held_out:g}: a client is left without an example; give less")
    return holdings


@contextmanager
def _labour(holdings: LiteRtHoldings, jobs: int, dask: str | None) -> Iterator[Labour]:
    import os

    from collab.emulation.fleet.labour import Here, on_cores, on_dask

    if dask is not None:
        with on_dask(holdings, dask) as labour:
            yield labour
    elif (count := jobs or len(os.sched_getaffinity(0))) == 1:
        yield Here(holdings)
    else:
        with on_cores(holdings, count) as labour:
            yield labour


class _Watched:
    """A run and what it told."""

    def __init__(self, task: Task, say: Any) -> None:
        self._task = task
        self._say = say
        self._memory: list[int] = []
        self.records: list[RoundRecord] = []

    def run(
        self, task: Task, holdings: LiteRtHoldings, labour: Labour, folder: Path, conditions: Conditions
    ) -> Finish | None:
        """The end of it; None if it was interrupted."""
        import functools
        import time

        from collab.cli.fed_running import rules_of
        from collab.coordinator.federated_folder import digest_of
        from collab.emulation.fleet.world import FleetWorld
        from collab.federated.server_work import spent
        from collab.federated.task import task_bytes

        limit = functools.partial(spent, task.privacy)
        world = FleetWorld(task, rules_of(task), holdings, labour, folder, conditions, self._watch, limit)
        self._began = time.monotonic()
        try:
            return world.run("simulated", digest_of(task_bytes(task)))
        except KeyboardInterrupt:
            return None

    def _watch(self, told: RoundRecord | Notify) -> None:
        import time

        from collab.federated.actions import Notify
        from collab.runtime.cpu import resident_bytes

        if isinstance(told, Notify):
            if told.kind not in ("round", "late"):
                self._say(told.text)
            return
        self.records.append(told)
        self._memory.append(resident_bytes())
        self._elapsed = time.monotonic() - self._began
        measured = ", ".join(f"{name} {value:.4g}" for name, value in told.evaluation.items())
        took, seconds = len(told.took_part), told.seconds
        self._say(f"round {told.round}: {told.outcome}, {took} updates, {seconds:.3g} s, {measured}")

    def document(self, finish: Finish | None, divided: Mapping[str, Any]) -> dict[str, Any]:
        """The summary."""
        last = next((record for record in reversed(self.records) if record.evaluation), None)
        rounds = max(len(self.records), 1)
        return {
            "task": self._task.name,
            "outcome": "interrupted" if finish is None else finish.outcome,
            "reason": "" if finish is None else finish.reason,
            "rounds": len(self.records),
            "model": None if finish is None else finish.model,
            "evaluation": dict(last.evaluation) if last is not None else {},
            "down_bytes": sum(record.down_bytes for record in self.records),
            "up_bytes": sum(record.up_bytes for record in self.records),
            "simulated_s": round(sum(record.seconds for record in self.records), 3),
            "round_s": round(getattr(self, "_elapsed", 0.0) / rounds, 3),
            "server_mb": [round(size / 1e6, 1) for size in self._memory],
            "partition": dict(divided),
        }


def _write(
    out: Path, records: Sequence[RoundRecord], document: Mapping[str, Any], part: Partition, labels: Any
) -> None:
    import json

    import msgspec

    from collab.cli.fed_partition import partition_svg
    from collab.cli.fed_progress import rounds_svg
    from collab.cli.files import write_text
    from collab.federated.partition import class_table

    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(msgspec.json.encode(record).decode() + "\n" for record in records)
    write_text(out / "rounds.jsonl", lines)
    write_text(out / "summary.json", json.dumps(document, indent=1) + "\n")
    write_text(out / "partition.svg", partition_svg(part.owners, class_table(part, labels)))
    if plot := rounds_svg(str(document["task"]), records):
        write_text(out / "rounds.svg", plot)
