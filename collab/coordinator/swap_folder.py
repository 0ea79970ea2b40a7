"""What a federated run keeps of the models that it put into a plan: files, and which of them runs.

The folder ``deploy`` of a run has ``round-N.tflite`` and ``round-N.plan.yaml`` for each version
(``round-0`` is what ran before), which `collab deploy` takes as well, and ``state.json``.
Blocks on the disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from collab.core.ids import Digest
from collab.core.plan import Frozen, Plan
from collab.core.validate import decode_plan
from collab.errors import Conflict, InputError, StoreError
from collab.federated.disk import Folder, replace_file
from collab.graph import Graph, read_model

KEPT_VERSIONS: Final = 4
"""The one that runs included; older ones are removed."""
_STATE, _LOCK = "state.json", "lock"


class Version(Frozen, frozen=True, kw_only=True):
    """A model that runs or ran."""

    round: int
    """Whose model it is; 0: the one that the plan was deployed with."""
    model: Digest
    """Of its ``.tflite``."""
    weights: Digest = Digest("")
    """Of the run's weights that it was baked from; empty where they are not the run's."""
    epoch: int = 0


class SwapState(Frozen, frozen=True, kw_only=True):
    """Which versions there are."""

    plan_file: str
    """The user's."""
    versions: tuple[Version, ...]
    """The last one runs."""
    pending: Version | None = None
    """It was about to be deployed; whether it was, only the nodes know."""
    tried: int = 0
    """The last round whose model was tried."""
    held: str = ""
    """Why nothing more is deployed until the plan is named anew; empty: nothing is in the way."""

    @property
    def running(self) -> Version:
        """The one that runs."""
        return self.versions[-1]


class SwapFolder:
    """One run's."""

    def __init__(self, run: Path) -> None:
        self.path = run.absolute() / "deploy"

    @property
    def begun(self) -> bool:
        """Whether anything was deployed from here."""
        return (self.path / _STATE).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For whoever deploys; raises `Conflict` while somebody else does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be used: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Conflict(f"{self.path}: another process deploys from it; try again") from error
            yield
        finally:
            os.close(descriptor)

    def read(self) -> SwapState:
        """The state; raises `InputError` where there is none, or it cannot be read."""
        try:
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=SwapState)
        except FileNotFoundError as error:
            raise InputError(f"{self.path.parent}: this run has deployed nothing") from error
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{self.path / _STATE}: {error}") from error

    def write(self, state: SwapState) -> None:
        """Keep the state, and forget versions beyond the newest `KEPT_VERSIONS`."""
        state = msgspec.structs.replace(state, versions=state.versions[-KEPT_VERSIONS:])
        disk = Folder(self.path)
        replace_file(disk, _STATE, msgspec.json.encode(state))
        known = [*state.versions, *([state.pending] if state.pending is not None else [])]
        kept = {name for version in known for name in (self._model(version.round), self._plan(version.round))}
        for name in disk.names():
            if name.startswith("round-") and name not in kept:
                disk.remove(name)

    def put(self, round_: int, plan: Plan, model: bytes) -> None:
        """Keep a version's files."""
        disk = Folder(self.path)
        replace_file(disk, self._model(round_), model)
        near = plan.replace(
            models=tuple(msgspec.structs.replace(m, path=self._model(round_)) for m in plan.models)
        )
        # JSON is YAML as well.
        replace_file(disk, self._plan(round_), msgspec.json.format(msgspec.json.encode(near), indent=1))

    def plan(self, version: Version) -> Plan:
        """A version's plan; its model's path is as seen from the folder.  Raises `InputError`."""
        return decode_plan(self._bytes(self._plan(version.round)))

    def graph(self, version: Version, signature: str | None) -> Graph:
        """A version's model; raises `ModelError`."""
        return read_model(self.path / self._model(version.round), signature=signature)

    def model_path(self, round_: int) -> Path:
        """Where a version's model is."""
        return self.path / self._model(round_)

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path / name}: {error.strerror}") from error

    @staticmethod
    def _model(round_: int) -> str:
        return f"round-{round_}.tflite"

    @staticmethod
    def _plan(round_: int) -> str:
        return f"round-{round_}.plan.yaml"
