"""What requesters count."""

from __future__ import annotations

import asyncio

import pytest

from collab.client import metrics as counting
from collab.client.metrics import RequesterMetrics
from collab.client.runner import Result
from collab.core.ids import NodeName
from collab.core.token import Hop
from collab.errors import CollabError, DeadlineExceeded
from collab.telemetry import catalogue as metrics
from collab.telemetry.catalogue import OTHERS


def result(via: str = "primary", absent: str | None = None) -> Result:
    hop = Hop(0, NodeName("a"), 1000, 1000, 5000, 1000)
    return Result({}, 12.0, (hop,), (NodeName("a"),), absent, 1.0, 2.0, attempts=2, via=via)


def test_requests_are_counted_by_outcome_path_and_cause():
    counts = RequesterMetrics()
    counts.answered("p", result())
    counts.answered("p", result("alternative:p~without-b"))
    counts.answered("p", result(absent="guard"))
    counts.failed("p", DeadlineExceeded("late"))
    found = {(v.metric, v.labels): v.value for v in counts.values()}
    assert found[metrics.CLIENT_REQUESTS, ("p", "ok", "primary")] == 1
    assert found[metrics.CLIENT_REQUESTS, ("p", "ok", "alternative")] == 1
    assert found[metrics.CLIENT_REQUESTS, ("p", "absent", "primary")] == 1
    assert found[metrics.CLIENT_REQUESTS, ("p", "failed", "")] == 1
    assert found[metrics.CLIENT_FAILURES, ("p", DeadlineExceeded.code)] == 1
    assert found[metrics.CLIENT_ATTEMPTS, ("p",)] == 6
    assert found[metrics.CLIENT_SECONDS, ("p",)].total_us == 36_000
    parts = {labels[1]: v.total_us for (m, labels), v in found.items() if m is metrics.CLIENT_PARTS}
    assert parts == {"nodes": 24_000, "encode": 3_000, "decode": 6_000, "wire": 3_000}


def test_the_last_requests_are_kept_without_their_tensors_and_others_make_room():
    counts = RequesterMetrics()
    for number in range(counting.KEPT + 3):
        counts.answered(f"p{number}", result("alternative:x" if number % 2 else "primary"))
    assert [one.plan for one in counts.recent] == [f"p{n}" for n in range(3, counting.KEPT + 3)]
    assert [one.own for one in counts.recent[:2]] == [False, True]
    last = counts.recent[-1]
    assert (last.total_ms, last.wire_ms, last.hops) == (12.0, 1.0, ((0, "a", 8.0),))
    assert not any(hasattr(one, "outputs") for one in counts.recent)


async def test_a_request_is_counted_however_it_ends():
    async def ends(error: CollabError | None) -> Result:
        if error is not None:
            raise error
        return result()

    counts = RequesterMetrics()
    assert (await counts.counted("p", ends(None))).attempts == 2
    with pytest.raises(DeadlineExceeded):
        await counts.counted("p", ends(DeadlineExceeded("late")))
    left = asyncio.ensure_future(counts.counted("p", asyncio.Event().wait()))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    found = {v.labels: v.value for v in counts.values() if v.metric is metrics.CLIENT_REQUESTS}
    assert found == {("p", "ok", "primary"): 1, ("p", "failed", ""): 1, ("p", "withdrawn", ""): 1}


def test_plans_beyond_the_bound_are_counted_together(monkeypatch):
    monkeypatch.setattr(counting, "MAX_PLANS", 2)
    counts = RequesterMetrics()
    for number in range(5):
        counts.answered(f"p{number}", result())
    found = {v.labels[0]: v.value for v in counts.values() if v.metric is metrics.CLIENT_REQUESTS}
    assert found == {"p0": 1, "p1": 1, OTHERS: 3}
