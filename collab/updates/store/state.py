"""What a store says of its releases, and how that changes.  Pure: every function gives a new state.

Two slots hold releases that may be loaded: the one that runs and the candidate beside it.
Behind them stand earlier releases, newest first, each of which was healthy once.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import Conflict, InputError, IntegrityError, Refused
from collab.updates.health.crashes import CrashRule, counted, is_loop
from collab.updates.release import Release

FORMAT: Final = 1
MAX_PREVIOUS: Final = 3
MAX_HISTORY: Final = 100
MAX_TRIALS: Final = 2
MAX_REASON: Final = 300
MAX_STATE_BYTES: Final = 4 << 20

Action = Literal["staged", "activated", "healthy", "dropped", "rolled back", "pinned", "unpinned", "repaired"]


class Event(Frozen, frozen=True, kw_only=True):
    """One line of the history.

    Attributes:
        at: seconds since 1970 by the device's clock, which may be wrong.
        activation: number of the activation that it belongs to.
        version: of the release, 0 for none.
    """

    at: float
    action: Action
    activation: int
    version: int = 0
    sha256: str = ""
    reason: str = ""


class State(Frozen, frozen=True, kw_only=True):
    """All that a store remembers; releases of one family.

    Attributes:
        sequence: grows with each state that is written; the larger of two whole ones holds.
        activation: grows each time another release runs, going back included.
        highest: largest version ever staged; none at or below it is taken again.
        active: what runs.
        healthy: whether ``active`` has proved itself, so that starts need no counting.
        starts: those of ``active`` that were not called healthy.
        candidate: what is judged beside it.
        trials: starts of the process with this candidate.
        previous: where to go back to, newest first.
    """

    format: int = FORMAT
    sequence: int = 0
    family: str = ""
    activation: int = 0
    highest: int = 0
    active: Release | None = None
    healthy: bool = False
    starts: tuple[float, ...] = ()
    candidate: Release | None = None
    trials: int = 0
    previous: tuple[Release, ...] = ()
    pinned: bool = False
    history: tuple[Event, ...] = ()

    @property
    def releases(self) -> tuple[Release, ...]:
        """All whose content must stay."""
        slots = (self.active, self.candidate)
        return (*(slot for slot in slots if slot is not None), *self.previous)


class _File(Frozen, frozen=True, kw_only=True):
    sha256: str
    state: msgspec.Raw


def encode_state(state: State) -> bytes:
    """The file's bytes: the state under its digest."""
    body = msgspec.json.encode(state)
    return msgspec.json.encode(_File(sha256=hashlib.sha256(body).hexdigest(), state=msgspec.Raw(body)))


def decode_state(data: bytes) -> State:
    """Read it.

    Raises:
        IntegrityError: the bytes are not whole.
        InputError: they are those of a newer collab.
    """
    try:
        file = msgspec.json.decode(data, type=_File)
        body = bytes(file.state)
        if hashlib.sha256(body).hexdigest() != file.sha256:
            raise IntegrityError("state: its digest is another one")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"state: {error}") from error
    try:
        return msgspec.json.decode(body, type=State)
    except msgspec.DecodeError as error:
        raise InputError(f"state: {error}; use the collab that wrote it, or a newer one") from error


def stage(state: State, release: Release, now: float) -> State:
    """Make a release the candidate, in place of the one that was.

    Raises:
        Conflict: the release that runs has not proved itself, and what it came from is still needed.
        Refused: it is pinned, of another family, or not newer than what was here.
    """
    if state.pinned:
        raise Refused("pinned: no other release is taken; `collab release pin --off` allows them again")
    if state.family and release.custom.family != state.family:
        raise Refused(f"family: {release.custom.family!r} is not {state.family!r}, which this store is for")
    # With nothing left to run the last one may come back: its content was lost.
    if release.version < state.highest + (state.active is not None):
        raise Refused(
            f"version: {release.version} is not above {state.highest}, which was here; "
            "publish it as a new version"
        )
    if state.active is not None and not state.healthy:
        raise Conflict(
            f"version {state.active.version} has not been called healthy; wait until it is, or roll it back"
        )
    fresh = msgspec.structs.replace(
        state,
        family=release.custom.family,
        highest=release.version,
        candidate=release,
        trials=0,
    )
    return _noted(fresh, "staged", release, now)


