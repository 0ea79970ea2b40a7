"""Settings from flags, then ``COLLAB_*`` variables, then a TOML file; read here and nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from collab.errors import ConfigError

T = TypeVar("T")

_SECTIONS: Final = (
    *("node", "runtime", "training", "condition", "serve_releases", "releases", "sources", "sinks"),
)
"""Tables that the file may have: each belongs to one command, or is one of its settings."""
_SHARED: Final = ("peers", "identity")
"""Names at the file's top level that are no section's."""


def read_file(path: Path | None) -> dict[str, Any]:
    """Settings of a TOML file: the one given, that of ``COLLAB_CONFIG``, or none."""
    if path is None:
        named = os.environ.get("COLLAB_CONFIG")
        if not named:
            return {}
        path = Path(named)
    return read_toml(path, "--config")


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """A TOML file that an option names; raises `ConfigError`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{option} {path}: not TOML: {error}") from error


def gather(kind: type[T], flags: Mapping[str, Any], file: Path | None, section: str) -> T:
    """Fill a settings type; unknown names in the file and wrong values are `ConfigError`.

    A flag of None is one that was not given.  The file's names stand at its top level or
    under ``[section]``.
    """
    table = read_file(file)
    for name, value in table.items():
        if isinstance(value, dict) and name not in _SECTIONS:
            raise ConfigError(f"settings: no section [{name}]; there is {', '.join(_SECTIONS)}")
    own = table.get(section, {})
    if not isinstance(own, dict):
        raise ConfigError(f"settings: {section} is a value; write [{section}] and its settings below")
    values = {k: v for k, v in table.items() if not isinstance(v, dict) and k not in _SHARED}
    values.update(own)
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if field.name in _SECTIONS:
            values[field.name] = table.get(field.name, values.get(field.name, {}))
            continue
        text = os.environ.get(f"COLLAB_{field.name.upper()}")
        if text is not None:
            values[field.name] = _split(text) if "tuple" in str(field.type) else text
        if flags.get(field.name) is not None:
            values[field.name] = flags[field.name]
        if field.required and field.name not in values:
            option = field.name.replace("_", "-")
            raise ConfigError(f"settings: {field.name} is missing; give --{option} or set it in a file")
    return convert(values, kind)


def convert(values: Mapping[str, Any], kind: type[T], where: str = "") -> T:
    """A settings type from a table; raises `ConfigError` for unknown names and wrong values."""
    try:
        return msgspec.convert(values, kind, strict=False, dec_hook=_path)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"settings: {f'{where}: ' if where else ''}{error}") from error


def _path(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    raise TypeError(f"Expected `{kind.__name__}`, got {value!r}")


def peers(flag: str | None, file: Path | None = None) -> list[str]:
    """Addresses of peers; an empty list if nobody gave any."""
    given = flag or os.environ.get("COLLAB_PEERS") or read_file(file).get("peers", "")
    entries = _split(given) if isinstance(given, str) else given
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"settings: peers: {given!r}: give HOST:PORT,… or a list of them")
    return [entry.strip() for entry in entries if entry.strip()]


_chosen_identity: Path | None = None


def choose_identity(directory: Path | None) -> None:
    """Keep the ``--identity`` that was given before the command's name."""
    global _chosen_identity
    _chosen_identity = directory


def default_directory(name: str) -> Path:
    """Where this user's identity or authority is kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "collab" / name


def identity_directory(given: Path | None = None, file: Path | None = None) -> Path | None:
    """The identity to use: flag, ``COLLAB_IDENTITY``, the file's, or this user's own if there is one."""
    named = given or _chosen_identity or os.environ.get("COLLAB_IDENTITY") or read_file(file).get("identity")
    if named:
        return Path(named).expanduser()
    own = default_directory("identity")
    return own if own.is_dir() else None


def _split(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
