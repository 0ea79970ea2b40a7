"""A device's side of releases: what is new, and the verified file, by the fewest bytes."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.errors import CollabError, ConfigError, InputError, IntegrityError, PeerError, Refused, StoreError
from collab.security.files import PUBLIC, write
from collab.updates.fetch.base import NotOffered, Source
from collab.updates.fetch.clock import EPOCH, Floor
from collab.updates.fetch.deltas import apply_delta
from collab.updates.fetch.download import Counted, Downloads
from collab.updates.fetch.pace import Limits
from collab.updates.fetch.parts import Checked
from collab.updates.fetch.trusted import MAX_ROOT_BYTES, Trusted
from collab.updates.release import Delta, Release, ReleaseInfo, from_custom

MAX_SEEN_BYTES: Final = 1 << 20
DELTAS: Final = "deltas"
"""Folder of the deltas that made the newest release, kept for nodes nearby."""

_Ways = tuple[Downloads, list[Source]]
"""What keeps what comes, and the nodes nearby that are still asked."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a release has to be for.

    Attributes:
        kinds: names that this device goes by, such as ``pi-4``.
        runtime: its runtime class.
    """

    kinds: tuple[str, ...] = ()
    runtime: str = ""

    def fits(self, info: ReleaseInfo) -> bool:
        """Whether a release is for this device."""
        device = not info.devices or bool(set(info.devices) & set(self.kinds))
        return device and self.runtime.startswith(info.runtime)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A release's verified file.

    Attributes:
        way: ``full``, or the kind of the delta that made it.
        received: bytes that came over links for it, in this call.
    """

    release: Release
    path: Path
    way: str
    received: int


class Seen(msgspec.Struct, frozen=True):
    """What a device must not forget, or an old repository could be shown to it.

    Attributes:
        time: what time it was at least, in seconds since 1970.
        boot: which run of the device that was; its running time counts across processes.
        monotonic_s: the monotonic clock then.
        timestamp: version of the newest timestamp.
        versions: highest version by family and channel.
    """

    time: float = 0.0
    boot: str = ""
    monotonic_s: float = 0.0
    timestamp: int = 0
    versions: dict[str, int] = msgspec.field(default_factory=dict)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Clocks:
    """Times: the system's clock, one that counts seconds, waiting, and which run of the device it is."""

    system: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    boot: Callable[[], str] = _boot


