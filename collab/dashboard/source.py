"""Where a page's state comes from, and what acts for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from collab.dashboard.state import Board

LEAST_S: Final = 0.25
"""Between two times that a client is told of changes."""
IDLE_S: Final = 15.0
"""After so long a client hears that the stream is alive."""


@dataclass(frozen=True)
class Action:
    """Something that an operator may ask for."""

    label: str
    question: str
    """What is asked before, with ``{}`` for the target."""
    target: str
    """The kind of value that it is done to: ``node``, ``plan``, ``history`` or ``rollout``.

    A value with a list ``can`` has the names of those that make sense now.
    """


class Source(Protocol):
    """What `dashboard_app` shows."""

    board: Board

    @property
    def actions(self) -> Mapping[str, Action]:
        """What can be asked for, by name."""

    async def act(self, action: str, target: str, by: str) -> str:
        """Do it and say what came of it; raises `CollabError`."""

    async def changed(self, version: int) -> bool:
        """Wait until the board has another version than this; False once there will be none."""


class Changes:
    """Tells all who wait that there is something new."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._event = asyncio.Event()
        self._ended = False

    def end(self) -> None:
        """Nothing more will be told."""
        self._ended = True
        self.tell()

    def tell(self) -> None:
        """Wake everybody who waits."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, version: int) -> bool:
        """Until the board has another version than this; False once there will be none."""
        while self._board.versions.version == version and not self._ended:
            await self._event.wait()
        return not self._ended
