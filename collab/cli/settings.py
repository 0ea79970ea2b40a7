"""Settings from flags, then ``COLLAB_*`` variables, then a TOML file; read here and nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from collab.errors import ConfigError

T = TypeVar("T")


def read_file(path: Path | None) -> dict[str, Any]:
    """Settings of a TOML file: the one given, that of ``COLLAB_CONFIG``, or none."""
    if path is None:
        named = os.environ.get("COLLAB_CONFIG")
        if not named:
            return {}
        path = Path(named)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML: {error}") from error


def gather(kind: type[T], flags: Mapping[str, Any], file: Path | None, section: str) -> T:
    """Fill a settings type; unknown names in the file and wrong values are `ConfigError`.

    A flag of None is one that was not given.  The file's names stand at its top level or
    under ``[section]``.
    """
    table = read_file(file)
    values: dict[str, Any] = {k: v for k, v in table.items() if not isinstance(v, dict)}
    values.update(table.get(section, {}))
    fields = msgspec.structs.fields(kind)  # type: ignore[arg-type]
    for field in fields:
        text = os.environ.get(f"COLLAB_{field.name.upper()}")
        if text is not None:
            values[field.name] = text.split(",") if "tuple" in str(field.type) else text
        if flags.get(field.name) is not None:
            values[field.name] = flags[field.name]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings: {error}") from error


def peers(flag: str | None, file: Path | None = None) -> list[str]:
    """Addresses of peers; an empty list if nobody gave any."""
    text = flag or os.environ.get("COLLAB_PEERS") or read_file(file).get("peers", "")
    entries = text.split(",") if isinstance(text, str) else list(text)
    return [entry.strip() for entry in entries if entry.strip()]
