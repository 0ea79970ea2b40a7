"""How this process's memory is handed back to the system."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_THRESHOLD_BYTES: Final = 32 << 20  # the most that glibc takes


def keep_large_buffers() -> None:
    """Let glibc reuse large buffers in place of mapping and unmapping one a message.

    Halves the time of messages of a megabyte.  Two arenas, for the loop and the stages,
    keep what is freed in one thread from piling up for another.  Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, 2)
    mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 2 * _THRESHOLD_BYTES)
