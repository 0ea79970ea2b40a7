"""What a server tells of the requests that it was asked so far."""

from __future__ import annotations

import asyncio

import pytest

from collab.client.runner import Result
from collab.core.token import Hop
from collab.errors import StageFailed
from collab.serving.about import model_statistics
from collab.serving.statistics import Statistics
from tests.unit.serving.stand_in import Double

HOPS = (Hop(0, "a", 100, 20, 3000, 7), Hop(1, "b", 200, 30, 5000, 8))


def test_times_are_those_of_waiting_and_of_the_nodes():
    statistics = Statistics()
    for _ in range(2):
        statistics.answered(0.001, Result({}, 12.0, HOPS, ("a", "b"), encode_ms=0.5, decode_ms=0.25))
    statistics.ended("success", 0.013, 7.0)
    told = statistics.told()
    assert told["inference_stats"] == {
        "success": {"count": 1, "ns": 13_000_000},
        "fail": {"count": 0, "ns": 0},
        "queue": {"count": 2, "ns": 2 * 1_300_000},
        "compute_input": {"count": 2, "ns": 2 * 550_000},
        "compute_infer": {"count": 2, "ns": 2 * 8_000_000},
        "compute_output": {"count": 2, "ns": 2 * 265_000},
    }
    assert (told["inference_count"], told["execution_count"], told["last_inference"]) == (2, 2, 7000)
    (alone,) = told["batch_stats"]
    assert alone["batch_size"] == 1
    assert alone["compute_infer"] == told["inference_stats"]["compute_infer"]


async def test_calls_are_counted_by_how_they_end():
    offer = Double().offer
    with offer.counted():
        pass
    with pytest.raises(StageFailed), offer.counted():
        raise StageFailed("stage 's'")
    with pytest.raises(asyncio.CancelledError), offer.counted():
        raise asyncio.CancelledError
    (told,) = model_statistics([offer])
    assert (told["name"], told["version"]) == ("m", "3")
    assert {part: told["inference_stats"][part]["count"] for part in ("success", "fail")} == {
        "success": 1,
        "fail": 1,
    }
