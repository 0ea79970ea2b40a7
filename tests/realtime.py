"""Tools that measure must not wait for other work on the machine, where that is allowed."""

from __future__ import annotations

import shutil
import subprocess

_CHRT = ("chrt", "--fifo", "1")
FIRST: tuple[str, ...] = (
    _CHRT
    if shutil.which("chrt")
    and not subprocess.run([*_CHRT, "true"], capture_output=True, check=False).returncode
    else ()
)
"""What stands before a command so that it runs before others; nothing where that is not allowed."""
