"""A federated round that a policy asks for: a command of this program in a child process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from collab.errors import BackendError

MAX_OUT_BYTES: Final = 4 << 20
MAX_ERROR_BYTES: Final = 64 << 10
_END_S: Final = 20.0
"""A run that is told to end writes down where it is."""


async def run_round(words: Sequence[str], number: int, environment: Mapping[str, str]) -> str:
    """Run ``collab WORDS`` to its end; what came of it, in a line.

    ``{n}`` in a word becomes the number.  Cancelled it ends the child, so that `fed resume` goes on.

    Raises:
        BackendError: it cannot be started, or ended otherwise than well.
    """
    command = [word.replace("{n}", str(number)) for word in words]
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "collab", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
        )
    except OSError as error:
        raise BackendError(f"collab {' '.join(command)}: cannot be started: {error.strerror}") from error
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        out, err, code = await asyncio.gather(
            _last(child.stdout, MAX_OUT_BYTES), _last(child.stderr, MAX_ERROR_BYTES), child.wait()
        )
    finally:
        await _end(child)
    if code:
        raise BackendError(f"collab {' '.join(command)}: ended with {code}: {_line(err)}")
    return _summary(out) or "done"


async def _last(stream: asyncio.StreamReader, most: int) -> bytes:
    """All of a stream is read, and its end kept."""
    kept = b""
    while part := await stream.read(1 << 16):
        kept = (kept + part)[-most:]
    return kept


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), _END_S)
    except (TimeoutError, asyncio.TimeoutError):
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _line(err: bytes) -> str:
    """The last line that says something."""
    lines = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"


def _summary(out: bytes) -> str:
    """What a run's document says of its end, where it is one."""
    try:
        found: Any = json.loads(out)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    parts = [found.get(name) for name in ("outcome", "reason", "said")]
    return "; ".join(part for part in parts if isinstance(part, str) and part)[:300]
