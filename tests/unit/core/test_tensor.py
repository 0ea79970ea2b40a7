"""What a tensor may be called, and which shapes and dtypes travel."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.tensor import ITEMSIZE, MAX_DIMENSION, MAX_NAME_BYTES, MAX_RANK, TensorSpec
from collab.errors import TensorError


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=100),
    st.lists(st.integers(0, MAX_DIMENSION), max_size=MAX_RANK),
    st.sampled_from(sorted(ITEMSIZE)),
)
def test_every_name_shape_and_dtype_within_the_rules_is_taken(name, shape, dtype):
    spec = TensorSpec(name, tuple(shape), dtype)
    assert spec.check() is spec
    assert spec.nbytes == math.prod(shape) * ITEMSIZE[dtype]


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("", (1,), "int8", "use 1 to 1024 bytes"),
        ("x" * (MAX_NAME_BYTES + 1), (1,), "int8", "use 1 to 1024 bytes"),
        ("é" * 513, (1,), "int8", "use 1 to 1024 bytes"),
        ("a\ud800", (1,), "int8", "not valid Unicode"),
        ("x", (1,), "string", "tensor 'x': dtype 'string' cannot travel; use one of bool, int8"),
        ("x", (1,), "bfloat16", "cannot travel"),
        ("x", (1,), "", "dtype '' cannot travel"),
        ("x", (1,) * 9, "int8", "tensor 'x': rank 9 is over 8"),
        ("x", (2, -1), "int8", r"tensor 'x': shape \[2, -1\] has a negative dimension"),
        ("x", (2**31,), "int8", "tensor 'x': a dimension is over 2147483647"),
    ],
)
def test_anything_else_is_refused_with_what_is_wrong(name, shape, dtype, message):
    with pytest.raises(TensorError, match=message):
        TensorSpec(name, shape, dtype).check()


def test_the_longest_name_is_taken():
    spec = TensorSpec("é" * 512, (), "int8")
    assert spec.check() is spec


def test_messages_stay_short_whatever_was_given():
    for spec in (TensorSpec("x" * 10**6, (1,), "int8"), TensorSpec("x", (1,), "y" * 10**6)):
        with pytest.raises(TensorError) as caught:
            spec.check()
        assert len(str(caught.value)) < 300


def test_a_scalar_has_one_element_and_a_zero_dimension_none():
    assert TensorSpec("x", (), "float64").nbytes == 8
    assert TensorSpec("x", (3, 0, 5), "float64").nbytes == 0
