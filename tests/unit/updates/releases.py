"""A repository of releases in a folder, a device beside it, and a source that somebody else controls."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf")

from securesystemslib.signer import CryptoSigner

from collab.updates.fetch.base import Opened, Source
from collab.updates.fetch.client import Clocks, Device, Releases, trust
from collab.updates.fetch.files import FolderSource
from collab.updates.fetch.pace import Limits
from collab.updates.release import ReleaseInfo
from collab.updates.repository.keys import Keyring
from collab.updates.repository.publishing import CHANNEL, DEFAULTS, Repository, RoleSpec, init, trusted_root

NOW = datetime(2031, 5, 1, tzinfo=timezone.utc)


@dataclass
class Keys:
    """Keys in memory by role; `ring` has those of some roles, or all."""

    made: dict[str, list[CryptoSigner]] = field(default_factory=dict)

    def make(self, role: str, count: int) -> Sequence[Any]:
        fresh = [CryptoSigner.generate_ed25519() for _ in range(count)]
        self.made.setdefault(role, []).extend(fresh)
        return [signer.public_key for signer in fresh]

    def ring(self, *signers: CryptoSigner) -> Keyring:
        chosen = signers or [signer for role in self.made.values() for signer in role]
        ring = Keyring()
        for role in self.made.values():
            ring._signers.update({signer.public_key.keyid: None for signer in role})
        ring._signers.update({signer.public_key.keyid: signer for signer in chosen})
        return ring


class World:
    """Family ``digits`` with channels ``staging`` and ``stable``, the latter signed by two of three."""

    def __init__(self, folder: Path, now: datetime = NOW) -> None:
        self.folder = folder
        self.keys = Keys()
        self.now = now
        channels = {"staging": CHANNEL, "stable": RoleSpec(3, 2, 180)}
        self.repository, self.outcome = init(
            folder / "repository", {"digits": channels}, self.keys.make, Keyring(), now, DEFAULTS
        )
        self.sign()

    def sign(self) -> Any:
        from collab.updates.repository.metadata import sign

        return sign(self.repository.metadatas, self.keys.ring(), self.now)

    @property
    def path(self) -> Path:
        return self.folder / "repository"

    def release(self, data: bytes, channel: str = "stable", **info: Any) -> ReleaseInfo:
        blob = self.folder / "blob"
        blob.write_bytes(data)
        version = info.pop("version", None) or self.repository.next_version("digits")
        fields = ReleaseInfo(family="digits", version=version, **info)
        return self.repository.publish(blob, fields, channel, self.keys.ring(), self.now)[0]

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.path, self.folder / name))

    def again(self) -> Repository:
        return Repository(self.path)

    def device(
        self,
        source: Source | None = None,
        name: str = "device",
        now: datetime | None = None,
        device: Device = Device(),
        **options: Any,
    ) -> Releases:
        trust(self.folder / name, trusted_root(self.path))
        clocks = options.pop(
            "clocks", Clocks(lambda: now or self.now, lambda: 0.0, lambda seconds: None, lambda: "")
        )
        place = source or FolderSource(self.path)
        return Releases(self.folder / name, place, device, Limits(), clocks=clocks, **options)


@dataclass
class Hostile(Source):
    """A folder of which some files are replaced; it counts what it gives."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Opened]:
        self.given.append(path)
        if path in self.files:
            yield Opened(offset, iter([self.files[path][offset:]]))
            return
        with FolderSource(self.folder).open(path, offset) as opened:
            yield opened


def days(count: float) -> timedelta:
    return timedelta(days=count)
