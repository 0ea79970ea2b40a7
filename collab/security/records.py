"""What an authority has issued, taken back and invited, kept in one file.

Every change holds a lock that other processes respect, reads what is there now, and is
on the disk before it counts: two uses of a token, in whatever processes, cannot both win.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.errors import ConfigError
from collab.security import files

RECORDS: Final = "records.json"
_LOCK: Final = "lock"
KEEP_INVITES: Final = timedelta(days=7)
"""An invite that is over is remembered this long, to say what became of it."""


class Issued(msgspec.Struct, kw_only=True):
    """A certificate that was issued."""

    serial: str
    """Hexadecimal: JSON readers lose digits of long numbers."""
    name: str = ""
    role: str = ""
    """Empty for a server's certificate, which proves no identity."""
    hosts: list[str] = []
    not_before: datetime
    not_after: datetime
    revoked: datetime | None = None

    def live(self, now: datetime) -> bool:
        """Whether it can still be used."""
        return self.revoked is None and now <= self.not_after


class Invite(msgspec.Struct, kw_only=True):
    """A one-time permission to enrol; of its secret only the hash is here."""

    secret_sha256: str
    name: str
    role: str
    expires: datetime
    days: int
    used: datetime | None = None
    withdrawn: bool = False

    def open(self, now: datetime) -> bool:
        """Whether it can still be used."""
        return self.used is None and not self.withdrawn and now <= self.expires


class Records(msgspec.Struct, kw_only=True):
    """Everything that an authority remembers."""

    cluster: str
    list_number: int = 0
    """Of the last revocation list (RFC 5280 5.2.3)."""
    issued: list[Issued] = []
    invites: list[Invite] = []


def empty(cluster: str) -> bytes:
    """Content of a new file."""
    return _encode(Records(cluster=cluster))


def load(directory: Path) -> Records:
    """What is recorded now.  Raises `ConfigError`."""
    path = directory / RECORDS
    data = files.read(path, "make an authority: collab cluster init NAME")
    try:
        return msgspec.json.decode(data, type=Records)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; restore it from a copy") from error


@contextmanager
def changing(directory: Path, now: datetime) -> Iterator[Records]:
    """Records to change, written when the block ends without an error.  Blocks on the disk."""
    try:
        lock = open(directory / _LOCK, "ab")  # noqa: SIM115 - closed below, with the lock
    except OSError as error:
        raise ConfigError(f"authority {directory}: cannot be used: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = load(directory)
        yield records
        records.invites = [i for i in records.invites if i.expires + KEEP_INVITES > now]
        files.write(directory / RECORDS, _encode(records))


def _encode(records: Records) -> bytes:
    return msgspec.json.format(msgspec.json.encode(records), indent=1) + b"\n"


prepare(Records)
