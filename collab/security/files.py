"""Files of keys and records: for their owner only, replaced whole, synced before anybody relies on them."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from collab.errors import ConfigError, Refused

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
_MOST_BYTES: Final = 16 << 20


def private_directory(path: Path, what: str) -> None:
    """Make a directory that only its owner can look into.  Raises `ConfigError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(path, 0o700)
    except OSError as error:
        raise ConfigError(f"{what} {path}: cannot be used: {error.strerror}") from error


def write(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace a file as a whole, so that a crash leaves the old or the new.  Raises `ConfigError`."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # O_EXCL: never through a link or into a file that somebody else has open.
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(handle, "wb") as file:
                os.fchmod(handle, mode)
                file.write(data)
                file.flush()
                os.fsync(handle)
            os.replace(fresh, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(fresh)
            raise
        _sync(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def write_new_directory(path: Path, files: Mapping[str, tuple[bytes, int]], what: str) -> None:
    """Make a directory with all of its files (content and mode), or nothing.

    Raises `Refused` if it holds something already, `ConfigError` if it cannot be written.
    """
    check_vacant(path, what)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    private_directory(fresh, what)
    try:
        for name, (data, mode) in files.items():
            write(fresh / name, data, mode)
        # Takes the place of an empty directory, never of one that another process has filled meanwhile.
        os.rename(fresh, path)
        _sync(path.parent)
    except OSError as error:
        raise ConfigError(f"{what} {path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            for leftover in fresh.iterdir():
                leftover.unlink()
            fresh.rmdir()


def check_vacant(path: Path, what: str) -> None:
    """Raise `Refused` unless a directory does not exist or is empty."""
    try:
        if not path.exists() or not any(path.iterdir()):
            return
    except OSError as error:
        raise ConfigError(f"{what} {path}: cannot be used: {error.strerror}") from error
    raise Refused(f"{what} {path}: holds something already; choose another directory or move that one away")


def read(path: Path, remedy: str) -> bytes:
    """A file's content; `ConfigError` with what to do about it if there is none."""
    try:
        with open(path, "rb") as file:
            return _bounded(path, file.read(_MOST_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {remedy}") from error


def read_private(path: Path, remedy: str) -> bytes:
    """Content of a file with a secret; `Refused` if others than its owner can read it."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise Refused(f"{path}: others can read or write it (mode {mode:o}); run: chmod 600 {path}")
            return _bounded(path, file.read(_MOST_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {remedy}") from error


def _bounded(path: Path, data: bytes) -> bytes:
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: over {_MOST_BYTES} bytes")
    return data


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
