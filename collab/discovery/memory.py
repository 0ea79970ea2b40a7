"""Discovery within one process, for tests and clusters of one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from collab.discovery.base import Discovery, Gone, Report, Sighting, checked


@dataclass
class Board:
    """Where instances of one process meet; all of one event loop."""

    advertised: dict[str, Sighting] = field(default_factory=dict)
    """By source."""
    watching: list[MemoryDiscovery] = field(default_factory=list)


class MemoryDiscovery(Discovery):
    """Whoever shares a `Board` finds each other at once."""

    how = "memory"

    def __init__(self, board: Board) -> None:
        self._board = board
        self._source = ""
        self._report: Report | None = None
        self._gone: Gone | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Put ``me`` on the board and report what stands there, then all that changes."""
        self._report, self._gone = report, gone
        self._board.watching.append(self)
        for sighting in self._board.advertised.values():
            report(sighting)
        if me is not None:
            self._source = f"{me.name}#{id(self)}"
            await self.update(me)

    async def update(self, me: Sighting) -> None:
        """Replace what stands on the board."""
        sighting = checked(msgspec.structs.replace(me, how=self.how, source=self._source))
        self._advertise(sighting)

    def _advertise(self, sighting: Sighting) -> None:
        if self._timer is not None:
            self._timer.cancel()
        again = sighting.ttl_s / 2
        self._timer = asyncio.get_running_loop().call_later(again, self._advertise, sighting)
        self._board.advertised[self._source] = sighting
        for other in tuple(self._board.watching):
            if other._report is not None:
                other._report(sighting)

    async def stop(self) -> None:
        """Take ``me`` off the board."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self in self._board.watching:
            self._board.watching.remove(self)
        if self._board.advertised.pop(self._source, None) is not None:
            for other in tuple(self._board.watching):
                if other._gone is not None:
                    other._gone(self.how, self._source)
