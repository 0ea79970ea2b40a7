"""A transport that is made when it is first used: what nobody uses costs neither memory nor time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from collab.transport.base import Accept, Connection, Listener, Transport


class LazyTransport(Transport):
    """Stands for a transport until somebody listens or dials.

    ``kinds`` are the names of its connections in plans.
    """

    def __init__(self, scheme: str, make: Callable[[], Transport], kinds: tuple[str, ...] = ()) -> None:
        self.scheme = scheme
        self._make = make
        self._kinds = kinds or (scheme,)
        self._made: Transport | None = None
        self._making = asyncio.Lock()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of its connections in plans."""
        return self._kinds

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen with the real transport."""
        return await (await self._real()).listen(address, accept)

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Dial with the real transport."""
        return await (await self._real()).dial(address, timeout_s)

    async def _real(self) -> Transport:
        async with self._making:
            if self._made is None:
                # Importing reads files, which the event loop does not.
                self._made = await asyncio.to_thread(self._make)
            return self._made
