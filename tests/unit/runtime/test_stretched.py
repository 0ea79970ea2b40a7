"""Stretched stages: the same answers, so many times later, and without keeping a core busy."""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.models import convolutions
from collab.backends import backends
from collab.cli.settings import gather
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, ConfigError
from collab.node.config import NodeConfig
from collab.runtime import stretched
from collab.runtime.function import Functions
from collab.runtime.litert import LiteRT
from collab.runtime.stretched import Stretched, wait_until

pytestmark = pytest.mark.timed

X = TensorSpec("x", (2,), "float32")
ZEROS = np.zeros(2, np.float32)


def computing(cpu_s):
    """A stage that computes for so long by its own thread's clock, however busy the machine is."""

    def function(arrays):
        end = time.thread_time() + cpu_s
        while time.thread_time() < end:
            pass
        return arrays

    return Functions({b"f": (function, (X,), (X,))})


def measured(stage):
    """Time on the clock and CPU time of one run."""
    wall, cpu = time.perf_counter(), time.thread_time()
    stage.run([ZEROS])
    return time.perf_counter() - wall, time.thread_time() - cpu


def test_a_run_lasts_so_many_times_its_cpu_time(monkeypatch):
    until: list[float] = []
    clocks = SimpleNamespace(perf_counter=lambda: 100.0, thread_time=time.thread_time)
    monkeypatch.setattr(stretched, "time", clocks)
    monkeypatch.setattr(stretched, "wait_until", until.append)
    stage = Stretched(computing(0.004), 4).load(b"f", 1)
    for _ in range(9):
        stage.run([ZEROS])
    assert 0.016 <= min(until) - 100 < 0.020


def test_the_wait_keeps_no_core_busy():
    slow = Stretched(computing(0.002), 21).load(b"f", 1)
    wall, cpu = map(min, zip(*(measured(slow) for _ in range(5)), strict=True))
    assert wall >= 0.042
    assert cpu < 0.004


def test_time_that_others_take_from_one_thread_does_not_count():
    def function(arrays):
        time.sleep(0.01)
        return arrays

    sleeper = Functions({b"f": (function, (X,), (X,))})
    one, two = (Stretched(sleeper, 5).load(b"f", threads) for threads in (1, 2))
    assert min(measured(one)[0] for _ in range(5)) < 0.02
    assert measured(two)[0] >= 0.05


def test_a_failure_passes_at_once():
    def function(arrays):
        raise BackendError("it broke")

    stage = Stretched(Functions({b"f": (function, (X,), (X,))}), 1000).load(b"f", 1)
    with pytest.raises(BackendError, match="it broke"):
        stage.run([ZEROS])


def test_answers_tensors_and_runtime_class_are_those_of_the_real_one():
    data = convolutions(2, channels=4, side=8)
    real, slow = LiteRT().load(data, 1), Stretched(LiteRT(), 3).load(data, 1)
    x = np.random.default_rng(0).normal(size=real.inputs[0].shape).astype(np.float32)
    assert (slow.inputs, slow.outputs) == (real.inputs, real.outputs)
    assert slow.run([x])[0].tobytes() == real.run([x])[0].tobytes()
    assert Stretched(LiteRT(), 3).runtime_class() == LiteRT().runtime_class()
    slow.close()
    with pytest.raises(BackendError, match="the stage is closed"):
        slow.run([x])


def test_waits_end_on_time():
    def late():
        deadline = time.perf_counter() + 0.003
        wait_until(deadline)
        return time.perf_counter() - deadline

    lateness = [late() for _ in range(21)]
    assert min(lateness) >= 0
    assert statistics.median(lateness) < 0.0005
    before = time.perf_counter()
    wait_until(before - 1)
    assert time.perf_counter() - before < 0.1


def test_all_back_ends_are_stretched_where_it_is_asked_for():
    assert {type(backend) for backend in backends(2.0).values()} == {Stretched}
    assert not isinstance(backends()["litert"], Stretched)


@pytest.mark.parametrize("factor", [0.5, 1001, float("nan"), float("inf")])
def test_factors_out_of_bounds_are_refused(factor):
    with pytest.raises(ConfigError, match=r"stretch"):
        gather(NodeConfig, {"stretch": factor}, None, "node")
