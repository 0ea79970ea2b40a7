"""A caller's trace goes on to the plan that it asks."""

from __future__ import annotations

import asyncio

from collab.client.runner import Result
from collab.core.token import Priority
from collab.serving.offers import Offer, Opened
from collab.telemetry.context import SERVED, TraceContext
from tests.unit.serving.stand_in import Double

CALLER = TraceContext(b"callers trace id", b"its span")


async def test_each_call_is_asked_under_its_own_callers_trace(monkeypatch):
    seen: list[TraceContext | None] = []

    async def run(self, inputs, deadline_s, priority, *, only, trace):
        await asyncio.sleep(0)
        seen.append(trace)
        return Result({}, 1.0, (), ())

    async def close():
        return None

    async def call(offer: Offer, caller: TraceContext | None) -> None:
        SERVED.set(caller)
        await offer.run({}, 1.0, Priority.NORMAL, "")

    monkeypatch.setattr(Double, "run", run)
    offer = Offer(Opened(Double(), close))
    await asyncio.gather(call(offer, CALLER), call(offer, None))
    assert sorted(seen, key=lambda trace: trace is None) == [CALLER, None]
