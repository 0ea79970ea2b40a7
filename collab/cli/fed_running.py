"""Runs a federated task: from files to the server over links, and back to files."""

from __future__ import annotations

import asyncio
import functools
import io
import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from collab.cli.fed_swapping import open_swapper
from collab.cli.files import read_npz, read_yaml
from collab.coordinator.cluster import Cluster
from collab.coordinator.federated import Begin, FederatedServer, Watcher
from collab.coordinator.federated_evaluation import EvaluateHere
from collab.coordinator.federated_folder import RunFolder, digest_of
from collab.core.ids import Digest
from collab.errors import ConfigError, InputError
from collab.federated.actions import Finish
from collab.federated.combinations import refusal_of_gateways
from collab.federated.exchange import read_weights
from collab.federated.privacy.accounting import accountant
from collab.federated.rounds import Rounds
from collab.federated.server_work import Rules, ServerWork, spent
from collab.federated.task import DeployRules, Task, convert_task, task_bytes, task_features
from collab.federated.update import Parameters

if TYPE_CHECKING:
    from collab.federated.base import Trainer

_MAX_TASK_BYTES: Final = 1 << 20
_MAX_MODEL_BYTES: Final = 1 << 30


def read_task(path: Path) -> Task:
    """A checked task from its YAML file; raises `ConfigError` or `InputError`."""
    task = convert_task(read_yaml("task", path, _MAX_TASK_BYTES))
    if task.privacy is not None:
        accountant()  # a missing extra is said before anything begins
    return _placed(task, path.parent)


def _placed(task: Task, folder: Path) -> Task:
    """The task with its data named from its file's folder, since it is resumed from elsewhere."""
    if not task.evaluation.data:
        return task
    from collab.federated.data.sources import placed

    data = placed(task.evaluation.data, folder)
    return msgspec.structs.replace(task, evaluation=msgspec.structs.replace(task.evaluation, data=data))


