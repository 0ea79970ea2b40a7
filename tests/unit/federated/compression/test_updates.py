"""Updates as bytes: exact or within the form's bound, nothing lost for good, foreign bytes refused."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from collab.errors import ConfigError, LimitExceeded, ProtocolError, TensorError
from collab.federated.compression.message import Entry, opened, sealed
from collab.federated.compression.settings import ABILITIES, Compression
from collab.federated.compression.updates import _UpdateHeader, decode_update, encode_update
from collab.federated.update import Update

OURS = (ProtocolError, TensorError, LimitExceeded)

forms = st.builds(
    Compression,
    elements=st.sampled_from(["raw", "fp16", "int8", "int8c"]),
    top=st.none() | st.floats(0.001, 1.0),
    pack=st.booleans(),
)
deltas = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.sampled_from(["f2", "f4", "f8"]).flatmap(
        lambda dtype: hnp.arrays(
            np.dtype(dtype),
            hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5),
            elements=st.floats(-100, 100, width=16),
        )
    ),
    min_size=1,
    max_size=4,
)


def drawn(seed=1, scale=0.01):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 4, 8), "dense": (200, 10), "bias": (10,), "scale": ()}
    return {name: np.asarray(rng.normal(0, scale, shape), np.float32) for name, shape in shapes.items()}


def update(delta, **fields):
    return Update(7, "pi-1", 120, delta, metrics={"loss": 0.5}, **fields)


def same(one, other):
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )


@given(deltas, st.booleans())
def test_what_is_not_lossy_comes_back_bit_by_bit(delta, pack):
    sent = update(delta, control=delta, staleness=2)
    encoded = encode_update(sent, Compression(pack=pack))
    back = decode_update(encoded.data)
    assert same(back.delta, delta)
    assert same(back.control, delta)
    assert encoded.feedback == {}
    plain = dataclasses.replace(sent, delta={}, control={})
    assert dataclasses.replace(back, delta={}, control={}) == plain


@given(deltas, forms)
def test_what_was_lost_is_the_feedback_and_is_small(delta, how):
    encoded = encode_update(update(delta), how)
    back = decode_update(encoded.data).delta
    assert back.keys() == delta.keys()
    for name, array in delta.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        lost = encoded.feedback.get(name, np.zeros_like(array))
        assert (array - back[name]).tobytes() == lost.tobytes()
        if how.top is None and array.size:
            assert abs(lost.astype(np.float64)).max() <= abs(array.astype(np.float64)).max() * (
                0.5 / 127 + 2.0**-10
            )


@pytest.mark.parametrize(
    "how", [Compression(elements="int8"), Compression(elements="int8c", top=0.05)], ids=str
)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_error_feedback_loses_nothing_over_many_rounds(how, rounding):
    if rounding == "stochastic":
        how = dataclasses_replace(how, rounding=rounding)
    random, feedback = np.random.default_rng(5), None
    wanted = {name: np.zeros(array.shape) for name, array in drawn().items()}
    got = {name: np.zeros(array.shape) for name, array in drawn().items()}
    for number in range(30):
        delta = drawn(number)
        encoded = encode_update(update(delta), how, feedback, random)
        feedback = encoded.feedback
        for name, array in decode_update(encoded.data).delta.items():
            got[name] += array
            wanted[name] += delta[name]
    for name in wanted:
        np.testing.assert_allclose(got[name] + feedback[name], wanted[name], atol=1e-6)


def dataclasses_replace(how, **changes):
    return Compression(**{name: getattr(how, name) for name in how.__struct_fields__} | changes)


def test_stochastic_rounding_is_right_in_the_mean_and_repeats_with_its_generator():
    how = Compression(elements="int8", rounding="stochastic")
    delta = {"w": np.float32([1.0, 0.3 / 127, -0.4 / 127, 0.0])}
    total = np.zeros(4)
    random = np.random.default_rng(3)
    for _ in range(2000):
        total += decode_update(encode_update(update(delta), how, None, random).data).delta["w"]
    np.testing.assert_allclose(total / 2000 * 127, [127, 0.3, -0.4, 0], atol=0.05)
    one, other = (encode_update(update(delta), how, None, np.random.default_rng(9)).data for _ in range(2))
    assert one == other
    with pytest.raises(TensorError, match="random generator"):
        encode_update(update(delta), how)


def test_top_takes_the_largest_of_all_tensors_together():
    delta = {"big": np.float32([5, -6, 7, 0.1]), "small": np.float32([0.2, 0.3, 0.4, -8])}
    back = decode_update(encode_update(update(delta), Compression(top=0.5)).data).delta
    assert back["big"].tolist() == [5, -6, 7, 0]
    assert back["small"].tolist() == [0, 0, 0, -8]


@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(0, 2**32), st.sampled_from(["raw", "int8"]))
def test_positions_come_back_whether_they_are_few_or_many(count, share, seed, elements):
    delta = {"w": np.random.default_rng(seed).normal(size=count).astype(np.float32)}
    back = decode_update(encode_update(update(delta), Compression(top=share, elements="raw")).data).delta["w"]
    assert np.count_nonzero(back) == max(1, round(share * count))
    assert (back[back != 0] == delta["w"][back != 0]).all()


@pytest.mark.parametrize(
    ("how", "most"),
    [
        (Compression(), 0.96),
        (Compression(elements="fp16"), 0.49),
        (Compression(elements="int8"), 0.25),
        (Compression(elements="int8c", rounding="stochastic"), 0.25),
        (Compression(elements="int8", top=0.1), 0.08),
        (Compression(elements="fp16", top=0.01), 0.035),
    ],
    ids=str,
)
def test_forms_take_no_more_of_a_normal_update_than_this(how, most):
    delta = {"w": np.random.default_rng(1).normal(0, 0.01, (300, 200)).astype(np.float32)}
    encoded = encode_update(update(delta), how, None, np.random.default_rng(1))
    assert len(encoded.data) < most * delta["w"].nbytes


@pytest.mark.parametrize(
    "how", [Compression(elements=e, top=t) for e in ("fp16", "int8", "int8c") for t in (None, 0.5)]
)
def test_what_is_not_finite_arrives_for_the_gate_to_see_and_does_not_stay_as_feedback(how):
    delta = {"w": np.float32([1, np.nan, np.inf, -2]), "b": np.float32([1e30, 1])}
    encoded = encode_update(update(delta), how)
    assert not np.isfinite(decode_update(encoded.data).delta["w"]).all()
    assert all(np.isfinite(array).all() for array in encoded.feedback.values())


@given(
    forms,
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    st.integers(0),
)
def test_foreign_bytes_give_our_errors_alone(how, garbage, changes, cut):
    good = bytearray(encode_update(update({"w": np.ones((3, 5), np.float32), "b": np.ones(2)}), how).data)
    for at, byte in changes:
        good[at % len(good)] = byte
    for data in (garbage, bytes(good), bytes(good[: cut % len(good)])):
        try:
            back = decode_update(data, 1 << 16)
        except OURS:
            continue
        assert sum(array.nbytes for array in back.delta.values()) <= 1 << 16


def crafted(entries, body=b"", packed=False, **fields):
    known = {"round": 1, "client": "c", "samples": 1, "staleness": 0, "metrics": {}, "control": 0}
    return sealed(_UpdateHeader(tensors=entries, packed=packed, **(known | fields)), [body])


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("w", (1 << 20, 1 << 10), "float32", "int8", 0, 1)],
        [Entry("w", (1 << 30, 1 << 30, 1 << 30), "float32", "raw")],
        [Entry("w", (1 << 28,), "float32", "same")],
        [Entry(f"w{number}", (1 << 20,), "float32", "int8", 0, 1) for number in range(100)],
    ],
)
def test_sizes_are_compared_before_memory_is_reserved(entries):
    data = crafted(entries)
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            decode_update(data, 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 18


@pytest.mark.parametrize(
    "data",
    [
        crafted([Entry("w", (2,), "float32", "same")]),
        crafted([Entry("w", (2,), "float32", "new")]),
        crafted([Entry("w", (2,), "int32", "raw")], bytes(8)),
        crafted([Entry("w", (2,), "float32", "raw")] * 2, bytes(16)),
        crafted([Entry("w", (-2,), "float32", "raw")]),
        crafted([Entry("w", (2,), "float32", "raw", 3, 1)], bytes(15)),
        crafted([Entry("w", (2,), "float32", "raw", 2, 1)], b"\1\1" + bytes(8)),
        crafted([Entry("w", (9,), "float32", "raw", 1, 0)], b"\0\0" + bytes(4)),
        crafted([Entry("w", (2,), "float32", "raw", 1, 3)], bytes(7)),
        crafted([Entry("w", (2,), "float32", "int8")], b"\0\0\xc0\x7f" + bytes(2)),
        crafted([Entry("w", (1,), "float32", "fp16")], b"\0\x7c"),
        crafted([Entry("w", (1,), "float32", "raw")], bytes(4), control=2),
        crafted([Entry("w", (1,), "float32", "raw")], bytes(4), control=1),
        crafted([Entry("w", (1,), "float32", "raw")], bytes(5), packed=True),
        crafted([], metrics={f"m{number}": 0.0 for number in range(65)}),
        crafted([], client="c" * 257),
    ],
)
def test_what_no_encoder_writes_is_refused(data):
    with pytest.raises(OURS):
        decode_update(data)


def test_fields_of_a_later_version_are_ignored():
    class Later(_UpdateHeader, tag="update"):
        extra: int = 5

    data = sealed(Later([], False, 1, "c", 1, 0, {}, 0), [])
    assert decode_update(data).client == "c"
    header, _ = opened(data, _UpdateHeader, 0)
    assert not header.packed


def test_feedback_of_another_model_is_refused():
    with pytest.raises(TensorError, match="feedback"):
        encode_update(
            update({"w": np.ones(2, np.float32)}), Compression(elements="int8"), {"w": np.ones(3, np.float32)}
        )


def test_a_form_that_a_peer_cannot_read_is_replaced_by_the_nearest():
    how = Compression(elements="int8c", top=0.1, rounding="stochastic")
    assert how.for_peer(ABILITIES) == how
    assert how.for_peer({"int8", "zstd"}) == Compression(elements="int8", rounding="stochastic")
    assert how.for_peer({"fp16", "top"}) == Compression(elements="fp16", top=0.1, pack=False)
    assert how.for_peer(()) == Compression(pack=False)


@pytest.mark.parametrize(
    ("how", "field"),
    [
        (Compression(top=0.0), "top"),
        (Compression(top=1.5), "top"),
        (Compression(rounding="stochastic"), "rounding"),
    ],
)
def test_settings_that_make_no_sense_are_named(how, field):
    with pytest.raises(ConfigError, match=rf"compression\.up\.{field}"):
        how.check()
