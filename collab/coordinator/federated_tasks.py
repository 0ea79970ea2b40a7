"""What a federated run's server does at once: its tasks, and one thread for what blocks."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from collab.errors import CollabError
from collab.federated.orders import OrderId

log = logging.getLogger("collab.federated")

T = TypeVar("T")

Key = tuple[str, OrderId]
"""A client, and an order of it."""


class RunTasks:
    """One run's.  A task that ends in an error ends the run.

    Args:
        failed: Called when that has happened; `check` raises the error then.
    """

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._tasks: dict[asyncio.Task[None], Key | None] = {}
        self._failure: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collab-federated")

    def spawn(self, work: Coroutine[Any, Any, None], key: Key | None = None) -> asyncio.Task[None]:
        """Begin a task, which `cancel` finds by its key."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = key
        task.add_done_callback(self._over)
        return task

    def spawn_quietly(self, work: Awaitable[None]) -> None:
        """Begin a task whose `CollabError` is logged and ends nothing else."""
        self.spawn(_quietly(work))

    def cancel(self, key: Key) -> None:
        """End the tasks of an order."""
        for task, its in self._tasks.items():
            if its == key:
                task.cancel()

    def check(self) -> None:
        """Raise the error of the last task that had one."""
        if self._failure is not None:
            raise self._failure

    async def off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        """Run what blocks, after all that was given before."""
        call = functools.partial(function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """End all tasks, then the thread after what is given to it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._failed()


async def _quietly(work: Awaitable[None]) -> None:
    try:
        await work
    except CollabError as error:
        log.info("%s", error)