def read_trainable(task_file: Path, task: Task) -> bytes:
    """The trainable model that a task names, from the task's folder."""
    path = (task_file.parent / Path(task.model).expanduser()).resolve()
    try:
        if path.stat().st_size > _MAX_MODEL_BYTES:
            raise InputError(f"model {path}: over {_MAX_MODEL_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"model {path}: {error.strerror}") from error


def initial_weights(model: Path) -> Parameters:
    """The weights that a trainable model comes with; an ``.npz`` has nothing else."""
    with open(model, "rb") as file:
        magic = file.read(2)
    if magic == b"PK":
        return {name: np.asarray(array) for name, array in read_npz(model, "model").items()}
    from collab.federated.trainers.litert import LiteRtEngine

    return LiteRtEngine(model).initial


@dataclass(frozen=True)
class Deploying:
    """How a run's models go into a plan."""

    rules: DeployRules
    anew: bool
    """Whether the plan was named for this start, so that what it runs is looked up."""


async def run_federated(
    cluster: Cluster,
    folder: RunFolder,
    task: Task,
    peers: Sequence[str],
    watcher: Watcher,
    release: Sequence[str] = (),
    deploying: Deploying | None = None,
) -> Finish:
    """Begin or go on with a folder's run, until it is over or SIGINT or SIGTERM ends it."""
    swaps = None
    if deploying is not None:
        swaps = await open_swapper(cluster, folder, task, deploying.rules, deploying.anew)
    prepared = await asyncio.to_thread(_prepare, folder, task)
    rounds, journal, blobs, work, begin, scratch, data, judge = prepared
    server = FederatedServer(
        cluster,
        task,
        rounds,
        journal,
        blobs,
        work,
        (digest_of(data), data),
        scratch,
        watcher,
        _evaluation(judge, work),
        swaps,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    try:
        return await server.run(begin, peers, release)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _prepare(folder: RunFolder, task: Task) -> Any:
    journal, blobs = folder.journal(task), folder.blobs(task)
    ledger = journal.read()
    task_digest = digest_of(task_bytes(task))
    if ledger.run and ledger.task != task_digest:
        raise ConfigError(f"{folder.path}: its journal is of another task; restore task.json, or begin anew")
    scratch, data = folder.scratch(), folder.model.read_bytes()
    judge = judge_of(folder.model, task)
    work = ServerWork(rules_of(task), blobs, scratch)
    if ledger.run:
        begin = Begin(ledger.run, task_digest, ledger.model, 0)
    else:
        weights = initial_weights(folder.model)
        model, size = work.put_model(weights)
        control = work.first_control(weights)
        begin = Begin(f"run-{secrets.token_hex(12)}", task_digest, model, size, control)
    limit = functools.partial(spent, task.privacy)
    return Rounds(task, ledger, spent=limit), journal, blobs, work, begin, scratch, data, judge


def rules_of(task: Task) -> Rules:
    """The parts of a task that are about weights."""
    late = task.round.late
    sync = late.max_staleness if late.policy == "discount" else 0
    return Rules(
        aggregation=task.aggregation,
        gate=task.gate,
        up=task.compression.up,
        down=task.compression.down,
        repeats=task.mode == "async",
        max_staleness=task.buffered.max_staleness if task.mode == "async" else sync,
        privacy=task.privacy,
        secure=task.secure,
        seed=task.seed,
        refuses_sums=refusal_of_gateways(task_features(task)),
    )


def judge_of(model: bytes | Path, task: Task) -> Trainer | None:
    """What measures models on the server's own examples, if the task has them; reads them all.

    Raises `ModelError` where the model is none for LiteRT, and whatever `open_held_out` does.
    """
    if task.evaluation.where != "server" or not task.evaluation.every:
        return None
    from collab.federated.data.examples import Data
    from collab.federated.data.sources import open_held_out
    from collab.federated.trainers.litert import LiteRtEngine
    from collab.federated.trainers.local import LocalTrainer

    engine = LiteRtEngine(model)
    examples = open_held_out(task.evaluation.data, engine.description)
    # A trainer wants something to train on; only the held-out part is looked at.
    return LocalTrainer(engine, Data(examples.first(1), examples))


def _evaluation(judge: Trainer | None, work: ServerWork) -> EvaluateHere | None:
    """How the server evaluates on data of its own, if the task says so."""
    if judge is None:
        return None

    def evaluate(model: Digest) -> tuple[int, dict[str, float]]:
        metrics = {name: float(value) for name, value in judge.evaluate(work.model(model)).items()}
        return int(metrics.pop("samples", 0)), metrics

    return evaluate


def summary(folder: RunFolder, task: Task, finish: Finish) -> dict[str, Any]:
    """Write ``summary.json``, ``weights.npz`` and the plot; what the summary says."""
    from collab.cli.fed_progress import rounds_svg, serving_document

    records = folder.records()
    data = folder.blobs(task).get(finish.model)
    weights = read_weights(data)
    folder.write("weights.npz", _npz(weights))
    plot = rounds_svg(task.name, records)
    if plot:
        folder.write("rounds.svg", plot.encode())
    last = next((record for record in reversed(records) if record.evaluation), None)
    document: dict[str, Any] = {
        "task": task.name,
        "outcome": finish.outcome,
        "reason": finish.reason,
        "rounds": finish.rounds,
        "model": finish.model,
        "evaluation": dict(last.evaluation) if last is not None else {},
        "down_bytes": sum(record.down_bytes for record in records),
        "up_bytes": sum(record.up_bytes for record in records),
        "seconds": round(sum(record.seconds for record in records), 3),
        "left_out": _left_out(records),
        "quarantined": list(records[-1].quarantined) if records else [],
        "serving": serving_document(folder.path),
    }
    folder.write("summary.json", msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    return document


def _left_out(records: Sequence[Any]) -> dict[str, dict[str, int]]:
    """How often which client was left out, by kind; those behind gateways too."""
    found: dict[str, dict[str, int]] = {}
    for record in records:
        for entry in record.left_out:
            kinds = found.setdefault(entry.client, {})
            kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
        for child in (child for one in record.took_part for child in one.children):
            if child.kind != "counted":
                kinds = found.setdefault(child.client, {})
                kinds[child.kind] = kinds.get(child.kind, 0) + 1
    return found


def _npz(weights: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **weights)
    return buffer.getvalue()
