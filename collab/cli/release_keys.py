"""Keys and roles of a repository of releases, as the command line names them."""

from __future__ import annotations

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

    return Keyring(
        tuple(folders or ()), passphrase, lambda name: _secret(name, f"{PASSPHRASE}_{name.upper()}")
    )


def _secret(what: str, variable: str) -> str:
    if variable in os.environ:
        return os.environ[variable]
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: set {variable}, there is no terminal to ask on")
    answer: str = typer.prompt(what, hide_input=True, err=True)
    return answer


def make_keys(folder: Path, elsewhere: Iterable[str]) -> MakeKeys:
    """Makes keys of a role in a folder of its name, fewer by those that are elsewhere."""
    from collab.updates.repository.keys import key_at, make_key

    named: dict[str, list[tuple[str, Path]]] = {}
    for text in elsewhere:
        role, equals, rest = text.partition("=")
        uri, comma, public = rest.rpartition(",")
        if not (equals and comma and ":" in uri):
            raise UsageError(f"--key {text[:80]!r}: give ROLE=URI,PUBLIC.pem")
        named.setdefault(role, []).append((uri, Path(public)))
    asked: list[str] = []

    def make(role: str, count: int) -> list[Any]:
        keys = [key_at(uri, public) for uri, public in named.get(role, ())]
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
