"""Addresses that somebody gave: nobody is asked, and the name stays unknown until one is dialled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from collab.discovery.base import Discovery, Gone, Report, Sighting, is_endpoint
from collab.errors import UsageError

MAX_ADDRESSES: Final = 1024
TTL_S: Final = 600.0
"""What is configured does not go away: it is reported again twice within this time."""


class StaticDiscovery(Discovery):
    """Reports each address as a sighting of its own; advertises nothing."""

    how = "static"

    def __init__(self, addresses: Sequence[str]) -> None:
        """A bare ``HOST:PORT`` means gRPC.  Raises `UsageError` for what is no address."""
        if len(addresses) > MAX_ADDRESSES:
            raise UsageError(f"{len(addresses)} addresses of peers: give at most {MAX_ADDRESSES}")
        full = (address if "://" in address else f"grpc://{address}" for address in addresses)
        self._addresses = tuple(dict.fromkeys(full))
        for address in self._addresses:
            if not is_endpoint(address):
                raise UsageError(f"address {address[:80]!r}: write it as scheme://place or HOST:PORT")
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Report the addresses; they stay until `stop`."""
        self._again(report)

    def _again(self, report: Report) -> None:
        self._timer = asyncio.get_running_loop().call_later(TTL_S / 2, self._again, report)
        for address in self._addresses:
            report(Sighting(endpoints=(address,), how=self.how, ttl_s=TTL_S, source=address))

    async def update(self, me: Sighting) -> None:
        """Nobody is told."""

    async def stop(self) -> None:
        """Report nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
