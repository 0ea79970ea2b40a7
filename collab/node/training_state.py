"""What federated runs leave on a node's disk: the last outcome, and what the client remembers.

Each run has a folder.  ``client.bin`` is the client's state (error feedback, control
variate) as of its last update that counted; ``pending.bin`` is what it becomes when the
update of ``outcome.json`` counts.  Everything is written to a temporary file, synced and
renamed, so a crash leaves the old or the new.  All methods block on the disk.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from collab.core.ids import check_name
from collab.errors import StoreError

MAX_RUNS: Final = 8
"""Runs that a node remembers; the one that was longest without news goes first."""

_OUTCOME, _CLIENT, _PENDING = "outcome.json", "client.bin", "pending.bin"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the last work of a run."""

    round: int
    fingerprint: str
    """Of everything that was offered but the attempt: the same offer has the same outcome."""
    update: str = ""
    """Digest of the update's blob; empty after an evaluation."""
    update_bytes: int = 0
    samples: int = 0
    steps: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = {}


class Speed(msgspec.Struct, frozen=True):
    """How fast this device trained a model when it last did."""

    step_s: float
    batch_size: int


class TrainingState:
    """The folder ``training`` of a node's store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def outcome(self, run: str) -> Outcome | None:
        """The last outcome of a run; None where there is none, or it cannot be read."""
        with suppress(OSError, msgspec.DecodeError):
            data = (self._folder(run) / _OUTCOME).read_bytes()
            return msgspec.json.decode(data, type=Outcome)
        return None

    def client(self, run: str) -> bytes:
        """The client's state; empty before its first update counted."""
        return self._read(self._folder(run) / _CLIENT)

    def keep(self, run: str, outcome: Outcome, pending: bytes | None) -> None:
        """Remember an outcome, and the state that the client has once it counts; None keeps the one it has."""
        folder = self._folder(run)
        try:
            if not folder.exists():
                folder.mkdir(parents=True)
                self._make_room(folder)
            # Without an outcome a pending state means nothing, so it is written first.
            (folder / _OUTCOME).unlink(missing_ok=True)
            (folder / _PENDING).unlink(missing_ok=True)
            if pending is not None:
                _write(folder / _PENDING, pending)
            _write(folder / _OUTCOME, msgspec.json.encode(outcome))
        except OSError as error:
            raise StoreError(f"store: cannot keep the update of run {run!r}: {error.strerror}") from error

    def settle(self, run: str, counted: str) -> None:
        """Make the pending state the client's if its update counted; of another update it is forgotten."""
        outcome, folder = self.outcome(run), self._folder(run)
        if outcome is None or not outcome.update or not (folder / _PENDING).exists():
            return
        try:
            if outcome.update == counted:
                os.replace(folder / _PENDING, folder / _CLIENT)
                _sync(folder)
        except OSError as error:
            raise StoreError(f"store: cannot settle run {run!r}: {error.strerror}") from error

    def forget(self, run: str) -> None:
        """Keep nothing of a run."""
        shutil.rmtree(self._folder(run), ignore_errors=True)

    def speed(self, model: str) -> Speed | None:
        """How fast a model was trained here; None before that."""
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self._root / f"{model}.speed").read_bytes(), type=Speed)
        return None

    def keep_speed(self, model: str, speed: Speed) -> None:
        """Remember it; nothing but estimates depend on it."""
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            _write(self._root / f"{model}.speed", msgspec.json.encode(speed))

    def _folder(self, run: str) -> Path:
        return self._root / check_name(run, "run:")

    def _make_room(self, new: Path) -> None:
        others = [path for path in self._root.iterdir() if path.is_dir() and path != new]
        others.sort(key=lambda path: path.stat().st_mtime)
        for path in others[: max(0, len(others) + 1 - MAX_RUNS)]:
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError(f"store: cannot read {path.name}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
