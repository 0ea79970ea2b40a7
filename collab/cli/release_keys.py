"""Keys and roles of a repository of releases, as the command line names them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.updates.repository.keys import Keyring
    from collab.updates.repository.publishing import MakeKeys, RoleSpec

PASSPHRASE: Final = "COLLAB_RELEASE_PASSPHRASE"


def keyring(folders: Sequence[Path] | None) -> Keyring:
    """The keys in folders and in the folders right below them; a passphrase is asked for once."""
    from collab.updates.repository.keys import Keyring

    asked: list[str] = []

    def passphrase() -> str:
        if not asked:
            asked.append(_secret("Passphrase of the keys", PASSPHRASE))
        return asked[0]

    return Keyring(tuple(folders or ()), passphrase, functools.lru_cache(_secret_at))


def _secret_at(name: str, uri: str) -> str:
    """Such as the PIN of a token."""
    return _secret(f"{name} of {uri}", f"{PASSPHRASE}_{name.upper()}")


def _secret(what: str, variable: str) -> str:
    if variable in os.environ:
        return os.environ[variable]
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: set {variable}, there is no terminal to ask on")
    answer: str = typer.prompt(what, hide_input=True, err=True)
    return answer


def make_keys(folder: Path, elsewhere: Iterable[str]) -> MakeKeys:
    """Makes keys of a role in a folder of its name, fewer by those that are elsewhere."""
    from collab.updates.repository.hardware import SCHEME
    from collab.updates.repository.keys import key_at, key_in_token, make_key

    named: dict[str, list[tuple[str, str]]] = {}
    for text in elsewhere:
        role, equals, rest = text.partition("=")
        uri, comma, public = rest.rpartition(",") if "," in rest else (rest, "", "")
        # A token at hand tells its public part itself.
        if not (equals and ":" in uri and (public or (uri.startswith(SCHEME) and not comma))):
            raise UsageError(f"--key {text[:80]!r}: give ROLE=URI,PUBLIC.pem, or ROLE=hsm:ID?label=TOKEN")
        named.setdefault(role, []).append((uri, public))
    asked: list[str] = []

    def make(role: str, count: int) -> list[Any]:
        keys = [
            key_at(uri, Path(public)) if public else key_in_token(uri, functools.partial(_secret_at, uri=uri))
            for uri, public in named.get(role, ())
        ]
        if len(keys) < count and not asked:
            asked.append(_secret("Passphrase for the new keys", PASSPHRASE))
        while len(keys) < count:
            keys.append(make_key(folder / role, role, asked[0]))
        return keys

    return make


def role_specs(names: Sequence[str], roles: Iterable[str], days: Iterable[str]) -> dict[str, RoleSpec]:
    """Who signs each role and channel; raises `UsageError`."""
    from collab.updates.repository.publishing import CHANNEL, DEFAULTS, RoleSpec

    specs = {name: DEFAULTS.get(name, CHANNEL) for name in names}
    for option, texts in (("--role", roles), ("--days", days)):
        for text in texts:
            name, _, value = text.partition("=")
            if name not in specs:
                raise UsageError(f"{option} {text[:60]!r}: no such role, of {', '.join(specs)}")
            old = specs[name]
            try:
                if option == "--days":
                    specs[name] = RoleSpec(old.keys, old.threshold, float(value))
                else:
                    threshold, _, count = value.partition("/")
                    specs[name] = RoleSpec(int(count), int(threshold), old.days)
            except ValueError as error:
                form = "THRESHOLD/KEYS" if option == "--role" else "a number"
                raise UsageError(f"{option} {text[:60]!r}: give {name}={form}") from error
    return specs
