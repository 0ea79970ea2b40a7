"""What federated training leaves on a node's disk, in the folder ``training`` of its store.

``standing.json`` names the last update; a folder for each run has ``client.bin``, the client's
state (error feedback, control variate) as of its last update that counted, ``staged.bin``,
what it becomes when the latest one counts, and ``holds.json``, which weights are in the
store.  Everything is written aside, synced and renamed, so a crash leaves the old or the
new.  All methods block on the disk.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import Digest, check_name
from collab.federated.participant import Standing
from collab.federated.records import Behind
from collab.node.store_errors import store_errors

MAX_RUNS: Final = 8
"""Runs that a node remembers; the one that was longest without news goes first."""

_STANDING, _CLIENT, _STAGED, _HOLDS = "standing.json", "client.bin", "staged.bin", "holds.json"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of an update beside its digest."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = {}
    children: tuple[Behind, ...] = ()
    """Of a gateway's sum."""


class _Standing(msgspec.Struct, frozen=True, kw_only=True):
    standing: Standing
    made: Made


class TrainingFiles:
    """Reads and writes the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def standing(self) -> tuple[Standing, Made] | None:
        """The last update; None where there is none, or it cannot be read."""
        with suppress(OSError, msgspec.DecodeError):
            found = msgspec.json.decode((self._root / _STANDING).read_bytes(), type=_Standing)
            return found.standing, found.made
        return None

    def remember(self, standing: Standing, made: Made) -> None:
        """Keep what the last update was."""
        with store_errors("keep the update"):
            write_whole(self._root / _STANDING, msgspec.json.encode(_Standing(standing=standing, made=made)))

    def client(self, run: str) -> bytes:
        """The client's state; empty before its first update counted."""
        with store_errors(f"read the state of run {run!r}"):
            path = self._folder(run) / _CLIENT
            return path.read_bytes() if path.exists() else b""

    def stage(self, run: str, state: bytes) -> None:
        """Write what the client's state becomes when the latest update counts."""
        with store_errors(f"stage the state of run {run!r}"):
            write_whole(self._folder(run) / _STAGED, state)

    def settle(self, run: str, keep: bool) -> None:
        """Make the staged state the client's own, or forget it; harmless twice."""
        staged = self._folder(run) / _STAGED
        with store_errors(f"settle run {run!r}"), suppress(FileNotFoundError):
            if keep:
                os.replace(staged, staged.with_name(_CLIENT))
                _sync(staged.parent)
            else:
                staged.unlink()

    def holds(self, run: str) -> list[Digest]:
        """Weights of a run that were put into the store, the newest last."""
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self._folder(run) / _HOLDS).read_bytes(), type=list[Digest])
        return []

    def keep_holds(self, run: str, holds: list[Digest]) -> None:
        """Remember which weights are in the store."""
        with store_errors(f"keep the weights of run {run!r}"):
            write_whole(self._folder(run) / _HOLDS, msgspec.json.encode(holds))

    def enter(self, run: str) -> list[Digest]:
        """Make room for a run; weights of runs that were forgotten for it, which nothing needs now."""
        folder = self._folder(run)
        with store_errors(f"keep run {run!r}"):
            if folder.exists():
                os.utime(folder)
                return []
            folder.mkdir(parents=True)
            others = [path for path in self._root.iterdir() if path.is_dir() and path != folder]
            others.sort(key=lambda path: path.stat().st_mtime)
            gone = [path.name for path in others[: max(0, len(others) + 1 - MAX_RUNS)]]
            return [digest for name in gone for digest in self.leave(name)]

    def leave(self, run: str) -> list[Digest]:
        """Keep nothing of a run; weights of it that may be in the store."""
        holds = self.holds(run)
        shutil.rmtree(self._folder(run), ignore_errors=True)
        return holds

    def step_s(self, trainable: str) -> float:
        """Measured time of a step of a model; 0 before the first training."""
        with suppress(OSError, ValueError):
            return float((self._root / f"{trainable}.step").read_text(encoding="ascii"))
        return 0.0

    def keep_step_s(self, trainable: str, seconds: float) -> None:
        """Remember it; nothing but estimates depend on it."""
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            (self._root / f"{trainable}.step").write_text(f"{seconds:.6g}", encoding="ascii")

    def _folder(self, run: str) -> Path:
        return self._root / check_name(run, "run:")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, power cuts included; raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


prepare(_Standing)
