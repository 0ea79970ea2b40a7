"""What a federated run keeps of the models that it put into a plan: files, and which of them runs.

The folder ``deploy`` of a run has ``round-N.tflite`` and ``round-N.plan.yaml`` for each version
(``round-0`` is what ran before), which `collab deploy` takes as well, and ``state.json``.
Blocks on the disk.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from collab.coordinator.version_folder import KEPT_VERSIONS, VersionFolder
from collab.core.decoding import prepare
from collab.core.ids import Digest
from collab.core.plan import Frozen, Plan
from collab.errors import InputError
from collab.federated.disk import Folder, replace_file
from collab.graph import Graph

_STATE: Final = "state.json"
_PREFIX: Final = "round-"


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
        self.files = VersionFolder(run / "deploy")
        self.path = self.files.path

    @property
    def begun(self) -> bool:
        """Whether anything was deployed from here."""
        return (self.path / _STATE).exists()

    def locked(self) -> AbstractContextManager[None]:
        """For whoever deploys; raises `Conflict` while somebody else does."""
        return self.files.locked()

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
        replace_file(Folder(self.path), _STATE, msgspec.json.encode(state))
        known = [*state.versions, *([state.pending] if state.pending is not None else [])]
        self.files.forget(_PREFIX, {_name(version.round) for version in known})

    def put(self, round_: int, plan: Plan, model: bytes) -> None:
        """Keep a version's files."""
        self.files.put(_name(round_), plan, model)

    def plan(self, version: Version) -> Plan:
        """A version's plan; its model's path is as seen from the folder.  Raises `InputError`."""
        return self.files.plan(_name(version.round))

    def graph(self, version: Version, signature: str | None) -> Graph:
        """A version's model; raises `ModelError`."""
        return self.files.graph(_name(version.round), signature)

    def model_path(self, round_: int) -> Path:
        """Where a version's model is."""
        return self.files.model_path(_name(round_))


def _name(round_: int) -> str:
    return f"{_PREFIX}{round_}"


prepare(SwapState)
