"""A running identity renews itself, and tries again when it cannot."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from collab.errors import PeerUnreachable
from collab.security.renewal import Renewer


async def test_it_waits_until_due_and_tries_again_after_a_failure():
    start = datetime.now(timezone.utc)
    clock = [start]
    leaf = SimpleNamespace(serial=7, not_before=start, not_after=start + timedelta(days=9))
    tries: list[float] = []

    async def sleep(seconds: float) -> None:
        clock[0] += timedelta(seconds=seconds)

    async def renew(_: object) -> None:
        tries.append((clock[0] - start) / timedelta(days=1))
        if len(tries) == 2:
            raise asyncio.CancelledError
        raise PeerUnreachable("no answer")

    renewer = Renewer(SimpleNamespace(leaf=leaf), renew, clock=lambda: clock[0], sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await renewer.run()
    assert 5.4 <= tries[0] <= 6.4
    assert tries[0] < tries[1] < tries[0] + 0.01
