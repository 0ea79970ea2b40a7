"""The structured-concurrency tools of Python 3.11, on 3.10 too."""

from __future__ import annotations

import asyncio
import sys

if sys.version_info >= (3, 11):
    from asyncio import TaskGroup, timeout
    from builtins import BaseExceptionGroup
else:
    from exceptiongroup import BaseExceptionGroup
    from taskgroup import TaskGroup, timeout

__all__ = ["BaseExceptionGroup", "TaskGroup", "is_cancelled", "timeout"]


def is_cancelled() -> bool:
    """Whether the current task was cancelled, and not only something that it awaits.

    Python 3.10 cannot tell; there the answer is no.
    """
    task = asyncio.current_task()
    return bool(getattr(task, "cancelling", int)())
