"""Keys of HTTP and gRPC clients that have no certificate: a file of names, roles and hashes.

A key is 256 random bits, so one SHA-256 is as good as a slow hash: there is nothing to guess.
The file has one line for each, ``NAME ROLE HASH``; whoever reads it learns no key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from collab.core.ids import check_name
from collab.errors import ConfigError, Unauthenticated, UsageError
from collab.security.files import read_private, write

ROLES: Final = ("viewer", "inference", "operator")
MAX_KEYS: Final = 10_000
MAX_KEY: Final = 512
"""Characters of a key that somebody presents."""
_PREFIX: Final = "collab-"


class ApiKey(NamedTuple):
    """Whose a key is and what it is good for; ``sha256`` is of the key, in hexadecimal."""

    name: str
    role: str
    sha256: str


def read_api_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.  Raises `ConfigError`, or `Refused` if others than its owner can read it."""
    text = read_private(path, "make it with: collab api-key FILE NAME").decode("utf-8", "replace")
    found: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[1] not in ROLES or not _is_digest(words[2]):
            raise ConfigError(f"{path}, line {number}: give NAME, one of {', '.join(ROLES)}, and a SHA-256")
        found.append(ApiKey(check_name(words[0], f"{path}, line {number}"), words[1], words[2].lower()))
    if len(found) > MAX_KEYS:
        raise ConfigError(f"{path}: {len(found)} keys are over {MAX_KEYS}")
    if len({key.name for key in found}) < len(found):
        raise ConfigError(f"{path}: a name stands there twice; give each key its own")
    return tuple(found)


def add_api_key(path: Path, name: str, role: str) -> str:
    """A new key, which only this call ever tells; its hash goes into the file, which is made if need be.

    Raises `UsageError` for a name that is taken or a role that there is not, `ConfigError`.
    """
    if role not in ROLES:
        raise UsageError(f"--role {role[:40]!r}: give one of {', '.join(ROLES)}")
    known = read_api_keys(path) if path.exists() else ()
    check_name(name, "NAME")
    if any(key.name == name for key in known):
        raise UsageError(f"{name!r} has a key in {path} already; take that line away first")
    key = _PREFIX + secrets.token_urlsafe(32)
    lines = (*known, ApiKey(name, role, _digest(key)))
    write(path, "".join(" ".join(line) + "\n" for line in lines).encode())
    return key


def whose(keys: Sequence[ApiKey], presented: str | None) -> ApiKey:
    """The key that somebody presents; raises `Unauthenticated`.

    Every line is compared, each in constant time, so that how long it takes tells nothing.
    """
    if not presented:
        raise Unauthenticated("give an API key: Authorization: Bearer KEY")
    digest = _digest(presented[: MAX_KEY + 1])
    found: ApiKey | None = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    if found is None:
        raise Unauthenticated("this API key is not known here")
    return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdefABCDEF" for letter in text)
