"""Metadata of a repository in a folder: what is served, and what still waits for signatures.

``metadata/`` and ``targets/`` are served as they are.  ``staged/ROLE.json`` is the next version of a
role while signatures are missing; the folder is carried from signer to signer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from collab.errors import InputError, StoreError
from collab.security.files import PUBLIC, write
from collab.updates.extra import updates_extra
from collab.updates.fetch.clock import ISSUED
from collab.updates.repository.keys import Keyring, keys_of
from collab.updates.repository.keys import sign as add_signature

with updates_extra():
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp
    from tuf.api.serialization.json import JSONSerializer

DAYS: Final = "x-collab-days"
"""Signed field of the root: for how many days a version of a role, or of any family's channel, holds."""


@dataclass(slots=True)
class Outcome:
    """What signing led to.

    Attributes:
        published: roles whose new version is served now.
        missing: signatures that staged roles still need, by role.
    """

    published: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)


class Metadatas:
    """Metadata files of one repository, by role."""

    def __init__(self, folder: Path) -> None:
        self.served = folder / "metadata"
        self.staged = folder / "staged"

    def versions(self, role: str) -> list[int]:
        """Versions of a role that are served, oldest first."""
        return sorted(
            int(path.name.partition(".")[0])
            for path in self.served.glob(f"*.{role}.json")
            if path.name.partition(".")[0].isdecimal() and path.name.partition(".")[2] == f"{role}.json"
        )

    def current(self, role: str) -> Any:
        """The newest served metadata of a role; None if there is none."""
        if role == "timestamp":
            path = self.served / "timestamp.json"
            return _load(path) if path.exists() else None
        found = self.versions(role)
        return _load(self.served / f"{found[-1]}.{role}.json") if found else None

    def waiting(self, role: str) -> Any:
        """Staged metadata of a role; None if there is none."""
        path = self.staged / f"{role}.json"
        return _load(path) if path.exists() else None

    def waiting_roles(self) -> list[str]:
        """Roles that are staged, those that delegate first."""
        order = {"root": 0, "targets": 1}
        return sorted(
            (path.stem for path in self.staged.glob("*.json")), key=lambda role: (order.get(role, 2), role)
        )

    def newest(self, role: str) -> Any:
        """What a role says once everything that is staged is signed."""
        return self.waiting(role) or self.current(role)

    def edit(self, role: str, now: datetime) -> Any:
        """The next version of a role to change, without signatures."""
        found = self.newest(role)
        if found is None:
            raise InputError(f"{role}: there is no such role; see `collab release list`")
        current = self.current(role)
        found.signed.version = 1 if current is None else current.signed.version + 1
        found.signed.expires = self.expiry(role, now)
        found.signatures.clear()
        return found

    def expiry(self, role: str, now: datetime) -> datetime:
        """When a version of a role that is made now ends."""
        root = self.newest("root")
        days = {} if root is None else root.signed.unrecognized_fields.get(DAYS, {})
        return expiry(now, days.get(role.rpartition(".")[2], 30))

    def stage(self, role: str, metadata: Any) -> None:
        """Keep a changed role until it is signed."""
        self.staged.mkdir(parents=True, exist_ok=True)
        write(self.staged / f"{role}.json", _bytes(metadata), PUBLIC)

    def unstage(self, role: str) -> None:
        """Forget a change."""
        (self.staged / f"{role}.json").unlink(missing_ok=True)

    def serve(self, role: str, metadata: Any) -> None:
        """Put a role's version where it is served."""
        self.served.mkdir(parents=True, exist_ok=True)
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        write(self.served / name, _bytes(metadata), PUBLIC)


def sign(metadatas: Metadatas, keyring: Keyring, now: datetime) -> Outcome:
    """Sign what is staged with the keys at hand, and serve what has enough signatures.

    A role is served only together with those that it needs: new keys of a role not before the role
    is signed by them.
    """
    for role in metadatas.waiting_roles():
        _sign_staged(metadatas, role, keyring)
    ready = _ready(metadatas)
    outcome = Outcome()
    for role in metadatas.waiting_roles():
        if role not in ready:
            outcome.missing[role] = max(1, _missing(metadatas, role))
    if ready:
        _publish(metadatas, ready, keyring, now, outcome)
    return outcome


def refresh(metadatas: Metadatas, roles: Iterable[str], keyring: Keyring, now: datetime) -> Outcome:
    """Sign a new snapshot and timestamp, so that devices know that nothing is kept from them.

    Other roles are signed anew where they are named, with no change but their end.
    """
    for role in roles:
        metadatas.stage(role, metadatas.edit(role, now))
    outcome = sign(metadatas, keyring, now)
    if not outcome.published:
        _publish(metadatas, {}, keyring, now, outcome)
    return outcome


def expiry(now: datetime, days: float) -> datetime:
    """When a version made now ends."""
    return (now + timedelta(days=days)).replace(microsecond=0)


def delegator_of(role: str) -> str:
    """The role that says who may sign another."""
    return "root" if role in ("root", "targets", "snapshot", "timestamp") else "targets"


