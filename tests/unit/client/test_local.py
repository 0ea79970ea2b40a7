"""The whole model in this process: one at a time, a bounded queue, the deadline."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from collab.client.local import LocalModel
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, DeadlineExceeded, Overloaded, TensorError

SPEC = TensorSpec("x", (2,), "float32")
X = {"x": np.ones(2, np.float32)}


def model(run=lambda arrays: [arrays[0] * 2], most: int = 2) -> LocalModel:
    return LocalModel(run, (SPEC,), (TensorSpec("y", (2,), "float32"),), most)


async def test_it_answers_and_says_that_it_did():
    local = model()
    result = await local.run(X, 5.0)
    assert result.outputs["y"].tolist() == [2.0, 2.0]
    assert (result.via, result.path, result.attempts) == ("local", (), 0)
    with pytest.raises(TensorError):
        await local.run({"x": np.ones(3, np.float32)}, 5.0)
    await local.close()


async def test_more_than_its_queue_holds_is_refused_and_what_is_late_is_not_computed():
    go, runs = threading.Event(), []

    def run(arrays):
        runs.append(arrays)
        go.wait(10)
        return arrays

    local = model(run)
    first = asyncio.ensure_future(local.run(X, 5.0))
    late = asyncio.ensure_future(local.run(X, 0.05))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 requests wait"):
        await local.run(X, 5.0)
    with pytest.raises(DeadlineExceeded):
        await late
    go.set()
    assert (await first).via == "local"
    await local.close()
    assert len(runs) == 1


async def test_a_runtime_that_fails_is_one_clear_error():
    def run(arrays):
        raise ValueError("no such\nkernel")

    local = model(run)
    with pytest.raises(BackendError, match="the whole model here failed: ValueError: no such kernel"):
        await local.run(X, 5.0)
    await local.close()
