"""What every back end promises (`collab.runtime.base`); a new one joins by a line in `SUBJECTS`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import ModelError, TensorError
from collab.runtime.base import Backend
from collab.runtime.function import Functions
from collab.runtime.litert import LiteRT
from collab.runtime.sample import zero_inputs
from tests.tflite_builder import ModelBuilder

X, N = TensorSpec("x", (2, 3), "float32"), TensorSpec("n", (4,), "int32")
TWICE, SMALL = TensorSpec("twice", (4,), "int32"), TensorSpec("small", (2, 3), "float32")


@dataclass(frozen=True)
class Subject:
    """A back end and a model in it that doubles ``n`` and takes the tangent of ``x``.

    It reads ``x`` before ``n`` and makes ``twice`` before ``small``, so the orders differ.
    """

    backend: Backend
    model: bytes
    long: bytes = b""
    """A model of one float32 input that computes for a while, if computing needs no GIL."""


def litert() -> Subject:
    b = ModelBuilder()
    g = b.main
    x, n = g.input("x", X.shape), g.input("n", N.shape, "int32")
    small = g.unary("TANH", x, name="small")
    twice = g.add(n, n, name="twice", dtype="int32")
    g.output(twice, small)
    return Subject(LiteRT(), b.build(), long_model())


def long_model() -> bytes:
    b = ModelBuilder()
    g = b.main
    y = g.input("x", (256, 1024))
    kernel = g.const("w", np.eye(1024, dtype=np.float32))
    for i in range(12):
        y = g.op(
            "FULLY_CONNECTED",
            [y, kernel, -1],
            name=f"y{i}",
            shape=[256, 1024],
            options="FullyConnectedOptions",
        )
    g.output(y)
    return b.build()


def function() -> Subject:
    stage = (lambda arrays: [arrays[1] * 2, np.tanh(arrays[0])], (X, N), (TWICE, SMALL))
    return Subject(Functions({b"twice and small": stage}), b"twice and small")


SUBJECTS: dict[str, Callable[[], Subject]] = {"litert": litert, "function": function}


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request) -> Subject:
    return SUBJECTS[request.param]()


@pytest.fixture
def stage(subject):
    loaded = subject.backend.load(subject.model, 1)
    yield loaded
    loaded.close()


def inputs(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=X.shape).astype(np.float32),
        rng.integers(-99, 99, size=N.shape).astype(np.int32),
    ]


def right(given, made) -> bool:
    return (made[0] == given[1] * 2).all() and np.allclose(made[1], np.tanh(given[0]), atol=1e-6)


def test_inputs_and_outputs_stand_in_the_models_own_order(stage):
    assert stage.inputs == (X, N)
    assert stage.outputs == (TWICE, SMALL)


def test_a_run_takes_and_gives_tensors_in_that_order(stage):
    given = inputs(1)
    made = stage.run(given)
    assert [(array.shape, array.dtype.name) for array in made] == [
        (spec.shape, spec.dtype) for spec in stage.outputs
    ]
    assert right(given, made)


def test_zeros_are_inputs_of_any_stage(stage):
    assert right(zero_inputs(stage), stage.run(zero_inputs(stage)))


def test_results_are_the_callers_and_a_later_run_leaves_them_alone(stage):
    first, second = inputs(1), inputs(2)
    kept = stage.run(first)
    copies = [array.copy() for array in kept]
    stage.run(second)
    assert all((a == b).all() for a, b in zip(kept, copies, strict=True))
    for array in kept:
        array[...] = 0
    assert right(first, stage.run(first))


def test_inputs_are_left_alone_and_may_be_read_only_or_strided(stage):
    given = [np.asfortranarray(inputs(3)[0]), np.repeat(inputs(3)[1], 2)[::2]]
    copies = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    assert right(copies, stage.run(given))
    assert all((a == b).all() for a, b in zip(given, copies, strict=True))


WRONG = {
    "too few": (lambda x, n: [x], "takes 2 tensors, got 1"),
    "too many": (lambda x, n: [x, n, n], "takes 2 tensors, got 3"),
    "none": (lambda x, n: [], "takes 2 tensors, got 0"),
    "swapped": (lambda x, n: [n, x], "tensor 'x': dtype int32, expected float32"),
    "another dtype": (lambda x, n: [x.astype("float64"), n], "tensor 'x': dtype float64, expected float32"),
    "another byte order": (lambda x, n: [x.astype(">f4"), n], "tensor 'x': foreign byte order"),
    "another shape": (lambda x, n: [x.T, n], r"tensor 'x': shape \[3, 2\], expected \[2, 3\]"),
    "another rank": (lambda x, n: [x, n[None]], r"tensor 'n': rank 2 \[1, 4\], expected rank 1 \[4\]"),
    "objects": (lambda x, n: [x, n.astype(object)], "tensor 'n': dtype object cannot travel"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs_are_tensor_errors_and_the_stage_goes_on(stage, change, message):
    given = inputs(4)
    with pytest.raises(TensorError, match=message):
        stage.run(change(*given))
    assert right(given, stage.run(given))


@pytest.mark.parametrize("model", [b"", b"x", b"no model" * 100, bytes(4096)])
def test_what_is_no_model_is_a_model_error(subject, model, tmp_path):
    with pytest.raises(ModelError):
        subject.backend.load(model, 1)
    path = tmp_path / "model"
    path.write_bytes(model)
    with pytest.raises(ModelError):
        subject.backend.load(path, 1)


def test_a_file_loads_like_its_bytes(subject, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(subject.model)
    loaded = subject.backend.load(path, 1)
    given = inputs(5)
    assert right(given, loaded.run(given))
    loaded.close()


def test_a_file_that_is_not_there_is_a_model_error(subject, tmp_path):
    with pytest.raises(ModelError, match="missing"):
        subject.backend.load(tmp_path / "missing.tflite", 1)


def test_closing_twice_is_closing_once(subject):
    loaded = subject.backend.load(subject.model, 1)
    loaded.run(inputs(6))
    loaded.close()
    loaded.close()


def test_closing_one_stage_leaves_another_of_the_same_model(subject):
    one, other = (subject.backend.load(subject.model, 1) for _ in range(2))
    one.close()
    given = inputs(7)
    assert right(given, other.run(given))
    other.close()


def test_any_one_thread_at_a_time_may_use_a_stage(stage):
    for seed in range(4):
        with ThreadPoolExecutor(1) as another:
            given = inputs(seed)
            assert right(given, another.submit(stage.run, given).result(timeout=20))
    assert right(inputs(9), stage.run(inputs(9)))


def test_stages_in_several_threads_do_not_disturb_each_other(subject):
    stages = [subject.backend.load(subject.model, 1) for _ in range(4)]

    def work(number):
        return all(
            right(given, stages[number].run(given)) for given in (inputs(100 * number + i) for i in range(50))
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))
    for loaded in stages:
        loaded.close()


def test_equal_inputs_give_equal_bits(subject, stage):
    again = subject.backend.load(subject.model, 1)
    for seed in range(5):
        made = [loaded.run(inputs(seed)) for loaded in (stage, again)]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*made, strict=True))
    again.close()


def test_the_runtime_class_is_the_same_each_time_and_names_the_back_end(subject):
    one, other = subject.backend.runtime_class(), subject.backend.runtime_class()
    assert one == other
    assert one.backend == subject.backend.name
    assert "\n" not in str(one)
    assert one.machine in str(one)


def test_python_runs_while_a_stage_computes(subject):
    """With a boundless switch interval another thread runs only when this one lets go of the GIL."""
    if not subject.long:
        pytest.skip("this back end computes in Python")
    loaded = subject.backend.load(subject.long, 1)
    given = zero_inputs(loaded)
    computing = False
    seen = 0

    def compute():
        nonlocal computing
        for _ in range(50):
            computing = True
            loaded.run(given)
            computing = False
            if seen >= 20:
                return

    worker = threading.Thread(target=compute, name="collab-test")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        worker.start()
        while worker.is_alive() and seen < 20:
            time.sleep(0.001)  # to let go of the GIL; what counts is who holds it afterwards
            seen += computing
    finally:
        sys.setswitchinterval(before)
        worker.join()
        loaded.close()
    assert seen == 20
