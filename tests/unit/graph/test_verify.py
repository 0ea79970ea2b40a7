from __future__ import annotations

import numpy as np
import pytest

from collab.errors import TensorError
from collab.graph import parse_model, verify
from tests.tflite_builder import ModelBuilder, load


def three() -> bytes:
    b = ModelBuilder()
    x = b.main.unary("TANH", b.main.input("x", (1, 4)), name="a")
    b.main.output(b.main.unary("NEG", b.main.unary("SQRT", x, name="b"), name="c"))
    return b.build()


def test_equal_bits_pass_nan_included():
    graph = parse_model(three())
    done: list[int] = []
    report = verify(graph, [[1], [2], [1, 2]], load, progress=done.append)
    assert np.isnan(load(bytes(graph.data))([np.full((1, 4), -1, np.float32)])[0]).all()
    assert (report.tried, report.exact, report.inexact, report.refused) == (3, 3, 0, ())
    assert (report.max_abs_diff, report.vacuous, report.passed) == (0.0, False, True)
    assert done == [1, 2, 3]


def test_a_stage_that_computes_otherwise_is_found_and_measured():
    graph = parse_model(three())

    def careless(data):
        run = load(data)
        whole = data == bytes(graph.data)
        return run if whole else lambda arrays: [a + np.float32(0.25) for a in run(arrays)]

    given = np.full((1, 4), 0.5, np.float32)
    report = verify(graph, [[2]], careless, inputs=[[given], [given * 2]])
    assert (report.tried, report.exact, report.inexact, report.passed) == (1, 0, 1, False)
    assert 0.0 < report.max_abs_diff < 0.5
    assert report.differing[0]["at"] == [2]
    assert "output 'c' differs by" in report.differing[0]["reason"]


def test_the_last_bit_counts():
    graph = parse_model(three())

    def off_by_a_bit(data):
        run = load(data)
        last = parse_model(data).op_count == 2
        return (lambda arrays: [np.nextafter(a, np.float32(9)) for a in run(arrays)]) if last else run

    given = np.full((1, 4), 0.5, np.float32)
    assert verify(graph, [[1]], off_by_a_bit, inputs=[[given], [given * 2]]).inexact == 1


def test_a_stage_that_does_not_load_is_inexact_and_says_why():
    graph = parse_model(three())

    def picky(data):
        if data != bytes(graph.data):
            raise RuntimeError("no such kernel")
        return load(data)

    report = verify(graph, [[1]], picky)
    assert (report.inexact, report.passed) == (1, False)
    assert report.differing == ({"at": [1], "reason": "RuntimeError: no such kernel"},)


def test_a_tensor_of_another_shape_than_the_file_s_is_inexact_and_named():
    graph = parse_model(three())

    def growing(data):
        run = load(data)
        whole = data == bytes(graph.data)
        return run if whole else lambda arrays: [np.concatenate([a, a]) for a in run(arrays)]

    (found,) = verify(graph, [[1]], growing).differing
    assert "tensor 'a' is float32[2, 4] but the file says float32[1, 4]" in found["reason"]


def test_refused_splits_are_counted_apart_with_their_reason():
    report = verify(parse_model(three()), [[1], [7]], load)
    assert (report.tried, report.exact, report.inexact) == (2, 1, 0)
    assert report.refused[0]["at"] == [7]
    assert "out of range" in report.refused[0]["reason"]
    assert report.passed


def test_a_model_that_answers_all_inputs_alike_proves_nothing():
    b = ModelBuilder()
    x = b.main.unary("TANH", b.main.input("x", (1, 4)))
    b.main.output(b.main.mul(x, b.main.const("zero", np.zeros((1, 4)))))
    graph = parse_model(b.build())
    given = np.ones((1, 4), np.float32)
    report = verify(graph, [[1]], load, inputs=[[given], [given * 2]])
    assert (report.exact, report.vacuous, report.passed) == (1, True, False)


def test_one_real_input_is_joined_by_a_random_one_so_that_the_check_means_something():
    graph = parse_model(three())
    assert verify(graph, [[1]], load, inputs=[[np.full((1, 4), 0.5, np.float32)]]).passed
    assert not verify(graph, [[1]], load, samples=1).passed


def test_nothing_tried_is_not_passed():
    assert not verify(parse_model(three()), [], load).passed
    assert not verify(parse_model(three()), [[9]], load).passed


def test_a_wrong_number_of_inputs_is_named():
    with pytest.raises(TensorError, match="0 arrays for 1 inputs"):
        verify(parse_model(three()), [[1]], load, inputs=[[]])


@pytest.mark.parametrize(
    ("theirs", "difference"),
    [
        (np.int64(2**62), 2.0**62),
        (np.bool_(True), 1.0),
        (np.float64("nan"), float("inf")),
        (np.complex64(3j), 3.0),
    ],
)
def test_differences_of_every_kind_of_number_are_measured(theirs, difference):
    graph = parse_model(three())
    wrong = np.full((1, 4), theirs)

    def load_of(data):
        value = np.zeros_like(wrong) if data == bytes(graph.data) else wrong
        return lambda arrays: [value]

    assert verify(graph, [[]], load_of).max_abs_diff == difference
