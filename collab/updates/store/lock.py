"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collab.errors import Conflict, StoreError


@contextmanager
def folder_lock(folder: Path, name: str, taken: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder's lock; the folder is made if it is missing.  Blocks with ``wait``.

    Args:
        folder: whose lock it is.
        name: of the lock's file.
        taken: what to say of the folder while another process holds it.
        wait: until it is free.

    Raises:
        Conflict: another process holds it.
        StoreError: the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise Conflict(f"{folder}: {taken}") from error
        yield
    finally:
        os.close(handle)