def trust(folder: Path, root: bytes) -> None:
    """Take a repository's root into a new folder: the one step that has to come over a safe way.

    Raises:
        Refused: the folder trusts another root.
        ConfigError: it cannot be written.
    """
    place = folder / "trust.json"
    if place.exists():
        if place.read_bytes() != root:
            raise Refused(f"{folder}: trusts another root already; use another folder for another repository")
        return
    if len(root) > MAX_ROOT_BYTES:
        raise Refused(f"a root of {len(root)} bytes is over {MAX_ROOT_BYTES}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error
    write(place, root, PUBLIC)


@dataclass
class Releases:
    """Releases of one repository, for one device.  One process uses a folder at a time.

    Attributes:
        folder: what is trusted, what was seen, partial files and ``blobs``.
        nearby: nodes that may have a file; asked for it by its digest before the repository is.  One that
            fails or lies is not asked again in this fetch.
    """

    folder: Path
    source: Source
    device: Device = Device()
    limits: Limits = Limits()
    nearby: Sequence[Source] = ()
    clocks: Clocks = Clocks()
    _floor: Floor | None = field(default=None, init=False)

    def newest(self, family: str, channel: str, version: int | None = None) -> Release | None:
        """The newest release for this device, or the one of a version; None if there is none.

        Raises:
            Refused: what is offered is not signed, old, or for other devices.
            PeerError: the repository cannot be reached or does not answer in time.
            StoreError: the folder cannot be written.
        """
        seen = self._read_seen()
        metadata = self._refresh(seen)
        role = f"{family}.{channel}"
        found = [
            _release(path, target, family)
            for path, target in metadata.targets_of(role, f"{family}/{channel}").items()
        ]
        if version is not None:
            found = [release for release in found if release.version == version]
        fitting = [release for release in found if self.device.fits(release.custom)]
        if version is not None and found and not fitting:
            custom = found[0].custom
            for_whom = ", ".join(custom.devices) or custom.runtime
            raise Refused(f"{found[0].name} is for {for_whom}, this device is {self._name()}")
        stamp, issued = metadata.timestamp()
        floor = self._now().issued(issued, self.clocks.monotonic())
        self._floor = floor
        best = max(fitting, key=lambda release: release.version, default=None)
        highest = seen.versions.get(role, 0)
        if best is not None and best.version < highest and version is None:
            raise Refused(f"{role}: offers version {best.version}, this device has seen {highest}")
        versions = dict(seen.versions)
        if best is not None:
            versions[role] = max(highest, best.version)
        fresh = Seen(
            floor.time.timestamp(), self.clocks.boot(), floor.at_s, max(stamp, seen.timestamp), versions
        )
        write(self.folder / "seen.json", msgspec.json.encode(fresh), PUBLIC)
        return best

    def fetch(self, release: Release, bases: Mapping[str, Path] | None = None) -> Fetched:
        """A release's file; ``bases`` are files that are here, by digest.

        A delta is taken when it costs less than what is missing of the full file, and the full file
        when no delta works.

        Raises:
            IntegrityError: nobody gives the file that is signed.
            PeerError: nobody gives it now; what came is kept.
            StoreError: the disk cannot hold it.
        """
        place = self.folder / "blobs" / release.sha256
        downloads = self._downloads()
        if place.exists():
            if _digest(place) == release.sha256:
                return Fetched(release, place, "full", 0)
            place.unlink()
        # What was begun of releases that nobody wants any more.
        wanted = {release.sha256, *(delta.sha256 for delta in release.custom.deltas)}
        downloads.keep(wanted)
        self._forget_deltas(wanted)
        nearby = list(self.nearby)
        missing = release.size - downloads.there(release.sha256)
        for delta in sorted(release.custom.deltas, key=lambda delta: delta.size):
            base = (bases or {}).get(delta.base_sha256)
            if base is None or delta.size >= missing:
                continue
            try:
                self._by_delta(release, delta, base, place, (downloads, nearby))
            except (IntegrityError, Refused, PeerError):
                continue
            downloads.discard(release.sha256)
            return Fetched(release, place, delta.kind, downloads.counted.received)
        folder, _, name = release.name.rpartition("/")
        parts = release.custom.parts
        path = f"{folder}/{release.sha256}.{name}"
        got = self._blob(release.sha256, release.size, path, parts, (downloads, nearby))
        _move(got, place)
        return Fetched(release, place, "full", downloads.counted.received)

    def bases(self, files: Iterable[Path]) -> dict[str, Path]:
        """Files by digest, those that were fetched before among them."""
        try:
            found = {path.name: path for path in (self.folder / "blobs").glob("*")}
            return found | {_digest(path): path for path in files}
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}") from error

    def _by_delta(self, release: Release, delta: Delta, base: Path, place: Path, ways: _Ways) -> None:
        try:
            old = base.read_bytes()
        except OSError as error:
            raise IntegrityError(f"{base}: {error.strerror}") from error
        part = self._blob(delta.sha256, delta.size, f"deltas/{delta.sha256}", (), ways)
        try:
            made = apply_delta(delta, old, part.read_bytes(), release.size, release.sha256)
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            ways[0].discard(delta.sha256)
            raise StoreError(f"{error.filename}: {error.strerror}") from error
        except CollabError:
            ways[0].discard(delta.sha256)
            raise
        write(place, made, PUBLIC)
        # For nodes nearby that come from the same release.
        _move(part, self.folder / DELTAS / delta.sha256)

    def _blob(self, sha256: str, size: int, path: str, parts: Sequence[str], ways: _Ways) -> Path:
        """A file from whoever gives it: nodes nearby first."""
        downloads, nearby = ways
        for source in tuple(nearby):
            checked = Checked(source, size, parts, downloads) if parts else source
            try:
                return downloads.fetch(sha256, size, functools.partial(checked.open, sha256))
            except NotOffered:
                continue
            except (IntegrityError, Refused, PeerError):
                nearby.remove(source)
        return downloads.fetch(sha256, size, functools.partial(self.source.open, f"targets/{path}"))

    def _forget_deltas(self, wanted: Collection[str]) -> None:
        for path in (self.folder / DELTAS).glob("*"):
            if path.name not in wanted:
                with suppress(OSError):
                    path.unlink()

    def _refresh(self, seen: Seen) -> Trusted:
        now = self._now().now(self.clocks.system(), self.clocks.monotonic())
        try:
            root = (self.folder / "trust.json").read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.folder}: trusts no root yet; give it with --trust root.json") from error
        metadata = Trusted(self.folder / "metadata", self.source.within("metadata"), root, now)
        metadata.refresh()
        stamp, _ = metadata.timestamp()
        if stamp < seen.timestamp:
            raise Refused(
                f"releases: timestamp {stamp} is older than {seen.timestamp}, which was seen before"
            )
        return metadata

    def _now(self) -> Floor:
        if self._floor is None:
            seen, now = self._read_seen(), self.clocks.monotonic()
            same = bool(seen.boot) and seen.boot == self.clocks.boot()
            time_ = datetime.fromtimestamp(seen.time, timezone.utc)
            self._floor = Floor(max(EPOCH, time_), min(now, seen.monotonic_s) if same else now)
        return self._floor

    def _read_seen(self) -> Seen:
        path = self.folder / "seen.json"
        try:
            if path.stat().st_size > MAX_SEEN_BYTES:
                raise StoreError(f"{path}: is over {MAX_SEEN_BYTES} bytes")
            return msgspec.json.decode(path.read_bytes(), type=Seen)
        except FileNotFoundError:
            return Seen()
        except (OSError, msgspec.DecodeError) as error:
            # Forgetting would let an old repository in: somebody has to look.
            raise StoreError(
                f"{path}: cannot be read ({error}); restore it, or set the device up anew"
            ) from error

    def _downloads(self) -> Downloads:
        folder, clocks = self.folder / "partial", self.clocks
        return Downloads(folder, self.limits, clocks.monotonic, clocks.sleep, Counted())

    def _name(self) -> str:
        return ", ".join(self.device.kinds) or self.device.runtime or "of no named kind"


def _release(path: str, target: object, family: str) -> Release:
    length, hashes = getattr(target, "length", 0), getattr(target, "hashes", {})
    info = from_custom(getattr(target, "custom", None), path)
    if info.family != family or path.rpartition("/")[2] != f"{info.version}.collab" or "sha256" not in hashes:
        raise Refused(
            f"{path}: is signed as version {info.version} of {info.family}; it was put together wrongly"
        )
    return Release(name=path, version=info.version, sha256=hashes["sha256"], size=length, custom=info)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _move(source: Path, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        source.replace(place)
    except OSError as error:
        raise StoreError(f"{place}: cannot be written: {error.strerror}") from error


prepare(Seen)
