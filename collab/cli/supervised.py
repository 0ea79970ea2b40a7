"""Telling a service manager that a command serves, and that it still lives: sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Final

_log = logging.getLogger(__name__)

_MICROSECONDS: Final = 1e6
_BEATS: Final = 2
"""Signs of life in the time after which the manager gives the process up, as sd_watchdog_enabled(3) asks."""


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state, such as ``READY=1``, to the socket in ``NOTIFY_SOCKET``; nothing where there is none."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            # A manager that is gone is no reason to end; one that waits says so itself.
            _log.warning("the service manager was not told %s: %s", state, error.strerror)


def beat_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two signs of life; none if the manager does not wait for any from this process."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0 or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / _MICROSECONDS / _BEATS


@contextlib.asynccontextmanager
async def supervised(environment: Mapping[str, str] = os.environ) -> AsyncIterator[None]:
    """Within, the manager knows that this process serves, and hears of it from the event loop."""
    notify("READY=1", environment)
    every = beat_s(environment, os.getpid())
    beating = None if every is None else asyncio.ensure_future(_beat(every, environment))
    try:
        yield
    finally:
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


async def _beat(every: float, environment: Mapping[str, str]) -> None:
    while True:
        notify("WATCHDOG=1", environment)
        await asyncio.sleep(every)
