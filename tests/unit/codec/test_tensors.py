"""Arrays to bytes and back, and what is said of arrays that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from collab.codec.tensors import (
    CODECS,
    EXACT_CODECS,
    EncodedTensor,
    check_array,
    codec,
    decode,
    encode,
)
from collab.core.tensor import ITEMSIZE, MAX_RANK, TensorSpec
from collab.errors import PlanError, TensorError

arrays = st.sampled_from(sorted(ITEMSIZE)).flatmap(
    lambda dtype: hnp.arrays(
        np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=MAX_RANK, min_side=0, max_side=3)
    )
)


def spec_of(array: np.ndarray) -> TensorSpec:
    return TensorSpec("t", array.shape, array.dtype.name)


def test_every_dtype_has_the_size_that_numpy_gives_it():
    assert {name: np.dtype(name).itemsize for name in ITEMSIZE} == dict(ITEMSIZE)


@given(arrays)
def test_raw_gives_back_every_bit_of_every_dtype_and_rank(array):
    spec = spec_of(array)
    tensor = encode(spec, array)
    assert tensor.codec == ""
    assert len(tensor.data) == spec.nbytes == array.nbytes
    back = decode(tensor)
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert back.tobytes() == array.tobytes()


def test_raw_shares_the_memory_of_a_contiguous_array_both_ways():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = encode(spec_of(array), array)
    assert np.shares_memory(np.frombuffer(tensor.data, np.float32), array)
    assert np.shares_memory(decode(tensor), array)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10, dtype=np.uint8)[::-2],
        np.broadcast_to(np.float32(3), (2, 2)),
        np.arange(3, dtype=">f4"),
        np.arange(3, dtype=">c16"),
    ],
    ids=["transposed", "Fortran", "strided", "broadcast", "big-endian", "big-endian complex"],
)
def test_raw_is_little_endian_and_row_major_whatever_the_array(array):
    data = bytes(encode(spec_of(array), array).data)
    assert data == np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_raw_data_of_the_wrong_length_is_a_tensor_error(size):
    with pytest.raises(TensorError, match=f"tensor 't': {size} bytes where 4 were expected"):
        decode(EncodedTensor(TensorSpec("t", (1,), "float32"), "", memoryview(bytes(size))))


def test_an_unknown_codec_is_a_plan_error_that_lists_those_known():
    with pytest.raises(PlanError, match=r"codec 'zip' is not known here; use one of raw"):
        codec("zip")
    assert codec("") is codec("raw")
    assert CODECS.keys() >= EXACT_CODECS


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((2, 3), "float64"),
            r"tensor 'x': dtype float64, expected float32; convert it with \.astype",
        ),
        (np.zeros((2, 3), "int32"), r"tensor 'x': dtype int32, expected float32"),
        (np.zeros((2, 3), ">f4"), r"tensor 'x': foreign byte order; convert it with \.astype\('float32'\)"),
        (np.zeros(6, "float32"), r"tensor 'x': rank 1 \[6\], expected rank 2 \[2, 3\]"),
        (np.float32(1), r"tensor 'x': rank 0 \[\], expected rank 2 \[2, 3\]"),
        (np.zeros((3, 2), "float32"), r"tensor 'x': shape \[3, 2\], expected \[2, 3\]"),
        (np.zeros((2, 3), object), r"tensor 'x': dtype object cannot travel; expected float32"),
        (np.zeros((2, 3), "U3"), r"tensor 'x': dtype str96 cannot travel"),
        (np.zeros((2, 3), "datetime64[s]"), r"cannot travel; expected float32"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_with_what_differs(array, message):
    with pytest.raises(TensorError, match=message):
        check_array(TensorSpec("x", (2, 3), "float32"), np.asarray(array))


def test_an_array_that_fits_is_returned_as_it_is():
    array = np.zeros((2, 0, 3), "int8")
    assert check_array(TensorSpec("x", (2, 0, 3), "int8"), array) is array
