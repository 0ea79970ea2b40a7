"""Tensors in CBOR and raw, and whatever else may come in their place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.tensor import ITEMSIZE, TensorSpec
from collab.errors import TensorError
from collab.node.coap import bodies, cbor

DTYPES = sorted(ITEMSIZE)
SPECS = [TensorSpec("a", (2, 3), "float32"), TensorSpec("b", (4,), "int8")]


def arrays(specs):
    rng = np.random.default_rng(7)
    return {spec.name: rng.integers(0, 2, spec.shape).astype(spec.dtype) for spec in specs}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_survives_both_layouts(dtype):
    spec = TensorSpec("x", (2, 3), dtype)
    given_ = arrays([spec])
    for back in (
        bodies.from_cbor([spec], bodies.to_cbor([spec], given_)),
        bodies.from_raw([spec], bodies.to_raw(spec, given_["x"])),
    ):
        assert back["x"].dtype == given_["x"].dtype
        assert np.array_equal(back["x"], given_["x"])


def test_a_typed_array_is_what_rfc_8746_says():
    one = np.array([1.0], np.float32)
    body = bodies.to_cbor([TensorSpec("x", (1,), "float32")], {"x": one})
    assert body.hex() == "a1" + "6178" + "d855" + "44" + "0000803f"


def test_no_body_is_longer_than_was_allowed_for():
    assert len(bodies.to_cbor(SPECS, arrays(SPECS))) <= bodies.most_bytes(SPECS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "announced"),
        (b"\xa0", "'a' float32[2, 3] is missing"),
        (b"\xbf\xff", "indefinite"),
        (b"\xa1\x01\x40", "begins no text"),
        (b"\xa1\x61\xff\x40", "UTF-8"),
        (b"\xa1\x61a\x40", "0 bytes where"),
        (b"\xa1\x61c\x40", "'c': the model takes 'a', 'b'"),
        (b"\xa1\x61a\xd8\x40\x40", "tag 64"),
        (b"\xa2\x61a\x40\x61a\x40", "twice"),
        (b"\xa0\x00", "behind the map"),
        (b"\xbb" + b"\xff" * 8, "entries"),
        (b"\xa1\x61a\x5b" + b"\xff" * 8, "announced"),
        (b"\xa1\x61a\x81\x00", "neither a tag nor a byte string"),
    ],
)
def test_what_is_wrong_with_a_map_is_said(body, says):
    with pytest.raises(TensorError) as caught:
        bodies.from_cbor(SPECS, body)
    assert says in str(caught.value)


def test_a_raw_body_is_for_one_input_of_the_right_size():
    with pytest.raises(TensorError, match="takes 2 inputs"):
        bodies.from_raw(SPECS, b"")
    with pytest.raises(TensorError, match="3 bytes where"):
        bodies.from_raw(SPECS[1:], b"abc")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise_anything_else(data):
    try:
        found = cbor.decode_tensors(data)
    except TensorError:
        return
    assert sum(len(tagged.data) for tagged in found.values()) <= len(data)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda s: s.isprintable()),
        st.tuples(st.one_of(st.none(), st.integers(0, 2**64 - 1)), st.binary(max_size=300)),
        max_size=5,
    )
)
def test_what_is_written_is_read(found):
    tensors = {name: cbor.Tagged(*pair) for name, pair in found.items()}
    assert cbor.decode_tensors(cbor.encode(tensors)) == tensors


def test_descriptions_are_the_examples_of_rfc_8949():
    for value, written in (
        ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
        ([True, None, -500, 1.1, "ü", b"\x01"], "86f5f63901f3fb3ff199999999999a62c3bc4101"),
        (1000000000000, "1b000000e8d4a51000"),
    ):
        assert cbor.encode(value).hex() == written
