"""When to renew a certificate, and the task that does."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from collab.errors import CollabError
from collab.security.identity import Clock, Credentials, utc_now

log = logging.getLogger("collab.security.renewal")

_EARLIEST: Final = 0.60
_LATEST: Final = 0.70
"""Two thirds of the lifetime, spread so that devices enrolled together do not come together."""
_RETRY_S: Final = 30.0
_RETRY_LIMIT_S: Final = 6 * 3600.0
_LONGEST_SLEEP_S: Final = 3600.0
"""The clock is looked at again this often: it may be set, or the device may have slept."""


def renewal_due(not_before: datetime, not_after: datetime, now: datetime, rng: random.Random) -> float:
    """Seconds from ``now`` until a certificate ought to be renewed; 0 if that time has passed."""
    life = not_after - not_before
    return max(0.0, (not_before + life * rng.uniform(_EARLIEST, _LATEST) - now).total_seconds())


def retry_after(failures: int, rng: random.Random) -> float:
    """Seconds to wait after some failures in a row: doubled each time, with jitter, and bounded."""
    return float(min(_RETRY_LIMIT_S, _RETRY_S * 2 ** min(failures, 16)) * rng.uniform(0.5, 1.0))


class Renewer:
    """Keeps one identity's certificate fresh; run `run` as a task."""

    def __init__(
        self,
        credentials: Credentials,
        renew: Callable[[Credentials], Awaitable[None]],
        *,
        clock: Clock = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._credentials = credentials
        self._renew = renew
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled; failures are logged and tried again."""
        failures = 0
        while True:
            await self._wait()
            try:
                await self._renew(self._credentials)
            except CollabError as error:
                failures += 1
                log.warning("the certificate could not be renewed: %s", error)
                await self._sleep(retry_after(failures, self._rng))
            else:
                failures = 0
                log.info("certificate renewed until %s", self._credentials.leaf.not_after)

    async def _wait(self) -> None:
        leaf = self._credentials.leaf
        spread = random.Random(leaf.serial)  # the same answer each time that it is asked
        while (due := renewal_due(leaf.not_before, leaf.not_after, self._clock(), spread)) > 0:
            await self._sleep(min(due, _LONGEST_SLEEP_S))
            spread = random.Random(leaf.serial)
