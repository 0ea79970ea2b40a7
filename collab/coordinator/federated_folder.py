"""The folder of a federated run: what it needs to be resumed, and what people read.

``task.json`` and ``model`` are copies of what the run began with, ``checkpoint`` has journal
and weights, ``rounds.jsonl`` one line for each round.  Blocks on the disk.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import Digest
from collab.errors import ConfigError, InputError
from collab.federated.disk import Folder, replace_file
from collab.federated.journal import Blobs, FileJournal
from collab.federated.ledger import Ledger
from collab.federated.record_file import RecordFile
from collab.federated.records import RoundRecord, Swap
from collab.federated.task import DeployRules, Task, check_task, task_bytes
from collab.updates.store.lock import folder_lock

_TASK, _MODEL, _RUN = "task.json", "model", "run.json"
_JOURNAL: Final = "checkpoint"


class RunSettings(msgspec.Struct, frozen=True):
    """What `fed resume` has to know beside the task."""

    peers: tuple[str, ...]
    deploy: DeployRules | None = None
    """Where its models run, with the plan's whole path."""


@dataclass(frozen=True)
class Kept:
    """What a folder tells without being opened for work."""

    task: Task
    ledger: Ledger
    records: list[RoundRecord]


class RunFolder:
    """One run's folder, used by one process at a time; a context manager that holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = ExitStack()

    def __enter__(self) -> RunFolder:
        taken = "another process runs it; wait for it, or choose another --out"
        self._held.enter_context(folder_lock(self.path, "lock", taken))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    # --- what it began with ----------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / _RUN).exists()

    def begin(self, task: Task, model: bytes, settings: RunSettings) -> None:
        """Keep what a run begins with."""
        disk = Folder(self.path)
        replace_file(disk, _TASK, task_bytes(task))
        replace_file(disk, _MODEL, model)
        self.set_settings(settings)

    def task(self) -> Task:
        """The task; raises `InputError` where no run was begun."""
        try:
            task = msgspec.json.decode(self._read(_TASK), type=Task)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self.path / _TASK}: {error}") from error
        check_task(task)
        return task

    def settings(self) -> RunSettings:
        """What else it began with."""
        try:
            return msgspec.json.decode(self._read(_RUN), type=RunSettings)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self.path / _RUN}: {error}") from error

    @property
    def model(self) -> Path:
        """The trainable model."""
        return self.path / _MODEL

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: no federated run is there ({name}: {error.strerror})") from error

    # --- checkpoint ------------------------------------------------------------------

    def _checkpoint(self, task: Task) -> Path:
        return Path(task.checkpoint).expanduser() if task.checkpoint else self.path / _JOURNAL

    def journal(self, task: Task) -> FileJournal:
        """The run's journal."""
        return FileJournal(Folder(self._checkpoint(task)))

    def blobs(self, task: Task) -> Blobs:
        """The run's weights and updates."""
        return Blobs(Folder(self._checkpoint(task) / "blobs"))

    def scratch(self) -> Path:
        """Where downloads go on after a restart."""
        path = self.path / "scratch"
        path.mkdir(exist_ok=True)
        return path

    # --- what people read --------------------------------------------------------------

    def look(self) -> Kept:
        """What it tells, whether or not somebody runs it."""
        task = self.task()
        return Kept(task, self.journal(task).read(), self.records())

    def records(self) -> list[RoundRecord]:
        """Records of the rounds so far."""
        return RecordFile(Folder(self.path)).read()

    def add_record(self, record: RoundRecord) -> None:
        """Write a round's record; one of the same round is replaced."""
        RecordFile(Folder(self.path)).write(record)

    def add_swap(self, swap: Swap) -> None:
        """Say in a round's record what came of deploying its model."""
        RecordFile(Folder(self.path)).add_swap(swap)

    def set_settings(self, settings: RunSettings) -> None:
        """Change what `fed resume` has to know."""
        replace_file(Folder(self.path), _RUN, msgspec.json.encode(settings))

    def write(self, name: str, data: bytes) -> Path:
        """A file for people, whole or not at all."""
        replace_file(Folder(self.path), name, data)
        return self.path / name


def digest_of(data: bytes) -> Digest:
    """SHA-256."""
    return Digest(hashlib.sha256(data).hexdigest())


prepare(RunSettings)
