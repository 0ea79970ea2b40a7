"""What a rollout keeps on the disk, so that another process can go on with it.  Blocks.

``rollout.json`` and ``release.collab`` say what it is and stay; ``state.json`` is its journal, replaced
whole at each step before anything is done; ``events.jsonl`` is for people.  One process at a time is
at it, and others tell it by ``wish.json`` what they want.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import Digest
from collab.core.plan import Frozen, ReleaseRef
from collab.errors import Conflict, InputError, UsageError
from collab.federated.disk import Folder, replace_file
from collab.updates.release import Release
from collab.updates.rollout.definition import Rollout
from collab.updates.rollout.state import Abort, Pause, Resume, RolloutState
from collab.updates.store.lock import folder_lock

BUNDLE: Final = "release.collab"
_ABOUT, _STATE, _EVENTS, _WISH = "rollout.json", "state.json", "events.jsonl", "wish.json"
_LOCK, _WISH_LOCK = "lock", "wish.lock"
_HEARD_S: Final = 20.0
_LOOK_S: Final = 0.05

What = Literal["pause", "resume", "leave out", "abort", "go back"]
"""``leave out`` resumes without the targets that failed, ``go back`` aborts and takes back what was done."""


class About(Frozen, frozen=True, kw_only=True):
    """What does not change."""

    rollout: Rollout
    release: Release

    @property
    def reference(self) -> ReleaseRef:
        """The release as nodes name it."""
        signed = self.release
        return ReleaseRef(family=signed.custom.family, version=signed.version, sha256=Digest(signed.sha256))


class Wish(Frozen, frozen=True, kw_only=True):
    """What another process wants."""

    number: int
    what: What
    by: str


def event_of(what: What, by: str) -> Pause | Resume | Abort:
    """What happens when somebody wants it."""
    if what == "pause":
        return Pause(by)
    if what in ("resume", "leave out"):
        return Resume(by, leave_out=what == "leave out")
    return Abort(by, back=what == "go back")


class RolloutFolder:
    """One rollout's."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    # --- what it is ----------------------------------------------------------------

    def create(self, about: About, bundle: bytes, state: RolloutState) -> None:
        """Begin it; raises `UsageError` where there is one already, or `StoreError`."""
        if (self.path / _STATE).exists():
            raise UsageError(
                f"{self.path}: a rollout is there; collab release rollout resume goes on with it"
            )
        disk = Folder(self.path)
        replace_file(disk, BUNDLE, bundle)
        replace_file(disk, _ABOUT, msgspec.json.format(msgspec.json.encode(about), indent=1))
        self.write(state)

    def about(self) -> About:
        """What it is; raises `InputError` where there is none."""
        return msgspec.convert(self._json(_ABOUT), About)

    @property
    def bundle(self) -> Path:
        """The release's file."""
        return self.path / BUNDLE

    # --- its state -----------------------------------------------------------------

    def read(self) -> RolloutState:
        """The last step's; raises `InputError` where there is none, or it cannot be read."""
        try:
            return msgspec.convert(self._json(_STATE), RolloutState)
        except msgspec.ValidationError as error:
            raise InputError(f"{self.path / _STATE}: {error}") from error

    def write(self, state: RolloutState) -> None:
        """Keep a step, durably; raises `StoreError`."""
        replace_file(Folder(self.path), _STATE, msgspec.json.encode(state))

    def add_events(self, events: Sequence[dict[str, Any]]) -> None:
        """Tell people what happened."""
        if events:
            lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
            Folder(self.path).append(_EVENTS, lines)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For the process that is at it; raises `Conflict` while another one is."""
        with self._lock(_LOCK, wait=False):
            yield

    # --- what others want -----------------------------------------------------------

    def wish(self) -> Wish | None:
        """The last one."""
        try:
            data = (self.path / _WISH).read_bytes()
        except OSError:
            return None
        try:
            return msgspec.json.decode(data, type=Wish)
        except msgspec.MsgspecError:
            return None

    def ask(self, what: What, by: str) -> RolloutState:
        """Say what is wanted to the process that is at it; the state once it was heard.

        Raises `Conflict` where nobody hears it for a while.
        """
        with self._lock(_WISH_LOCK, wait=True):
            known = self.wish()
            number = 1 + (known.number if known is not None else 0)
            data = msgspec.json.encode(Wish(number=number, what=what, by=by))
            replace_file(Folder(self.path), _WISH, data)
            deadline = time.monotonic() + _HEARD_S
            while (state := self.read()).wish < number:
                if time.monotonic() > deadline:
                    raise Conflict(f"{self.path}: the process that is at it does not answer; is it stopped?")
                time.sleep(_LOOK_S)
        return state

    # --- small things ---------------------------------------------------------------

    def _json(self, name: str) -> Any:
        try:
            return msgspec.json.decode((self.path / name).read_bytes())
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path}: no rollout is there; collab release rollout start begins one"
            ) from error
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(f"{self.path / name}: {error}") from error

    @property
    def at_it(self) -> bool:
        """Whether a process is."""
        try:
            with self._lock(_LOCK, wait=False):
                return False
        except Conflict:
            return True

    @contextmanager
    def _lock(self, name: str, wait: bool) -> Iterator[None]:
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no rollout is there; collab release rollout start begins one")
        with folder_lock(self.path, name, "another process is at this rollout", wait=wait):
            yield


prepare(About, Wish, RolloutState)