def activate(state: State, now: float) -> State:
    """The candidate runs; what ran is the first to go back to.  Raises `Conflict` without a candidate."""
    if state.candidate is None:
        raise Conflict("candidate: there is none; fetch a release first")
    behind = () if state.active is None else (state.active,)
    fresh = msgspec.structs.replace(
        state,
        activation=state.activation + 1,
        active=state.candidate,
        healthy=False,
        starts=(),
        candidate=None,
        trials=0,
        previous=(*behind, *state.previous)[:MAX_PREVIOUS],
    )
    return _noted(fresh, "activated", state.candidate, now)


def drop(state: State, reason: str, now: float) -> State:
    """The candidate goes; without one nothing changes."""
    if state.candidate is None:
        return state
    fresh = msgspec.structs.replace(state, candidate=None, trials=0)
    return _noted(fresh, "dropped", state.candidate, now, reason)


def started(state: State, now: float, rule: CrashRule) -> State:
    """The process starts: count it, and go back from a release that starts over and over."""
    if state.candidate is not None:
        if state.trials >= MAX_TRIALS:
            state = drop(state, f"the process ended {state.trials + 1} times while it was judged", now)
        else:
            state = msgspec.structs.replace(state, trials=state.trials + 1)
    if state.active is None or state.healthy:
        return state
    starts = counted(state.starts, now, rule)
    if is_loop(starts, rule) and state.previous:
        reason = f"crash loop: {rule.starts} starts within {rule.within_s:g} s, none of them healthy"
        return rollback(state, reason, now)
    return msgspec.structs.replace(state, starts=starts)


def healthy(state: State, now: float) -> State:
    """What runs works: from here on it is one to go back to."""
    if state.active is None or state.healthy:
        return state
    fresh = msgspec.structs.replace(state, healthy=True, starts=())
    return _noted(fresh, "healthy", state.active, now)


def rollback(state: State, reason: str, now: float, version: int = 0) -> State:
    """An earlier release runs again, as a new activation; what ran is not one to go back to.

    `State.highest` stays, so nothing that was here can be replayed.

    Raises:
        Conflict: there is none, or none of that version; 0 means the last one.
    """
    if not state.previous:
        raise Conflict("previous: there is no earlier release to go back to")
    found = [i for i, release in enumerate(state.previous) if version in (0, release.version)]
    if not found:
        kept = ", ".join(str(release.version) for release in state.previous)
        raise Conflict(f"version: {version} is not kept; these are: {kept}")
    target = state.previous[found[0]]
    fresh = msgspec.structs.replace(
        state,
        activation=state.activation + 1,
        active=target,
        healthy=True,
        starts=(),
        previous=state.previous[found[0] + 1 :],
    )
    return _noted(fresh, "rolled back", target, now, reason)


def abandon(state: State, reason: str, now: float) -> State:
    """What runs is given up and nothing takes its place: the first release, beside what ran before it."""
    if state.active is None:
        return state
    fresh = msgspec.structs.replace(
        state, activation=state.activation + 1, active=None, healthy=False, starts=()
    )
    return _noted(fresh, "rolled back", None, now, reason)


def pin(state: State, on: bool, now: float) -> State:
    """Keep to what runs, or stop doing so; a candidate that waits is dropped by a pin.

    Raises:
        Conflict: there is nothing to keep to.
    """
    if on == state.pinned:
        return state
    if on and state.active is None:
        raise Conflict("active: there is no release to pin")
    if on:
        state = drop(state, "pinned", now)
    fresh = msgspec.structs.replace(state, pinned=on)
    return _noted(fresh, "pinned" if on else "unpinned", state.active, now)


def repaired(state: State, lost: frozenset[str], now: float) -> State:
    """Do without releases whose content is gone: what runs is then the newest that is whole."""
    if not lost:
        return state
    previous = tuple(release for release in state.previous if release.sha256 not in lost)
    state = msgspec.structs.replace(state, previous=previous)
    if state.candidate is not None and state.candidate.sha256 in lost:
        state = drop(state, "its content was lost", now)
    if state.active is None or state.active.sha256 not in lost:
        return state
    reason = f"the content of version {state.active.version} was lost"
    if state.previous:
        return rollback(state, reason, now)
    fresh = msgspec.structs.replace(state, active=None, healthy=False, starts=())
    return _noted(fresh, "repaired", None, now, reason)


def _noted(state: State, action: Action, release: Release | None, now: float, reason: str = "") -> State:
    event = Event(
        at=now,
        action=action,
        activation=state.activation,
        version=0 if release is None else release.version,
        sha256="" if release is None else release.sha256,
        reason=reason[:MAX_REASON],
    )
    return msgspec.structs.replace(state, history=(*state.history, event)[-MAX_HISTORY:])


prepare(State, _File)
