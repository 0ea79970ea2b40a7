"""One edge's encoder: what it reports, when it measures, and what it sends without loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collab.codec.edges import MEASURED_EVERY, Coded, EdgeEncoder, relative_error
from collab.codec.tensors import Array, decode, encode
from collab.core.tensor import TensorSpec
from collab.errors import PlanError

SPEC = TensorSpec("x", (40, 25), "float32")
X = np.random.default_rng(3).standard_normal(SPEC.shape).astype(np.float32)
COUNT = TensorSpec("n", (4,), "int64")
N = np.arange(4)


def test_raw_hands_over_memory_and_counts_it():
    encoder = EdgeEncoder("raw")
    assert not encoder.computes
    (tensor,), coded = encoder.encode([(SPEC, X)])
    assert np.shares_memory(decode(tensor), X)
    assert coded == Coded(SPEC.nbytes, SPEC.nbytes)


def test_one_codec_serves_an_edge_of_several_dtypes():
    encoder = EdgeEncoder("int8", 0.01)
    assert encoder.computes
    payload, coded = encoder.encode([(SPEC, X), (COUNT, N)])
    assert [tensor.codec for tensor in payload] == ["int8", ""]
    assert decode(payload[1]).tolist() == N.tolist()
    assert coded.raw_bytes == SPEC.nbytes + COUNT.nbytes
    assert coded.sent_bytes == 8 + X.size + COUNT.nbytes
    assert coded.fallbacks == 0, "integers are never for int8"


def test_the_error_of_the_first_and_of_every_64th_is_measured():
    encoder = EdgeEncoder("int8", 0.01)
    errors = [encoder.encode([(SPEC, X)])[1].error for _ in range(2 * MEASURED_EVERY + 1)]
    measured = [number for number, error in enumerate(errors) if error is not None]
    assert measured == [0, MEASURED_EVERY, 2 * MEASURED_EVERY]
    assert errors[0] is not None
    assert 0 < errors[0] <= 0.5 / 255 * 1.001


def test_exact_codecs_have_nothing_to_measure():
    assert EdgeEncoder("zstd").encode([(SPEC, np.zeros_like(X))])[1].error is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_cannot_be_kept_are_sent_without_loss_and_counted(value: float):
    array = X.copy()
    array[3, 4] = value
    encoder = EdgeEncoder("fp16+zstd", 0.01)
    for _ in range(3):
        (tensor,), coded = encoder.encode([(SPEC, array)])
        assert decode(tensor).tobytes() == array.tobytes()
        assert (coded.error, coded.fallbacks) == (None, 1)


def test_no_error_stated_is_none_allowed():
    (tensor,), coded = EdgeEncoder("int8").encode([(SPEC, X)])
    assert tensor.codec == ""
    assert coded.fallbacks == 1


def test_what_came_encoded_goes_on_as_it_came():
    came = encode(SPEC, X, "int8")
    (tensor,), coded = EdgeEncoder("fp16", 0.01).encode([(SPEC, came)])
    assert tensor is came
    assert coded == Coded(SPEC.nbytes, len(came.data))


def test_what_came_raw_is_encoded_on_its_way_through():
    payload, coded = EdgeEncoder("int8", 0.01).encode([(SPEC, encode(SPEC, X)), (COUNT, N)])
    assert [tensor.codec for tensor in payload] == ["int8", ""]
    assert coded.sent_bytes < coded.raw_bytes / 3
    came = encode(SPEC, X)
    assert EdgeEncoder("raw").encode([(SPEC, came)])[0] == (came,)


def test_sums_keep_the_largest_error_that_is_known():
    total = Coded(4, 2, None, 1) + Coded(8, 3, 0.5, 0) + Coded(0, 0, 0.25, 2)
    assert total == Coded(12, 5, 0.5, 3)
    assert (Coded() + Coded()).error is None


@pytest.mark.parametrize(
    ("array", "expected"),
    [(np.zeros((40, 25), np.float32), 0.0), (np.full((40, 25), 0.1, np.float32), math.inf)],
    ids=["exact", "constant but inexact"],
)
def test_an_error_is_relative_to_the_range(array: Array, expected: float):
    assert relative_error(array, encode(SPEC, array, "fp16")) == expected


def test_an_unknown_codec_makes_no_encoder():
    with pytest.raises(PlanError, match="'zip' is not known"):
        EdgeEncoder("zip")
