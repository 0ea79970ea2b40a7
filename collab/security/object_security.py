"""Security contexts of OSCORE (RFC 8613) as files: one pair for each client and node.

A context is a folder of mode 0700 with three files of mode 0600, in the format that aiocoap
reads: ``settings.json`` (identifiers, and whom the pair is for), ``secret.json`` and
``sequence.json`` (what was sent and seen).  Everything here blocks on the disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple, TypeVar

import msgspec

from collab.core.identity import Principal, parse_principal
from collab.errors import ConfigError, InputError, Refused
from collab.security import files
from collab.security.records import Issued

SETTINGS: Final = "settings.json"
SECRET: Final = "secret.json"
SEQUENCE: Final = "sequence.json"
ROLE: Final = "client"
"""The one role that a context can give."""
ALGORITHM: Final = "AES-CCM-16-64-128"
HASH: Final = "sha256"
WINDOW: Final = 32
"""These three are what every implementation has (RFC 8613 3.2)."""
MAX_NUMBER: Final = (1 << 40) - 1
"""Partial IVs have five bytes (RFC 8613 7.2.1)."""
MAX_CONTEXTS: Final = 1024
_SECRET_BYTES: Final = 16
_SALT_BYTES: Final = 8
_CLIENT_ID_BYTES: Final = 4
"""Random, as a node tells its clients apart by them; at most 7 fit in the nonce (RFC 8613 3.3)."""
_NODE_ID: Final = "00"
"""Never sent: a client knows which node it has asked."""
_LOCK: Final = "lock"
_REMEDY: Final = "make a pair of contexts: collab cluster oscore CLIENT NODE --out DIR"
_HEX: Final = re.compile(r"([0-9a-f]{2})*")

_T = TypeVar("_T")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identifiers of one end, in hexadecimal, and the principals of the pair."""

    client: str
    node: str
    sender_id: str = msgspec.field(name="sender-id_hex")
    recipient_id: str = msgspec.field(name="recipient-id_hex")
    algorithm: Literal["AES-CCM-16-64-128"] = "AES-CCM-16-64-128"
    hash: Literal["sha256"] = msgspec.field(name="kdf-hashfun", default="sha256")
    window: Literal[32] = WINDOW


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only the two ends know, in hexadecimal."""

    secret: str = msgspec.field(name="secret_hex")
    salt: str = msgspec.field(name="salt_hex")


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replay window (RFC 8613 7.4): bit ``i`` says that number ``index + i`` was seen."""

    index: int
    bitfield: int


