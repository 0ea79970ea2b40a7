"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from collab.errors import Conflict, StoreError

_LOOKS, _LOOK_S = 10, 0.005
"""Who only looks whether it is taken holds it for an instant, and refuses nobody."""


@contextmanager
def folder_lock(folder: Path, name: str, taken: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder's lock; the folder is made if it is missing.  Blocks, without ``wait`` for 45 ms at most.

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
            taken_here = _take(handle, wait)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be locked: {error.strerror}") from error
        if not taken_here:
            raise Conflict(f"{folder}: {taken}")
        yield
    finally:
        os.close(handle)


def _take(handle: int, wait: bool) -> bool:
    if wait:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_S)
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
