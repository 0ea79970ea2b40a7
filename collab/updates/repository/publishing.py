"""A repository of releases in a folder: make it, publish, promote, withdraw, change keys.

Every change is staged, signed by the keys at hand, and served once enough have signed.  A release
is a file ``FAMILY/CHANNEL/VERSION.collab``, signed by the role ``FAMILY.CHANNEL``, which no other
family's keys can do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from collab.core.ids import check_name
from collab.errors import ConfigError, Conflict, InputError
from collab.security.files import PUBLIC, check_vacant, write
from collab.updates.extra import updates_extra
from collab.updates.fetch.deltas import MAX_BYTES, make_delta
from collab.updates.fetch.parts import part_digests
from collab.updates.release import MAX_DELTAS, MAX_RELEASE_BYTES, Delta, ReleaseInfo, from_custom, to_custom
from collab.updates.repository.keys import Keyring, keys_of
from collab.updates.repository.metadata import DAYS, Metadatas, Outcome, expiry, sign
from collab.updates.store.disk import file_parts

with updates_extra():
    from tuf.api.metadata import DelegatedRole, Delegations, Key, Metadata, Root, TargetFile, Targets

TOP: Final = ("root", "targets", "snapshot", "timestamp")
HIGHEST: Final = "x-collab-highest"
"""Signed field of a channel: its highest version so far, also if it was withdrawn."""
MAX_KEPT: Final = 32
"""Releases that a channel lists; older ones are dropped with their files."""
MAX_FAMILIES: Final = 256
MAX_KEYS: Final = 32
BASES: Final = 3
"""Releases that deltas are made from."""


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """Who signs a role.

    Attributes:
        keys: how many keys it has.
        threshold: how many of them have to sign.
        days: for how long a version holds.
    """

    keys: int
    threshold: int
    days: float

    def check(self, role: str) -> RoleSpec:
        """Return self, or raise `InputError`."""
        if not 1 <= self.threshold <= self.keys <= MAX_KEYS:
            raise InputError(
                f"role {role}: {self.threshold} of {self.keys} keys; give THRESHOLD/KEYS, at most {MAX_KEYS}"
            )
        if not 0 < self.days <= 3650:
            raise InputError(f"role {role}: {self.days:g} days are not within 0 to 3650")
        return self


DEFAULTS: Final[Mapping[str, RoleSpec]] = {
    "root": RoleSpec(3, 2, 365),
    "targets": RoleSpec(1, 1, 365),
    "snapshot": RoleSpec(1, 1, 14),
    "timestamp": RoleSpec(1, 1, 7),
}
CHANNEL: Final = RoleSpec(1, 1, 180)

MakeKeys = Callable[[str, int], Sequence[Key]]
"""Makes or finds the keys of a role: its name and how many."""


class Repository:
    """The folder; ``metadata`` and ``targets`` in it are what devices see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadatas = Metadatas(folder)
        if self.metadatas.newest("root") is None:
            raise ConfigError(f"{folder}: is no repository of releases; make one with `collab release init`")

    def channels(self, family: str) -> list[str]:
        """Channels of a family, in the order in which they were named."""
        prefix = f"{family}."
        return [
            role[len(prefix) :]
            for role in self.roles()
            if role.startswith(prefix) and "." not in role[len(prefix) :]
        ]

    def roles(self) -> list[str]:
        """All roles of families and channels."""
        delegations = self.metadatas.newest("targets").signed.delegations
        return list((delegations and delegations.roles) or {})

    def releases(self, role: str) -> list[tuple[TargetFile, ReleaseInfo]]:
        """Releases of a role, newest first, staged ones too."""
        metadata = self._role(role)
        found = [(file, from_custom(file.custom, path)) for path, file in metadata.signed.targets.items()]
        return sorted(found, key=lambda pair: -pair[1].version)

    def file(self, target: TargetFile) -> Path:
        """Where a release's file is."""
        place, _, name = target.path.rpartition("/")
        return Path(self.folder / "targets" / place / f"{target.hashes['sha256']}.{name}")

    def _role(self, role: str) -> Any:
        found = self.metadatas.newest(role) if role in self.roles() else None
        if found is None:
            known = ", ".join(sorted(self.roles())) or "none"
            raise InputError(f"{role}: there is no such family and channel, of {known}")
        return found

    def next_version(self, family: str) -> int:
        """One more than any channel of a family ever had."""
        highest = [
            self._role(f"{family}.{channel}").signed.unrecognized_fields.get(HIGHEST, 0)
            for channel in self.channels(family)
        ]
        if not highest:
            raise InputError(
                f"family {family}: there is none of this name; add it with `collab release add-family`"
            )
        return int(max(highest)) + 1

    def publish(
        self, blob: Path, info: ReleaseInfo, channel: str, keyring: Keyring, now: datetime
    ) -> tuple[ReleaseInfo, Outcome]:
        """Sign a file as a release; its version has to be the next one or later.

        Raises:
            InputError: the file or what is said about it cannot be used.
            Conflict: the version is not newer than all others of the family.
        """
        least = self.next_version(info.family)
        if info.version < least:
            raise Conflict(f"version {info.version} of {info.family} is not newer; the next one is {least}")
        return self._release(blob, info, f"{info.family}.{channel}", keyring, now)

    def promote(
        self, family: str, version: int, source: str, target: str, keyring: Keyring, now: datetime
    ) -> tuple[ReleaseInfo, Outcome]:
        """Sign a release of one channel for another, as the same version.

        Raises:
            InputError: there is no such release.
            Conflict: the other channel has had a newer one.
        """
        file, info = self._find(f"{family}.{source}", version)
        role = f"{family}.{target}"
        highest = int(self._role(role).signed.unrecognized_fields.get(HIGHEST, 0))
        if version <= highest:
            raise Conflict(f"{role} has had version {highest}; promote a newer one")
        return self._release(self.file(file), info, role, keyring, now)

    def withdraw(
        self, family: str, version: int, channel: str, keyring: Keyring, now: datetime
    ) -> tuple[ReleaseInfo | None, Outcome]:
        """Take a release back.

        If it was the newest for its devices, the content before it is signed anew under a higher
        version, so that they go back without ever accepting an older version.  Returns that release.
        """
        role = f"{family}.{channel}"
        target, withdrawn = self._find(role, version)
        # Only releases for the same devices replace each other.
        same = [
            (file, info)
            for file, info in self.releases(role)
            if (info.devices, info.runtime) == (withdrawn.devices, withdrawn.runtime)
        ]
        metadata = self.metadatas.edit(role, now)
        del metadata.signed.targets[target.path]
        self.metadatas.stage(role, metadata)
        if same[0][1].version != version or len(same) == 1:
            return None, sign(self.metadatas, keyring, now)
        file, info = same[1]
        again = msgspec.structs.replace(
            info, version=self.next_version(family), content_of=info.content_of or info.version
        )
        return self._release(self.file(file), again, role, keyring, now)

    def _find(self, role: str, version: int) -> tuple[TargetFile, ReleaseInfo]:
        for file, info in self.releases(role):
            if info.version == version:
                return file, info
        raise InputError(f"{role} has no version {version}; see `collab release list`")

    def _release(
        self, blob: Path, info: ReleaseInfo, role: str, keyring: Keyring, now: datetime
    ) -> tuple[ReleaseInfo, Outcome]:
        self._role(role)
        family, _, channel = role.rpartition(".")
        path = f"{family}/{channel}/{info.version}.collab"
        try:
            size = blob.stat().st_size
            if not 0 < size <= MAX_RELEASE_BYTES:
                raise InputError(f"{blob}: {size} bytes are not within 1 to {MAX_RELEASE_BYTES}")
            target = TargetFile.from_file(path, str(blob), ["sha256"])
            self._place(blob, self.file(target))
            parts = part_digests(file_parts(blob), size)
            info = msgspec.structs.replace(info, deltas=self._deltas(role, blob, target), parts=parts).check()
        except OSError as error:
            raise InputError(f"{blob}: {error.strerror}") from error
        target.unrecognized_fields["custom"] = to_custom(info)
        metadata = self.metadatas.edit(role, now)
        metadata.signed.targets[path] = target
        metadata.signed.unrecognized_fields[HIGHEST] = info.version
        self.metadatas.stage(role, metadata)
        outcome = sign(self.metadatas, keyring, now)
        if role in outcome.published:
            self._prune(role, keyring, now)
        return info, outcome

    def _place(self, blob: Path, place: Path) -> None:
        if place.exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        part.unlink(missing_ok=True)
        try:
            # Channels share a file where the file system can; the user's own file could change.
            if self.folder / "targets" not in blob.parents:
                raise OSError
            os.link(blob, part)
        except OSError:
            shutil.copyfile(blob, part)
        handle = os.open(part, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        part.replace(place)

    def _deltas(self, role: str, blob: Path, target: TargetFile) -> tuple[Delta, ...]:
        if target.length > MAX_BYTES:
            return ()
        made: dict[str, Delta] = {}
        data = blob.read_bytes()
        for file, _ in self.releases(role)[:BASES]:
            base = file.hashes["sha256"]
            if base in made or base == target.hashes["sha256"] or file.length > MAX_BYTES:
                continue
            found = make_delta(self.file(file).read_bytes(), data)
            if found is not None:
                delta, patch = found
                made[base] = delta
                place = self.folder / "targets" / "deltas" / delta.sha256
                place.parent.mkdir(parents=True, exist_ok=True)
                write(place, patch, PUBLIC)
        return tuple(sorted(made.values(), key=lambda delta: delta.size))[:MAX_DELTAS]

    def _prune(self, role: str, keyring: Keyring, now: datetime) -> None:
        """Drop what a channel no longer lists: from the next version of its metadata on."""
        old = self.releases(role)[MAX_KEPT:]
        if not old:
            return
        metadata = self.metadatas.edit(role, now)
        for file, _ in old:
            del metadata.signed.targets[file.path]
        self.metadatas.stage(role, metadata)
        if role in sign(self.metadatas, keyring, now).published:
            for file, _ in old:
                self.file(file).unlink(missing_ok=True)

    def add_family(
        self, family: str, channels: Mapping[str, RoleSpec], make: MakeKeys, keyring: Keyring, now: datetime
    ) -> Outcome:
        """Delegate releases of a family to keys of its own; raises `InputError`, `Conflict`."""
        self._delegate(family, channels, make, now)
        return sign(self.metadatas, keyring, now)

    def _delegate(self, family: str, channels: Mapping[str, RoleSpec], make: MakeKeys, now: datetime) -> None:
        check_name(family, "family")
        if self.channels(family):
            raise Conflict(f"family {family}: is there already")
        if len(self.roles()) + len(channels) > MAX_FAMILIES:
            raise InputError(f"over {MAX_FAMILIES} families and channels; use another repository")
        metadata = self.metadatas.edit("targets", now)
        delegations = metadata.signed.delegations or Delegations({}, {})
        metadata.signed.delegations = delegations
        for channel, spec in channels.items():
            role = f"{family}.{_check_channel(channel)}"
            keys = make(role, spec.check(channel).keys)
            delegations.roles[role] = DelegatedRole(
                role, [], spec.threshold, terminating=True, paths=[f"{family}/{channel}/*"]
            )
            for key in keys:
                metadata.signed.add_key(key, role)
            self.metadatas.stage(role, Metadata(Targets(version=1, expires=expiry(now, spec.days))))
        self.metadatas.stage("targets", metadata)

    def rotate(
        self, role: str, fresh: Sequence[Key], drop: Sequence[str], keyring: Keyring, now: datetime
    ) -> Outcome:
        """Give a role other keys: add some, drop others by the begin of their ids.

        Raises:
            InputError: a key is not the role's, or too few would be left for the threshold.
        """
        by = "root" if role in TOP else "targets"
        if role not in TOP:
            self._role(role)
        delegator = self.metadatas.edit(by, now)
        own = delegator.signed.get_delegated_role(role)
        for begin in drop:
            found = [key.keyid for key in keys_of(delegator.signed, role) if key.keyid.startswith(begin)]
            if len(found) != 1:
                raise InputError(
                    f"{role} has {len(found)} keys that begin with {begin!r}; see `collab release list`"
                )
            delegator.signed.revoke_key(found[0], role)
        for key in fresh:
            delegator.signed.add_key(key, role)
        if len(own.keyids) < own.threshold:
            raise InputError(
                f"{role} would have {len(own.keyids)} keys and need {own.threshold}; add some too"
            )
        self.metadatas.stage(by, delegator)
        if role not in ("root", "snapshot", "timestamp"):
            # Signed by the new keys, or devices would lose the role.
            self.metadatas.stage(role, self.metadatas.edit(role, now))
        return sign(self.metadatas, keyring, now)


def init(
    folder: Path,
    families: Mapping[str, Mapping[str, RoleSpec]],
    make: MakeKeys,
    keyring: Keyring,
    now: datetime,
    specs: Mapping[str, RoleSpec] = DEFAULTS,
) -> tuple[Repository, Outcome]:
    """Make a repository with its roles and keys; the folder has to be new.

    Raises:
        Refused: the folder holds something.
        InputError: a role or family cannot be used.
    """
    check_vacant(folder, "repository")
    for role, spec in specs.items():
        spec.check(role)
    days = {role: spec.days for role, spec in specs.items()}
    for channels in families.values():
        days |= {channel: spec.days for channel, spec in channels.items()}
    root = Root(version=1, expires=expiry(now, specs["root"].days), consistent_snapshot=True)
    root.unrecognized_fields[DAYS] = days
    for role in TOP:
        root.roles[role].threshold = specs[role].threshold
        for key in make(role, specs[role].keys):
            root.add_key(key, role)
    metadatas = Metadatas(folder)
    metadatas.stage("root", Metadata(root))
    metadatas.stage("targets", Metadata(Targets(version=1, expires=expiry(now, specs["targets"].days))))
    repository = Repository(folder)
    for family, channels in families.items():
        repository._delegate(family, channels, make, now)
    return repository, sign(metadatas, keyring, now)


def trusted_root(folder: Path) -> bytes:
    """The first root, which devices get before they fetch anything; raises `ConfigError`."""
    try:
        return (folder / "metadata" / "1.root.json").read_bytes()
    except OSError as error:
        raise ConfigError(f"{folder}: has no signed root yet; sign it with `collab release sign`") from error


def content_digest(digests: Sequence[str]) -> str:
    """One digest of several files in their order; empty for none."""
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def _check_channel(channel: str) -> str:
    check_name(channel, "channel")
    if "." in channel or channel in TOP:
        raise InputError(f"channel {channel!r}: use a plain word, such as stable")
    return channel
