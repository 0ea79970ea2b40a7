"""Which models a plan ran: a small journal with the models themselves, beside the plan's file.

``PLAN.versions/state.json`` beside ``PLAN.yaml``, and ``vN.tflite`` with ``vN.plan.yaml`` for each
version.  Blocks on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from collab.coordinator.planning import read_graph
from collab.coordinator.version_folder import KEPT_VERSIONS, VersionFolder
from collab.core.decoding import prepare
from collab.core.ids import Digest
from collab.core.plan import Frozen, Plan, ReleaseRef
from collab.errors import ConfigError, InputError, ModelError
from collab.federated.disk import Folder, replace_file

KEPT_OUTCOMES: Final = 16
"""Of updates, the newest; why each ended as it did."""
_MAX_REASON: Final = 500
_STATE: Final = "state.json"
_PREFIX: Final = "v"

Result = Literal["healthy", "committed", "dropped", "rolled back"]
Cause = Literal["health", "hand", "rollout", "sibling"]
"""Why a plan went back: `collab.telemetry.catalogue.ROLLBACK_CAUSES`."""


class PlanVersion(Frozen, frozen=True, kw_only=True):
    """A model that the plan runs or ran."""

    number: int
    plan: Digest
    """Of the plan with this model."""
    model: Digest
    release: ReleaseRef | None = None
    epoch: int = 0
    proven: bool = False
    """Whether it has answered enough; what was deployed before the first update has."""

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{_PREFIX}{self.number}"

    def __str__(self) -> str:
        return str(self.release) if self.release is not None else f"model {self.model[:12]}"


class Noted(Frozen, frozen=True, kw_only=True):
    """How an update ended."""

    result: Result
    model: Digest
    release: ReleaseRef | None = None
    epoch: int = 0
    reason: str = ""
    cause: Cause | None = None
    """Why it went back, if it did."""


class PlanState(Frozen, frozen=True, kw_only=True):
    """What the journal says."""

    versions: tuple[PlanVersion, ...] = ()
    """The last one runs."""
    pending: PlanVersion | None = None
    """It was about to be deployed; whether it was, only the nodes know."""
    trial: int = 0
    """Number of the trial that is under way, or was when its process ended."""
    back: str = ""
    """Why the last version has to go; empty: it may stay."""
    numbered: int = 0
    """The last number given to a version."""
    outcomes: tuple[Noted, ...] = ()
    ended: Mapping[str, int] = msgspec.field(default_factory=dict)
    """How many updates ended with each result, those whose outcome is no longer kept included."""
    went_back: Mapping[str, int] = msgspec.field(default_factory=dict)
    """How often for each cause."""

    @property
    def running(self) -> PlanVersion:
        """The version that runs."""
        return self.versions[-1]


class PlanVersions:
    """The journal of one plan's file.

    Args:
        path: the plan's file.
        successor: where the plan is written that has taken its place.
        read: a plan's file; raises `PlanError` or `InputError`.
        keep: writes the successor.
    """

    def __init__(
        self, path: Path, successor: Path, read: Callable[[Path], Plan], keep: Callable[[Plan], None]
    ) -> None:
        self.path, self._successor, self._read, self.keep = path, successor, read, keep
        self.files = VersionFolder(path.with_name(f"{path.stem}.versions"))

    # --- what may run --------------------------------------------------------------

    def state(self) -> PlanState:
        """What is known; raises `InputError`."""
        path = self.files.path / _STATE
        try:
            return msgspec.json.decode(path.read_bytes(), type=PlanState)
        except FileNotFoundError:
            return PlanState()
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path}: {error}") from error

    def candidates(self) -> list[Plan]:
        """Plans that the nodes may run, the likeliest first, each once; models by whole paths."""
        state = self.state()
        known = [state.pending, *reversed(state.versions)]
        found = [self.plan(version) for version in known if version is not None]
        files = [*([self._successor] if self._successor.is_file() else []), self.path]
        found += [_placed(self._read(path), path.parent) for path in files]
        return list({plan.digest: plan for plan in reversed(found)}.values())[::-1]

    def plan(self, version: PlanVersion) -> Plan:
        """A version's plan, with its model's whole path."""
        return _placed(self.files.plan(version.name), self.files.path)

    # --- what happens --------------------------------------------------------------

    def runs(self, plan: Plan, epoch: int) -> PlanState:
        """The nodes run this; it may have been deployed by somebody else."""
        state = self.state()
        known = next(
            (v for v in (state.pending, *reversed(state.versions)) if v and v.plan == plan.digest), None
        )
        if known is None:
            known = PlanVersion(
                number=state.numbered + 1,
                plan=plan.digest,
                model=plan.models[0].sha256,
                release=plan.models[0].release,
                proven=True,
            )
            self.files.put(known.name, plan, _model(plan))
        known = msgspec.structs.replace(known, epoch=epoch)
        rest = tuple(v for v in state.versions if v.number != known.number)
        return self._write(
            state, versions=(*rest, known), pending=None, numbered=max(state.numbered, known.number)
        )

    def propose(self, plan: Plan, model: bytes) -> Plan:
        """Keep what is about to be deployed; the plan with the kept model's path."""
        state = self.state()
        number = state.numbered + 1
        made = PlanVersion(
            number=number,
            plan=plan.digest,
            model=plan.models[0].sha256,
            release=plan.models[0].release,
        )
        self.files.put(made.name, plan, model)
        self._write(state, pending=made, numbered=number, back="")
        return self.plan(made)

    def on_trial(self, number: int) -> None:
        """A trial begins, or is over (0)."""
        self._write(self.state(), trial=number)

    def proven(self) -> None:
        """What runs has proved itself."""
        state = self.state()
        now = msgspec.structs.replace(state.running, proven=True)
        self._write(state, versions=(*state.versions[:-1], now))

    def condemned(self, reason: str) -> None:
        """What runs has to go; whoever comes next sees to it."""
        self._write(self.state(), back=reason[:_MAX_REASON])

    def former(self) -> PlanVersion:
        """What ran before; raises `ConfigError` where nothing is kept."""
        state = self.state()
        if len(state.versions) < 2:
            raise ConfigError(f"{self.path}: no version before the one that runs is kept")
        return state.versions[-2]

    def went_back(self, epoch: int) -> None:
        """The version before runs again."""
        state = self.state()
        now = msgspec.structs.replace(state.versions[-2], epoch=epoch)
        self._write(state, versions=(*state.versions[:-2], now), pending=None, back="")

    def note(self, noted: Noted) -> None:
        """Keep how an update ended."""
        state = self.state()
        noted = msgspec.structs.replace(noted, reason=noted.reason[:_MAX_REASON])
        went_back = state.went_back
        if noted.cause is not None:
            went_back = {**went_back, noted.cause: went_back.get(noted.cause, 0) + 1}
        self._write(
            state,
            outcomes=(*state.outcomes, noted)[-KEPT_OUTCOMES:],
            ended={**state.ended, noted.result: state.ended.get(noted.result, 0) + 1},
            went_back=went_back,
        )

    def _write(self, state: PlanState, **changes: object) -> PlanState:
        state = msgspec.structs.replace(state, **changes)
        state = msgspec.structs.replace(state, versions=state.versions[-KEPT_VERSIONS:])
        replace_file(
            Folder(self.files.path), _STATE, msgspec.json.format(msgspec.json.encode(state), indent=1)
        )
        kept = {version.name for version in (*state.versions, state.pending) if version is not None}
        self.files.forget(_PREFIX, kept)
        return state


def _placed(plan: Plan, folder: Path) -> Plan:
    """The plan with whole paths of its models."""
    return plan.replace(
        models=tuple(
            m if m.path is None else msgspec.structs.replace(m, path=str((folder / m.path).absolute()))
            for m in plan.models
        )
    )


def _model(plan: Plan) -> bytes:
    """The file of a plan's model; raises `ModelError` where it is not the plan's."""
    if len(plan.models) != 1 or plan.models[0].path is None:
        raise ModelError(f"plan {plan.name!r} is not of one model with a path; only such can be updated")
    graph = read_graph(Path(plan.models[0].path), plan.models[0].signature)
    if graph.sha256 != plan.models[0].sha256:
        raise ModelError(
            f"{plan.models[0].path}: has another digest than plan {plan.name!r} says; make the plan anew"
        )
    return bytes(graph.data)


prepare(PlanState)
