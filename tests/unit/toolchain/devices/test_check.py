"""A check says what fits, what runs a model, how long it may take and what to do about it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from collab import assets
from collab.core.profile import CutProfile, DeviceProfile, Profile
from collab.errors import InputError
from collab.graph import parse_model, read_model
from collab.runtime.litert import LiteRT
from collab.toolchain.devices.catalogue import Catalogue, shipped
from collab.toolchain.devices.check import Model, check
from collab.toolchain.devices.measured import REFERENCE_MACS, REFERENCE_MS, Times, times
from tests.tflite_builder import ModelBuilder

ROOT = Path(__file__).parents[4]
FLOAT = Model.of(read_model(assets.path("digits.tflite")))
INT8 = Model.of(read_model(ROOT / "tests/data/digits_int8.tflite"))


def timed(model, ms=3.0, speed=1.0):
    return Times(ms, (ms / len(model.ops),) * len(model.ops), speed)


def test_multiplications_are_counted_as_by_hand():
    b = ModelBuilder()
    g = b.main
    y = g.conv(g.input("x", (1, 8, 8, 2)), np.ones((4, 3, 3, 2), np.float32), name="c")
    _, height, width, _ = g.shape_of(y)
    g.output(y)
    (only,) = Model.of(parse_model(b.build())).ops
    assert only.macs == height * width * 4 * 3 * 3 * 2


def test_a_float_model_stays_off_an_edge_tpu_and_is_told_to_be_quantised():
    found = check(FLOAT, "coral-dev-board", shipped())
    assert (found.delegate, found.good) == ("xnnpack", True)
    assert any("int8 with collab model compress" in remedy for remedy in found.remedies)


def test_an_int8_model_runs_on_it_as_one_partition():
    found = check(INT8, "coral-dev-board", shipped())
    assert (found.delegate, found.share, len(found.partitions)) == ("edgetpu", 1.0, 1)
    assert "published: coral.ai" in found.latency.basis


def test_a_microcontroller_takes_the_int8_model_and_not_the_float_one():
    assert check(INT8, "esp32-s3", shipped()).good
    found = check(FLOAT, "esp32-s3", shipped())
    assert (found.runs, found.memory.fits) == (True, False)
    assert "does not fit" in found.verdict
    assert any("smaller input" in remedy for remedy in found.remedies)


def test_what_a_microcontroller_does_not_know_cannot_run_there():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    g.output(g.op("SIGN", [x], name="s", shape=[1, 4]))
    found = check(Model.of(parse_model(b.build())), "esp32-s3", shipped())
    assert not found.runs
    assert found.verdict.startswith("cannot run: SIGN (not among its operators)")


def test_unsupported_hardware_cannot_run_and_has_no_time():
    found = check(FLOAT, "myriad-x", shipped(), timed(FLOAT))
    assert (found.good, found.latency) == (False, None)
    assert "2022.3" in found.verdict


def test_a_model_that_is_too_large_is_told_to_be_split():
    board = msgspec.structs.replace(shipped().device("raspberry-pi-4"), memory_bytes=121_000_000)
    small = Catalogue(delegates=shipped().delegates, devices={"small": board})
    found = check(FLOAT, "small", small)
    assert not found.memory.fits
    assert any("collab plan" in remedy for remedy in found.remedies)


def test_times_here_are_scaled_by_the_devices_speed():
    device = shipped().device("raspberry-pi-4").speed["cpu"]
    factor = REFERENCE_MACS / REFERENCE_MS / device.macs_per_ms
    found = check(FLOAT, "raspberry-pi-4", shipped(), timed(FLOAT, 3.0, 1.5)).latency
    assert found.ms == pytest.approx(3.0 * 1.5 * factor)
    assert found.basis.startswith("times here, scaled by MobileNetV2")
    assert not found.assumed
    assert check(FLOAT, "raspberry-pi-5", shipped(), timed(FLOAT)).latency.assumed


def test_int8_is_not_taken_to_be_faster_than_anybody_measured():
    found = check(INT8, "raspberry-pi-4", shipped(), timed(INT8, 0.1)).latency
    rate = shipped().device("raspberry-pi-4").speed["cpu"].macs_per_ms
    assert found.ms == pytest.approx(sum(op.macs for op in INT8.ops) / rate)


def profile(sha256, name="raspberry-pi-4"):
    device = DeviceProfile(name=name, memory_bytes=1, op_ms=(1.0, 2.0), op_bytes=(1, 1), stage_ms=0.5)
    return Profile(
        model_sha256=sha256, input_bytes=1, output_bytes=1, cuts=(CutProfile(at=1, bytes=1),),
        devices=(device,), links=(),
    )  # fmt: skip


def test_a_measured_profile_of_the_device_wins():
    found = check(FLOAT, "raspberry-pi-4", shipped(), timed(FLOAT), profile(FLOAT.graph.sha256))
    assert found.latency.ms == 3.5
    assert found.latency.basis == "measured on raspberry-pi-4"
    other = check(FLOAT, "iphone", shipped(), timed(FLOAT), profile(FLOAT.graph.sha256))
    assert "measured" not in other.latency.basis


def test_a_profile_of_another_model_is_refused():
    with pytest.raises(InputError, match="measure this one with collab profile"):
        check(FLOAT, "iphone", shipped(), None, profile("0" * 64))


def test_times_of_operators_here_sum_up_to_the_models():
    graph = read_model(ROOT / "benchmarks/assets/fashion_small.tflite")
    model = Model.of(graph)
    found = times(graph, model.weights, LiteRT())
    assert len(found.op_ms) == graph.op_count
    assert sum(found.op_ms) == pytest.approx(found.whole_ms)
    assert min(found.op_ms) > 0
    assert found.speed > 0