def _load(path: Path) -> Any:
    try:
        return Metadata.from_file(str(path))
    except Exception as error:  # python-tuf has an error for each way in which a file can be broken
        raise StoreError(f"{path}: cannot be read as metadata: {error}") from error


def _bytes(metadata: Any) -> bytes:
    data: bytes = metadata.to_bytes(JSONSerializer(compact=False))
    return data


def _delegators(metadatas: Metadatas, role: str) -> Iterator[Any]:
    """Who has to agree to a role: for a new root the one before it too."""
    delegator = metadatas.newest(delegator_of(role))
    yield delegator.signed
    before = metadatas.current("root")
    if role == "root" and before is not None:
        yield before.signed


def _sign_staged(metadatas: Metadatas, role: str, keyring: Keyring) -> None:
    metadata = metadatas.waiting(role)
    before = set(metadata.signatures)
    known = {key.keyid: key for by in _delegators(metadatas, role) for key in _keys(by, role)}
    for keyid, key in known.items():
        if keyid not in metadata.signatures and (signer := keyring.signer(key)) is not None:
            add_signature(metadata, key, signer)
    if set(metadata.signatures) != before:
        metadatas.stage(role, metadata)


def _keys(delegator: Any, role: str) -> list[Any]:
    try:
        return keys_of(delegator, role)
    except ValueError:
        return []


def _verifies(delegator: Any, role: str, metadata: Any) -> bool:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def _ready(metadatas: Metadatas) -> dict[str, Any]:
    """Staged metadata that may be served now, by role."""
    ready: dict[str, Any] = {}
    for role in ("root", "targets"):
        metadata = metadatas.waiting(role)
        if metadata is not None and all(_verifies(by, role, metadata) for by in _delegators(metadatas, role)):
            ready[role] = metadata
    targets = ready.get("targets") or metadatas.current("targets")
    root = ready.get("root") or metadatas.current("root")
    if root is None or targets is None or not _verifies(root.signed, "targets", targets):
        # New keys of the targets role, and the role not signed by them yet: neither is served.
        ready.clear()
        targets = metadatas.current("targets")
    if targets is not None:
        followers = _followers(metadatas, targets)
        if followers is None and "targets" in ready:
            del ready["targets"]
            followers = _followers(metadatas, metadatas.current("targets"))
        ready |= followers or {}
    return ready


def _followers(metadatas: Metadatas, targets: Any) -> dict[str, Any] | None:
    """Staged roles that a targets role accepts; None if one that is there would be lost by it."""
    ready: dict[str, Any] = {}
    if targets is None or targets.signed.delegations is None:
        return ready
    for role in targets.signed.delegations.roles or {}:
        staged, current = metadatas.waiting(role), metadatas.current(role)
        if staged is not None and _verifies(targets.signed, role, staged):
            ready[role] = staged
        elif current is None or not _verifies(targets.signed, role, current):
            return None
    return ready


def _missing(metadatas: Metadatas, role: str) -> int:
    metadata = metadatas.waiting(role)
    most = 0
    for delegator in _delegators(metadatas, role):
        try:
            result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        except ValueError:
            continue
        most = max(most, int(result.missing))
    return most


def _publish(
    metadatas: Metadatas, ready: dict[str, Any], keyring: Keyring, now: datetime, outcome: Outcome
) -> None:
    root = ready.get("root") or metadatas.current("root")
    snapshot = _next(metadatas, Snapshot, "snapshot", now)
    targets = ready.get("targets") or metadatas.current("targets")
    roles = ["targets", *((targets.signed.delegations and targets.signed.delegations.roles) or {})]
    snapshot.signed.meta = {}
    for role in roles:
        metadata = ready.get(role) or metadatas.current(role)
        snapshot.signed.meta[f"{role}.json"] = MetaFile.from_data(
            metadata.signed.version, _bytes(metadata), ["sha256"]
        )
    timestamp = _next(metadatas, Timestamp, "timestamp", now)
    timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
    timestamp.signed.unrecognized_fields[ISSUED] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    for role, metadata in (("snapshot", snapshot), ("timestamp", timestamp)):
        metadata.signatures.clear()
        for key in keys_of(root.signed, role):
            if (signer := keyring.signer(key)) is not None:
                add_signature(metadata, key, signer)
        if not _verifies(root.signed, role, metadata):
            result = root.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            outcome.missing[role] = int(result.missing)
    if "snapshot" in outcome.missing or "timestamp" in outcome.missing:
        return
    # The timestamp last: until it is there, devices see what was before, whole.
    for role, metadata in (*ready.items(), ("snapshot", snapshot), ("timestamp", timestamp)):
        metadatas.serve(role, metadata)
        metadatas.unstage(role)
        outcome.published.append(role)


def _next(metadatas: Metadatas, kind: Any, role: str, now: datetime) -> Any:
    expires = metadatas.expiry(role, now)
    found = metadatas.current(role)
    if found is None:
        return Metadata(kind(version=1, expires=expires))
    found.signed.version += 1
    found.signed.expires = expires
    return found
