"""All discoveries at once, with one roster of what they find."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final

from collab.discovery.base import Discovery, Sighting
from collab.discovery.roster import Roster

log = logging.getLogger("collab.discovery")

START_S: Final = 5.0
"""How long one discovery may take to get under way."""
STOP_S: Final = 3.0
_LOOK_S: Final = 5.0
"""Longest time between two looks for what is over."""


class Search:
    """Runs discoveries and keeps their roster.  Use as an asynchronous context manager.

    A discovery that cannot start does without: its `Discovery.trouble` says why.
    """

    def __init__(
        self, discoveries: Sequence[Discovery], me: Sighting | None = None, roster: Roster | None = None
    ) -> None:
        """Nothing is sent yet; ``me`` is what to advertise, if anything."""
        instance = me.instance if me is not None else ""
        self.roster = roster or Roster(asyncio.get_running_loop().time, instance=instance)
        self.discoveries = tuple(discoveries)
        self._me = me
        self._timer: asyncio.TimerHandle | None = None

    @property
    def troubles(self) -> dict[str, str]:
        """Why discoveries do not work at present, by name."""
        return {d.how: d.trouble for d in self.discoveries if d.trouble}

    async def __aenter__(self) -> Search:
        try:
            await self._each(lambda d: d.start(self._me, self.roster.report, self.roster.gone), START_S)
        except BaseException:
            await self.stop()
            raise
        self._expire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def advertise(self, me: Sighting) -> None:
        """Advertise something else, if anything was advertised before."""
        if self._me is not None:
            self._me = me
            await self._each(lambda d: d.update(me), START_S)

    async def stop(self) -> None:
        """Say good-bye everywhere and end; safe to repeat, never raises."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await asyncio.gather(*(_bounded(d.stop(), STOP_S) for d in self.discoveries), return_exceptions=True)

    async def _each(self, work: Callable[[Discovery], Awaitable[None]], limit_s: float) -> None:
        """Do something with all at once; raises `UsageError` if one says so, after all have ended."""
        done = await asyncio.gather(
            *(_bounded(work(d), limit_s) for d in self.discoveries), return_exceptions=True
        )
        for discovery, result in zip(self.discoveries, done, strict=True):
            if isinstance(result, (asyncio.TimeoutError, TimeoutError)):
                discovery.trouble = discovery.trouble or f"{discovery.how}: no answer within {limit_s:g} s"
                log.warning("%s", discovery.trouble)
            elif isinstance(result, BaseException):
                raise result

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        over = self.roster.expire()
        pause = _LOOK_S if over is None else min(max(over - loop.time(), 0.05), _LOOK_S)
        self._timer = loop.call_later(pause, self._expire)


async def _bounded(work: Awaitable[Any], limit_s: float) -> None:
    await asyncio.wait_for(asyncio.ensure_future(work), limit_s)
