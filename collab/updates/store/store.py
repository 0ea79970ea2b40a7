"""A device's releases on its disk.  Power may go at any moment: what ran, or what was to run, runs.

    state-0, state-1     two copies of the state; the whole one with the larger sequence holds
    state.new            the next one, until one rename puts it in place of the older copy
    content/SHA256       what releases are made of
    content/SHA256.part  being written

Content is synced, and its name is, before any state speaks of it; it goes only when neither copy does.
So activation is one rename: before it the old state holds, after it the new one, and both have content.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from collab.errors import Conflict, IntegrityError, StoreError
from collab.updates.health.crashes import CrashRule
from collab.updates.release import Release
from collab.updates.store import state as rules
from collab.updates.store.disk import Disk
from collab.updates.store.state import MAX_STATE_BYTES, State, decode_state, encode_state

COPIES: Final = ("state-0", "state-1")
FRESH: Final = "state.new"
CONTENT: Final = "content"
PART: Final = ".part"

_CONTENT: Final = re.compile(r"[0-9a-f]{64}(\.part)?")
_REMEDIES: Final = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota is used up; free some space",
    errno.EROFS: "the disk is read-only; mount it for writing",
}


class Store:
    """Releases of one family.  Each change is one new state; several processes may share a store.

    Args:
        disk: its folder.
        clock: seconds since 1970.
        rule: what a crash loop is.
    """

    def __init__(self, disk: Disk, clock: Callable[[], float], rule: CrashRule | None = None) -> None:
        self._disk, self._clock, self._rule = disk, clock, rule or CrashRule()
        self.counted = False
        """Whether `start` was written down; if not, nothing unproven may be run or judged."""

    def state(self) -> State:
        """What holds; empty for a new store.  Reads only.

        Raises:
            StoreError: it cannot be read, or neither copy is whole.
        """
        return self._read()[0]

    def path(self, release: Release) -> str:
        """Where a release's content is within the store's folder."""
        return f"{CONTENT}/{release.sha256}"

    def is_whole(self, release: Release) -> bool:
        """Whether a release's content is there, and what was signed."""
        found, size = hashlib.sha256(), 0
        try:
            for part in self._disk.read(self.path(release)):
                size += len(part)
                found.update(part)
        except OSError:
            return False
        return size == release.size and found.hexdigest() == release.sha256

    def start(self) -> Release | None:
        """Called once when the process starts: clean up, count the start, say what to run.

        An unproven release runs only if its start could be counted; on a disk that cannot be
        written the one before it runs instead, if there is one.

        Raises:
            StoreError: the state cannot be read.
        """
        try:
            self.counted = False
            self._prepare()
            running = self._change(self._started).active
            self.counted = True
            return running
        except IntegrityError:
            raise
        except StoreError:
            return self._without_writing()

    def add(self, release: Release, parts: Iterable[bytes]) -> None:
        """Write a verified release's content and make it the candidate.

        Raises:
            StoreError: the disk does not take it; nothing has changed.
            IntegrityError: the parts are not what was signed; nothing has changed.
            Refused, Conflict: as `rules.stage` says.
        """
        self._prepare()
        with self._locked():
            fresh = rules.stage(self._read()[0], release, self._clock())
            if not self.is_whole(release):
                self._take(release, parts)
            self._write(fresh)
            self._sweep()

    def activate(self, only: Release | None = None) -> State:
        """Run the candidate, or nothing if it is another one than ``only``.

        Raises:
            Conflict: there is none, or another one.
            IntegrityError: its content was lost.
        """

        def check(state: State) -> State:
            _expect(state.candidate, only)
            if state.candidate is not None and not self.is_whole(state.candidate):
                raise IntegrityError(
                    f"version {state.candidate.version}: its content was lost; publish it as a new version"
                )
            return rules.activate(state, self._clock())

        return self._change(check)

    def drop(self, reason: str, only: Release | None = None) -> State:
        """Do without the candidate.  Raises `Conflict` if it is another one than ``only``."""

        def check(state: State) -> State:
            _expect(state.candidate, only)
            return rules.drop(state, reason, self._clock())

        return self._change(check)

    def healthy(self, only: Release | None = None) -> State:
        """What runs has proved itself.  Raises `Conflict` if it is another one than ``only``."""

        def check(state: State) -> State:
            _expect(state.active, only)
            return rules.healthy(state, self._clock())

        return self._change(check)

    def rollback(self, reason: str, version: int = 0, only: Release | None = None) -> State:
        """Run an earlier release: the last one, or that of a version.

        Raises:
            Conflict: there is none, or what runs is another one than ``only``.
        """

        def check(state: State) -> State:
            _expect(state.active, only)
            return self._mended(rules.rollback(state, reason, self._clock(), version), "active")

        return self._change(check)

    def abandon(self, reason: str, only: Release) -> State:
        """Give up what runs where nothing is there to go back to.

        Raises:
            Conflict: what runs is another one than ``only``.
        """

        def check(state: State) -> State:
            _expect(state.active, only)
            return rules.abandon(state, reason, self._clock())

        return self._change(check)

    def pin(self, on: bool) -> State:
        """Keep to what runs, or stop doing so."""
        return self._change(lambda state: rules.pin(state, on, self._clock()))

    # --- changes ---------------------------------------------------------------

    def _change(self, rule: Callable[[State], State]) -> State:
        with self._locked():
            old = self._read()[0]
            fresh = rule(old)
            if fresh != old:
                fresh = self._write(fresh)
            self._sweep()
            return fresh

    def _started(self, state: State) -> State:
        whole = self._mended(state, "active", "candidate")
        fresh = rules.started(whole, self._clock(), self._rule)
        return fresh if fresh.active == whole.active else self._mended(fresh, "active")

    def _mended(self, state: State, *slots: str) -> State:
        """The state without releases whose content is not whole, as far as slots reach them."""
        for slot in slots:
            while (release := getattr(state, slot)) is not None and not self.is_whole(release):
                state = rules.repaired(state, frozenset({release.sha256}), self._clock())
        return state

    def _without_writing(self) -> Release | None:
        state = self._mended(self._read()[0], "active")
        if state.active is not None and not state.healthy and state.previous:
            state = self._mended(
                rules.rollback(state, "its start cannot be counted", self._clock()), "active"
            )
        return state.active

    # --- the disk ----------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _translated("lock"), self._disk.lock():
            yield

    def _prepare(self) -> None:
        """Make the folders."""
        with _translated("folder"):
            self._disk.mkdir("")
            self._disk.mkdir(CONTENT)
            self._disk.fsync_dir("")

    def _names(self) -> list[str]:
        """What stands in the folder of content, but for what is not ours."""
        try:
            return [name for name in self._disk.names(CONTENT) if _CONTENT.fullmatch(name)]
        except OSError:
            return []

    def _read(self) -> tuple[State, str]:
        """The state that holds, and the copy that it stands in; empty for a new store."""
        found: list[tuple[State, str]] = []
        broken: StoreError | None = None
        for copy in COPIES:
            try:
                data = self._bytes(copy)
                if data is not None:
                    found.append((decode_state(data), copy))
            except StoreError as error:
                broken = error
        if not found and broken is not None:
            raise IntegrityError(
                f"{broken}; no copy of the state is whole: move the folder away, fetch the release again"
            ) from broken
        return max(found, key=lambda pair: pair[0].sequence, default=(State(), COPIES[1]))

    def _bytes(self, copy: str) -> bytes | None:
        data = b""
        try:
            for part in self._disk.read(copy):
                data += part
                if len(data) > MAX_STATE_BYTES:
                    break
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(copy, error) from error
        return data

    def _write(self, state: State) -> State:
        old, copy = self._read()
        fresh = msgspec.structs.replace(state, sequence=old.sequence + 1)
        target = COPIES[1 - COPIES.index(copy)]
        with _translated("state"):
            with suppress(FileNotFoundError):
                self._disk.unlink(FRESH)
            try:
                self._disk.write(FRESH, encode_state(fresh))
                self._disk.fsync(FRESH)
                self._disk.rename(FRESH, target)
            except OSError:
                with suppress(OSError):
                    self._disk.unlink(FRESH)
                raise
            self._disk.fsync_dir("")
        return fresh

    def _take(self, release: Release, parts: Iterable[bytes]) -> None:
        path = self.path(release)
        part_path = path + PART
        found, size = hashlib.sha256(), 0
        with _translated(f"version {release.version}"):
            with suppress(FileNotFoundError):
                self._disk.unlink(part_path)
            try:
                for part in parts:
                    size += len(part)
                    if size > release.size:
                        break
                    found.update(part)
                    self._disk.write(part_path, part)
                if size != release.size or found.hexdigest() != release.sha256:
                    raise IntegrityError(
                        f"version {release.version}: its content is not what was signed; fetch it again"
                    )
                self._disk.fsync(part_path)
                self._disk.rename(part_path, path)
            except BaseException:
                with suppress(OSError):
                    self._disk.unlink(part_path)
                raise
            self._disk.fsync_dir(CONTENT)

    def _sweep(self) -> None:
        """Remove content that neither copy of the state speaks of; another time if it fails."""
        kept: set[str] = set()
        for copy in COPIES:
            try:
                data = self._bytes(copy)
                if data is not None:
                    kept |= {release.sha256 for release in decode_state(data).releases}
            except IntegrityError:
                continue
            except StoreError:  # it may speak of anything
                return
        for name in self._names():
            if name not in kept:
                with suppress(OSError):
                    self._disk.unlink(f"{CONTENT}/{name}")


def _expect(found: Release | None, only: Release | None) -> None:
    if only is not None and found != only:
        raise Conflict(f"version {only.version}: somebody else changed the store; nothing was changed")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(what, error) from error


def _failed(what: str, error: OSError) -> StoreError:
    remedy = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}; check the disk")
    return StoreError(f"release store: {what}: {remedy}")
