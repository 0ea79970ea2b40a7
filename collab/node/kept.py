"""The plans that a node loads when it starts, and how often that went wrong, through any loss of power.

    NAME.json            the epoch that was committed last
    NAME.before          the one that it came from, until it has proven itself
    NAME.EPOCH.new       prepared, and not committed
    NAME.EPOCH.lives-N   an empty file: N lives of the epoch have begun and not ended well
    NAME.EPOCH.proven    the same once the epoch is proven
    NAME.EPOCH.left-N    the same once the node went back from it

Counting is renaming an empty file: it is atomic, and takes no room on a full disk.  All methods but
`sheltered` block on the disk: call them off the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import Digest, Epoch, PlanName
from collab.core.plan import Plan, from_json
from collab.errors import CollabError
from collab.node.lives import Kept, KeptPlan, Left
from collab.node.store_errors import store_errors
from collab.updates.store.disk import Disk

_FOLDER: Final = ""
_MARK: Final = re.compile(r"(?P<name>.+)\.(?P<epoch>[0-9]{1,20})\.(?P<mark>proven|(?:lives|left)-[0-9]{1,4})")
_MAX_COUNT: Final = 9_999


class _Record(msgspec.Struct, frozen=True):
    epoch: int
    plan: msgspec.Raw
    unproven: bool = False
    """Whether it has to prove itself; one that an older release of collab wrote has not."""


class KeptPlans:
    """Plans in one folder, used by one process at a time."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._before: dict[PlanName, frozenset[Digest]] = {}

    @property
    def sheltered(self) -> frozenset[Digest]:
        """Stages of epochs that may be gone back to: they stay in the store."""
        return frozenset().union(*self._before.values())

    # --- deploying -----------------------------------------------------------------

    def write(self, plan: Plan, epoch: Epoch) -> None:
        """Put an epoch on the disk, so that `keep` needs no room there; its first life has begun."""
        record = msgspec.json.encode(_Record(epoch, msgspec.Raw(msgspec.json.encode(plan)), unproven=True))
        path = _written(plan.name, epoch)
        with store_errors(f"keep plan {plan.name!r}"):
            self._remove(path, *self._marks(plan.name, epoch).values())
            self._disk.write(path, record)
            self._disk.fsync(path)
            self._disk.write(_mark(plan.name, epoch, "lives-1"), b"")
            self._disk.fsync_dir(_FOLDER)

    def keep(self, name: PlanName, epoch: Epoch) -> None:
        """Load what `write` wrote at the next start; what was kept is gone back to if that fails."""
        with store_errors(f"keep plan {name!r}"):
            current = self._read(_kept(name), name)
            if current is not None and (current.lives is None or self._read(_before(name), name) is None):
                self._disk.rename(_kept(name), _before(name))
                # In this order, or the way back could be lost with the power.
                self._disk.fsync_dir(_FOLDER)
            self._disk.rename(_written(name, epoch), _kept(name))
            self._disk.fsync_dir(_FOLDER)
            self._sweep(name)
        self._shelter(name)

    def drop(self, name: PlanName, epoch: Epoch) -> None:
        """Take back a `write` that `keep` has not followed."""
        with store_errors(f"drop plan {name!r}"):
            self._remove(_written(name, epoch), *self._marks(name, epoch).values())

    def forget(self, name: PlanName, epoch: Epoch) -> None:
        """Do not load an epoch of a plan at the next start; one that may be gone back to stays."""
        with store_errors(f"forget plan {name!r}"):
            if self._epoch(_kept(name)) not in (None, epoch):
                return
            if self._epoch(_before(name)) is not None:
                # In this order, or it would rise from the dead after a loss of power.
                self._remove(_before(name))
                self._disk.fsync_dir(_FOLDER)
            self._remove(_kept(name), _before(name))
            self._sweep(name)
        self._shelter(name)

    # --- lives ---------------------------------------------------------------------

    def begin(self, name: PlanName, epoch: Epoch) -> int:
        """Count a life before it begins; how many there are then."""
        return self._count(name, epoch, 1)

    def end(self, name: PlanName, epoch: Epoch) -> int:
        """A life ended well, or rests: it counts no longer."""
        return self._count(name, epoch, -1)

    def prove(self, name: PlanName, epoch: Epoch) -> None:
        """An epoch works; what it came from is not needed any more."""
        with store_errors(f"call plan {name!r} proven"):
            if self._epoch(_kept(name)) != epoch:
                return
            self._set(name, epoch, "proven")
            if self._epoch(_before(name)) is not None:
                self._remove(_before(name))
                self._disk.fsync_dir(_FOLDER)
            self._sweep(name)
        self._shelter(name)

    def go_back(self, name: PlanName) -> None:
        """The epoch before is the current one again."""
        with store_errors(f"go back to the former epoch of plan {name!r}"):
            current = self._read(_kept(name), name)
            if current is not None:
                self._set(name, current.epoch, f"left-{current.lives or 0}")
            self._disk.rename(_before(name), _kept(name))
            self._disk.fsync_dir(_FOLDER)
        self._shelter(name)

    def _count(self, name: PlanName, epoch: Epoch, change: int) -> int:
        with store_errors(f"count the starts of plan {name!r}"):
            lives = _number(self._marks(name, epoch), "lives") + change
            lives = min(max(0, lives), _MAX_COUNT)
            self._set(name, epoch, f"lives-{lives}")
        return lives

    def _set(self, name: PlanName, epoch: Epoch, mark: str) -> None:
        """Give an epoch a mark in place of the one that it has."""
        found = self._marks(name, epoch)
        if mark in found:
            return
        if found:
            self._disk.rename(next(iter(found.values())), _mark(name, epoch, mark))
        else:
            self._disk.write(_mark(name, epoch, mark), b"")
        self._disk.fsync_dir(_FOLDER)

    # --- starting --------------------------------------------------------------------

    def all(self) -> tuple[list[Kept], list[str]]:
        """Plans to load at start, and what is wrong with those that cannot be read."""
        kept, broken = [], []
        files = self._names()
        names = {PlanName(file.rpartition(".")[0]) for file in files if file.endswith((".json", ".before"))}
        with suppress(OSError):
            self._remove(*(file for file in files if file.endswith(".new")))
        for name in sorted(names):
            try:
                kept.append(self._one(name))
            except (OSError, msgspec.DecodeError, CollabError) as error:
                broken.append(f"{_kept(name)}: {error}")
            self._shelter(name)
        for name in names | {PlanName(found["name"]) for file in files if (found := _MARK.fullmatch(file))}:
            with suppress(OSError):
                self._sweep(name)
        return kept, broken

    def _one(self, name: PlanName) -> Kept:
        before = self._read(_before(name), name)
        try:
            current = self._whole(self._record(_kept(name)), name)
        except FileNotFoundError:
            # Power went between the two renames of `keep`.
            if before is None:
                raise
            self._disk.rename(_before(name), _kept(name))
            current, before = before, None
        left = [(epoch, number) for epoch, number in self._left(name) if epoch > current.epoch]
        return Kept(current, before, Left(*max(left)) if left else None)

    def _left(self, name: PlanName) -> Iterator[tuple[Epoch, int]]:
        for file in self._names():
            found = _MARK.fullmatch(file)
            if found and found["name"] == name and found["mark"].startswith("left-"):
                yield Epoch(int(found["epoch"])), int(found["mark"].partition("-")[2])

    # --- files -----------------------------------------------------------------------

    def _names(self) -> list[str]:
        try:
            return sorted(self._disk.names(_FOLDER))
        except OSError:
            return []

    def _record(self, path: str) -> _Record:
        return msgspec.json.decode(b"".join(self._disk.read(path)), type=_Record)

    def _epoch(self, path: str) -> Epoch | None:
        """The epoch of a file; None if there is none, or it cannot be read."""
        try:
            return Epoch(self._record(path).epoch)
        except (OSError, msgspec.DecodeError):
            return None

    def _read(self, path: str, name: PlanName) -> KeptPlan | None:
        """A plan of a file; None if there is none, or it cannot be read."""
        try:
            return self._whole(self._record(path), name)
        except (OSError, msgspec.DecodeError, CollabError):
            return None

    def _whole(self, record: _Record, name: PlanName) -> KeptPlan:
        marks = self._marks(name, Epoch(record.epoch))
        proven = not record.unproven or "proven" in marks
        # Power may go while it is gone back from: those lives count until that is done.
        lives = None if proven else max(_number(marks, "lives"), _number(marks, "left"))
        return KeptPlan(from_json(bytes(record.plan)), Epoch(record.epoch), lives)

    def _marks(self, name: PlanName, epoch: Epoch) -> dict[str, str]:
        """Files of an epoch's marks, by what they say."""
        prefix = f"{name}.{epoch}."
        return {
            found["mark"]: file
            for file in self._names()
            if file.startswith(prefix) and (found := _MARK.fullmatch(file)) and found["name"] == name
        }

    def _sweep(self, name: PlanName) -> None:
        """Remove marks of epochs that are here no longer; what was gone back from is told until the next."""
        current = self._epoch(_kept(name))
        wanted = {str(current), str(self._epoch(_before(name)))}
        files = self._names()
        wanted |= {file.split(".")[-2] for file in files if file.endswith(".new")}
        for file in files:
            found = _MARK.fullmatch(file)
            if not found or found["name"] != name or found["epoch"] in wanted:
                continue
            told = found["mark"].startswith("left-") and current is not None and int(found["epoch"]) > current
            if not told:
                self._remove(file)

    def _remove(self, *paths: str) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self._disk.unlink(path)

    def _shelter(self, name: PlanName) -> None:
        before = self._read(_before(name), name)
        digests = () if before is None else (stage.sha256 for stage in before.plan.stages)
        # A new mapping each time: the event loop reads it meanwhile.
        self._before = {**self._before, name: frozenset(d for d in digests if d)}
        if before is None:
            self._before = {key: value for key, value in self._before.items() if key != name}


def _kept(name: PlanName) -> str:
    return f"{name}.json"


def _before(name: PlanName) -> str:
    return f"{name}.before"


def _written(name: PlanName, epoch: Epoch) -> str:
    return f"{name}.{epoch}.new"


def _mark(name: PlanName, epoch: Epoch, mark: str) -> str:
    return f"{name}.{epoch}.{mark}"


def _number(marks: dict[str, str], what: str) -> int:
    """The largest count among an epoch's marks; 0 without one."""
    return max((int(mark.partition("-")[2]) for mark in marks if mark.startswith(f"{what}-")), default=0)


prepare(_Record)