class Used(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must outlive the process, or a nonce would be used twice and a replay be believed."""

    next_to_send: int = msgspec.field(name="next-to-send")
    received: Seen | Literal["unknown"]


class Keys(NamedTuple):
    """What an end derives its keys from (RFC 8613 3.2)."""

    sender_id: bytes
    recipient_id: bytes
    secret: bytes
    salt: bytes


class ContextFolder:
    """A node's end of one pair, locked for this process until `close`.

    Raises `Refused` for files that others can read, a context that is another node's, gives
    another role than a client's or is in use, `ConfigError` for one that cannot be read.
    """

    def __init__(self, path: Path, node: Principal) -> None:
        self.path = path
        settings = _read(path / SETTINGS, Settings)
        secret = _read(path / SECRET, Secret)
        self.client = _client(path, settings, node)
        """Whom the other end is."""
        self.keys = Keys(
            _unhex(path / SETTINGS, "sender-id_hex", settings.sender_id, 0),
            _unhex(path / SETTINGS, "recipient-id_hex", settings.recipient_id, 0),
            _unhex(path / SECRET, "secret_hex", secret.secret, _SECRET_BYTES),
            _unhex(path / SECRET, "salt_hex", secret.salt, 0),
        )
        if self.keys.sender_id == self.keys.recipient_id or max(map(len, self.keys[:2])) > 7:
            raise ConfigError(f"{path / SETTINGS}: its identifiers cannot be; {_REMEDY}")
        if settings.sender_id != _NODE_ID:
            raise Refused(f"{path}: is the client's end; give this node what is in NODE/CLIENT")
        self._lock = _locked(path)
        try:
            self._mark = _mark(path)
            self.sequence = _sequence(path)
            """As the last process left it."""
        except BaseException:
            self._lock.close()
            raise

    def present(self) -> bool:
        """Whether the folder still holds this context: an operator takes it back by removing it."""
        try:
            return _mark(self.path) == self._mark
        except OSError:
            return False

    def store(self, sequence: Used) -> None:
        """Write what was used.  Raises `Refused` if the context was taken back, `ConfigError`."""
        if not self.present():
            raise Refused(f"{self.path}: this context was taken back")
        files.write(self.path / SEQUENCE, _encode(sequence))

    def close(self) -> None:
        """Let other processes use it."""
        self._lock.close()


def open_contexts(directory: Path, node: Principal) -> list[ContextFolder]:
    """A node's end of every pair in a directory, by name.

    Raises as `ContextFolder` does; `Refused` also for two clients with one identifier.
    """
    opened: list[ContextFolder] = []
    try:
        for path in _folders(directory):
            context = ContextFolder(path, node)
            for other in opened:
                if other.keys.recipient_id == context.keys.recipient_id:
                    context.close()
                    raise Refused(f"{path}: its client has the identifier of {other.path}'s; make one anew")
            opened.append(context)
    except BaseException:
        for context in opened:
            context.close()
        raise
    return opened


def check_enrolled(client: Principal, node: Principal, issued: Iterable[Issued], now: datetime) -> None:
    """Raise `InputError` unless a node is enrolled, `Refused` if a client's name is another role's."""
    live = [entry for entry in issued if entry.name and entry.live(now)]
    if not any((entry.name, entry.role) == node[:2] for entry in live):
        raise InputError(f"node {node.name!r}: no live certificate names {node}; see: collab cluster list")
    for entry in live:
        if entry.name.lower() == client.name.lower() and (entry.name, entry.role) != client[:2]:
            raise Refused(f"client {client.name!r}: {entry.name!r} is enrolled as {entry.role}")


def write_pair(out: Path, client: Principal, node: Principal) -> tuple[Path, Path]:
    """Make a pair with a fresh secret: ``out/CLIENT/NODE`` for the client, ``out/NODE/CLIENT`` for the node.

    Returns both.  Raises `Refused` if there is one already, `InputError` for one name twice.
    """
    if client.name.lower() == node.name.lower():
        raise InputError(f"client {client.name!r}: is the node's name too; names are unique in a cluster")
    clients, nodes = out / client.name / node.name, out / node.name / client.name
    for path in (clients, nodes):
        files.check_vacant(path, "--out")
    secret = Secret(secrets.token_hex(_SECRET_BYTES), secrets.token_hex(_SALT_BYTES))
    client_id = secrets.token_hex(_CLIENT_ID_BYTES)
    ends = {clients: (client_id, _NODE_ID), nodes: (_NODE_ID, client_id)}
    written: list[Path] = []
    try:
        for path, (sender, recipient) in ends.items():
            for parent in (out, path.parent):
                if not parent.exists():
                    files.private_directory(parent, "--out")
            made: dict[str, msgspec.Struct] = {
                SETTINGS: Settings(str(client), str(node), sender, recipient),
                SECRET: secret,
                SEQUENCE: Used(0, Seen(0, 0)),
            }
            content = {name: (_encode(value), files.PRIVATE) for name, value in made.items()}
            files.write_new_directory(path, content, "--out")
            written.append(path)
    except BaseException:
        for path in written:
            shutil.rmtree(path, ignore_errors=True)
        raise
    return clients, nodes


def _folders(directory: Path) -> list[Path]:
    try:
        found = sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"--coap-oscore {directory}: {error.strerror}; {_REMEDY}") from error
    if len(found) > MAX_CONTEXTS:
        raise ConfigError(f"--coap-oscore {directory}: over {MAX_CONTEXTS} contexts")
    return found


def _client(path: Path, settings: Settings, node: Principal) -> Principal:
    where = path / SETTINGS
    try:
        client, own = parse_principal(settings.client), parse_principal(settings.node)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from error
    if own != node:
        raise Refused(f"{where}: is a context with {own}, not with {node}; each node needs its own")
    if client.role != ROLE:
        raise Refused(f"{where}: names {client}; a context can only name a client")
    if client.cluster != node.cluster:
        raise Refused(f"{where}: names {client}, who is of another cluster than {node.cluster!r}")
    return client


def _sequence(path: Path) -> Used:
    sequence = _read(path / SEQUENCE, Used)
    seen = sequence.received
    fits = seen == "unknown" or (0 <= seen.index <= MAX_NUMBER and 0 <= seen.bitfield < 1 << WINDOW)
    if not fits or not 0 <= sequence.next_to_send <= MAX_NUMBER:
        raise ConfigError(f"{path / SEQUENCE}: its numbers cannot be; {_REMEDY}")
    return sequence


def _locked(path: Path) -> IO[bytes]:
    try:
        lock = open(path / _LOCK, "ab")  # noqa: SIM115 - closed by `ContextFolder.close`
    except OSError as error:
        raise ConfigError(f"{path}: cannot be used: {error.strerror}") from error
    try:
        with suppress(OSError):
            os.fchmod(lock.fileno(), files.PRIVATE)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Refused(f"{path}: another process uses this context; it can serve one at a time") from error
    return lock


def _mark(path: Path) -> tuple[int, int]:
    """Tells a context's secret from one that took its place."""
    found = os.stat(path / SECRET)
    return found.st_dev, found.st_ino


def _read(path: Path, kind: type[_T]) -> _T:
    data = files.read_private(path, _REMEDY)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; {_REMEDY}") from error


def _unhex(path: Path, field: str, text: str, least: int) -> bytes:
    if not _HEX.fullmatch(text) or len(text) // 2 < least:
        raise ConfigError(f"{path}: {field} is not {least} or more bytes in hexadecimal; {_REMEDY}")
    return bytes.fromhex(text)


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
