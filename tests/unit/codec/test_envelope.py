"""Tokens to envelopes and back, and what a peer may not send."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace as replaced

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from collab.codec.envelope import (
    MAX_BUDGET_US,
    MAX_GRANTED,
    MAX_ID,
    MAX_TEXT,
    MAX_TRACE_BYTES,
    EnvelopeLimits,
    decode_envelope,
    encode_envelope,
)
from collab.codec.pb import envelope_pb2 as pb
from collab.codec.tensors import EncodedTensor
from collab.codec.wire import MAX_HEADER_BYTES, frame, unframe
from collab.core.tensor import ITEMSIZE, MAX_RANK, TensorSpec
from collab.core.token import Fault, Hop, Key, Kind, Priority, Token
from collab.errors import LimitExceeded, ProtocolError

NOW_US = 5_000_000
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
names = st.text(st.characters(codec="utf-8"), max_size=63)


def joined(buffers) -> bytes:
    return b"".join(map(bytes, buffers))


@st.composite
def tensors(draw) -> EncodedTensor:
    """A tensor of any dtype and rank, dimensions of zero included."""
    dtype = draw(st.sampled_from(sorted(ITEMSIZE)))
    shape = tuple(draw(st.lists(st.integers(0, 2), max_size=MAX_RANK)))
    spec = TensorSpec(draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)), shape, dtype)
    codec = draw(st.sampled_from(["", "", "int8", "zstd"]))
    size = draw(st.integers(0, 30)) if codec else spec.nbytes
    return EncodedTensor(spec, codec, memoryview(draw(st.binary(min_size=size, max_size=size))))


hops = st.builds(
    Hop,
    stage=U32,
    node=names,
    queue_us=U64,
    decode_us=U64,
    compute_us=U64,
    encode_us=U64,
)
faults = st.builds(
    Fault,
    code=st.text("abc_", max_size=20),
    message=names,
    node=names,
    stage=names,
    granted=st.none() | st.integers(0, MAX_GRANTED),
)


@st.composite
def tokens(draw) -> Token:
    kind = draw(st.sampled_from(Kind))
    return Token(
        key=Key(draw(names), draw(U64), draw(st.binary(min_size=16, max_size=16)), draw(U32)),
        edge=draw(U32),
        kind=kind,
        requester=draw(names),
        route=tuple(draw(st.lists(names, max_size=4))),
        deadline_us=NOW_US + draw(st.integers(-MAX_BUDGET_US, MAX_BUDGET_US)),
        payload=tuple(draw(st.lists(tensors(), min_size=1, max_size=4))) if kind is Kind.VALUE else None,
        fault=draw(faults) if kind in (Kind.ERROR, Kind.FAILED) else None,
        reason=draw(names),
        hops=tuple(draw(st.lists(hops, max_size=3))),
        trace=draw(st.binary(max_size=60)),
        sequence=draw(U32),
        last=draw(st.booleans()),
        priority=draw(st.sampled_from(Priority)),
    )


def value(**changes) -> Token:
    """A valid token with one tensor."""
    array = np.arange(6, dtype=np.float32)
    tensor = EncodedTensor(TensorSpec("t", (2, 3), "float32"), "", memoryview(array.view(np.uint8)))
    token = Token(Key("p", 1, bytes(16), 0), 0, Kind.VALUE, "r", ("a", "b"), NOW_US + 1000, (tensor,))
    return replace(token, **changes)


class Opened:
    """An envelope taken apart, so that a test can change it and put it together again."""

    def __init__(self, token: Token) -> None:
        head, body = unframe(joined(encode_envelope(token, NOW_US)))
        self.header = pb.Header.FromString(bytes(head))
        self.context = pb.Context.FromString(self.header.context)
        self.table = pb.TensorTable.FromString(self.header.tensors)
        self.body = bytes(body)

    def change(self, **fields) -> None:
        """Set fields of the context or the header, whichever has them."""
        for field, content in fields.items():
            if field == "route":
                self.context.route[:] = content
            elif field in pb.Context.DESCRIPTOR.fields_by_name:
                setattr(self.context, field, content)
            else:
                setattr(self.header, field, content)

    def closed(self) -> bytes:
        self.header.context = self.context.SerializeToString()
        self.header.tensors = self.table.SerializeToString()
        return joined(frame(self.header.SerializeToString(), [self.body]))

    def decoded(self, limits: EnvelopeLimits = EnvelopeLimits()) -> Token:
        return decode_envelope(self.closed(), NOW_US, 0, limits)


# --- there and back ----------------------------------------------------------


@given(tokens())
def test_every_token_comes_back_as_it_was(token):
    buffers = encode_envelope(token, NOW_US)
    assert decode_envelope(joined(buffers), NOW_US) == token


@given(tokens())
def test_an_envelope_is_the_protobuf_message(token):
    data = joined(encode_envelope(token, NOW_US))
    message = pb.Envelope.FromString(data)
    assert message.SerializeToString() == data
    assert message.payload == b"".join(bytes(t.data) for t in token.payload or ())
    assert message.header.budget_us == token.deadline_us - NOW_US


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
@pytest.mark.parametrize("rank", range(MAX_RANK + 1))
def test_every_dtype_travels_at_every_rank(dtype, rank):
    spec = TensorSpec("t", (2,) * rank, dtype)
    data = memoryview(bytes(range(256)) * 16)[: spec.nbytes]
    token = value(payload=(EncodedTensor(spec, "", data),))
    assert decode_envelope(joined(encode_envelope(token, NOW_US)), NOW_US) == token


def test_tensors_without_elements_travel_between_others():
    def tensor(name, shape):
        spec = TensorSpec(name, shape, "int16")
        return EncodedTensor(spec, "", memoryview(name.encode() * spec.nbytes)[: spec.nbytes])

    payload = (
        tensor("a", (0,)),
        tensor("b", (3,)),
        tensor("c", (2, 0, 2**31)),
        tensor("d", (1,)),
        tensor("e", (0, 5)),
    )
    token = value(payload=payload)
    assert decode_envelope(joined(encode_envelope(token, NOW_US)), NOW_US) == token
    empty = value(payload=(tensor("only", (0,)),))
    assert decode_envelope(joined(encode_envelope(empty, NOW_US)), NOW_US) == empty


def test_payloads_are_not_copied_on_either_side():
    body = bytearray(24)
    spec = TensorSpec("t", (2, 3), "float32")
    buffers = encode_envelope(value(payload=(EncodedTensor(spec, "", memoryview(body)),)), NOW_US)
    body[0] = 7
    data = bytearray(joined(buffers))
    assert data[-24] == 7
    token = decode_envelope(data, NOW_US)
    data[-24] = 9
    assert token.payload[0].data[0] == 9


# --- budgets -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_us", "half_rtt_us", "then_us", "expected_us"),
    [
        (1000, 0, NOW_US, NOW_US + 1000),
        (1000, 300, NOW_US, NOW_US + 700),
        (1000, 300, 99, 799),
        (100, 300, 1000, 800),
        (-500, 0, 1000, 500),
        (0, 0, 1000, 1000),
        (MAX_BUDGET_US, 0, 0, MAX_BUDGET_US),
        (5 * MAX_BUDGET_US, 0, 0, MAX_BUDGET_US),
        (-5 * MAX_BUDGET_US, 0, 0, -MAX_BUDGET_US),
    ],
)
def test_the_budget_becomes_a_deadline_on_the_other_clock(left_us, half_rtt_us, then_us, expected_us):
    data = joined(encode_envelope(value(deadline_us=NOW_US + left_us), NOW_US))
    assert decode_envelope(data, then_us, half_rtt_us).deadline_us == expected_us


# --- limits ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"request": b""}, ProtocolError, "envelope.request: 0 bytes, not 16"),
        ({"request": bytes(17)}, ProtocolError, "envelope.request: 17 bytes, not 16"),
        ({"kind": 0}, ProtocolError, "envelope.kind: 0 is not known"),
        ({"kind": 6}, ProtocolError, "envelope.kind: 6 is not known"),
        ({"kind": -1}, ProtocolError, "envelope.kind: -1 is not known"),
        ({"kind": 2}, ProtocolError, "envelope.tensors: a value has some, and only a value"),
        ({"kind": 3}, ProtocolError, "envelope.tensors: a value has some, and only a value"),
        ({"kind": 4}, ProtocolError, "envelope.tensors: a value has some, and only a value"),
        ({"kind": 5}, ProtocolError, "envelope.tensors: a value has some, and only a value"),
        ({"route": ["n"] * 257}, LimitExceeded, "envelope.route: 257 nodes are over 256"),
        ({"route": ["a", "n" * (MAX_ID + 1)]}, LimitExceeded, f"envelope.route: a name is over {MAX_ID}"),
        ({"plan": "p" * (MAX_ID + 1)}, LimitExceeded, f"envelope.plan: {MAX_ID + 1} characters"),
        ({"requester": "p" * (MAX_ID + 1)}, LimitExceeded, "envelope.requester"),
        ({"reason": "p" * (MAX_TEXT + 1)}, LimitExceeded, f"envelope.reason: {MAX_TEXT + 1} characters"),
        ({"budget_us": MAX_BUDGET_US + 1}, LimitExceeded, "envelope.budget_us: .* is over a day"),
        ({"budget_us": -MAX_BUDGET_US - 1}, LimitExceeded, "envelope.budget_us"),
        ({"budget_us": -(2**63)}, LimitExceeded, "envelope.budget_us"),
        ({"trace": bytes(MAX_TRACE_BYTES + 1)}, LimitExceeded, "envelope.trace: 513 bytes are over 512"),
        ({"conversation": b"c"}, ProtocolError, "envelope.conversation: models that keep state"),
        ({"step": 1}, ProtocolError, "envelope.conversation: models that keep state"),
    ],
    ids=lambda case: "+".join(case) if isinstance(case, dict) else "",
)
def test_a_header_over_a_limit_is_refused_and_the_limit_named(fields, error, message):
    envelope = Opened(value())
    envelope.change(**fields)
    with pytest.raises(error, match=message):
        envelope.decoded()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"name": ""}, ProtocolError, "a name is empty or too long"),
        ({"name": "n" * 1025}, ProtocolError, "a name is empty or too long"),
        ({"codec": "c" * (MAX_ID + 1)}, ProtocolError, "the codec of 't' is no name of a codec"),
        ({"dtype": 0}, ProtocolError, "dtype 0 of 't' is not known"),
        ({"dtype": 99}, ProtocolError, "dtype 99 of 't' is not known"),
        ({"shape": [1] * 9}, LimitExceeded, "rank 9 of 't' is over 8"),
        ({"shape": [2, 4]}, ProtocolError, r"'t' float32\[2, 4\] takes 32 bytes, not 24"),
        ({"shape": []}, ProtocolError, r"'t' float32\[\] takes 4 bytes, not 24"),
        ({"dtype": 11}, ProtocolError, r"'t' uint64\[2, 3\] takes 48 bytes, not 24"),
        ({"bytes": 25, "codec": "zstd"}, ProtocolError, "'t' is cut off"),
        ({"bytes": 25}, ProtocolError, "takes 24 bytes, not 25"),
        ({"bytes": 23}, ProtocolError, "takes 24 bytes, not 23"),
        ({"bytes": 23, "codec": "int8"}, ProtocolError, "1 bytes belong to no tensor"),
        ({"bytes": 2**64 - 1}, LimitExceeded, "'t' of 18446744073709551615 bytes is over 268435456"),
        ({"bytes": 2**64 - 1, "codec": "zstd"}, LimitExceeded, "is over 268435456"),
        ({"shape": [2**32 - 1] * 8}, LimitExceeded, "is over 268435456"),
        ({"shape": [2**32 - 1] * 8, "codec": "zstd"}, LimitExceeded, "is over 268435456"),
    ],
    ids=lambda case: "+".join(case) if isinstance(case, dict) else "",
)
def test_a_tensor_that_cannot_be_is_refused_by_name(fields, error, message):
    envelope = Opened(value())
    for field, content in fields.items():
        if field == "shape":
            envelope.table.tensors[0].shape[:] = content
        else:
            setattr(envelope.table.tensors[0], field, content)
    with pytest.raises(error, match=message):
        envelope.decoded()


def test_every_limit_can_be_set():
    loose, tight = EnvelopeLimits(), EnvelopeLimits(tensor_bytes=23, tensors=0, route=1, hops=0)
    envelope = Opened(value(hops=(Hop(0, "a"),)))
    envelope.decoded(loose)
    for field, message in (
        ("tensor_bytes", "'t' of 24 bytes is over 23"),
        ("tensors", "envelope.tensors: 1 are over 0"),
        ("route", "envelope.route: 2 nodes are over 1"),
        ("hops", "envelope.hops: 1 are over 0"),
    ):
        with pytest.raises(LimitExceeded, match=message):
            envelope.decoded(replaced(loose, **{field: getattr(tight, field)}))


def test_the_limit_of_a_tensor_is_that_of_each_and_holds_for_what_it_becomes():
    limits = EnvelopeLimits(tensor_bytes=100)
    small = EncodedTensor(TensorSpec("t", (25,), "float32"), "", memoryview(bytes(100)))
    packed = EncodedTensor(TensorSpec("t", (26,), "float32"), "zstd", memoryview(bytes(3)))
    fits = joined(encode_envelope(value(payload=(small, small)), NOW_US))
    decode_envelope(fits, NOW_US, 0, limits)
    bomb = joined(encode_envelope(value(payload=(small, packed)), NOW_US))
    with pytest.raises(LimitExceeded, match="'t' of 104 bytes is over 100"):
        decode_envelope(bomb, NOW_US, 0, limits)


def test_hop_names_are_bounded_too():
    envelope = Opened(value(hops=(Hop(0, "a" * MAX_ID),)))
    envelope.decoded()
    envelope.header.hops[0].node += "a"
    with pytest.raises(LimitExceeded, match=f"envelope.hops: a name is over {MAX_ID}"):
        envelope.decoded()


def test_a_value_without_tensors_and_bytes_without_a_tensor_are_refused():
    envelope = Opened(value())
    del envelope.table.tensors[:]
    with pytest.raises(ProtocolError, match="bytes without a tensor"):
        envelope.decoded()
    envelope.body = b""
    with pytest.raises(ProtocolError, match="a value has some, and only a value"):
        envelope.decoded()


@pytest.mark.parametrize(("field", "name"), [("context", "context"), ("tensors", "tensors")])
def test_a_context_or_a_table_that_cannot_be_read_is_refused_by_name(field, name):
    for junk in (b"\xff", b"\x0a\x7f", b"\x0a\x02\xff\xff", b"\x0a\x02\xff\xff" * 2000):
        envelope = Opened(value())
        setattr(envelope.header, field, junk)
        data = joined(frame(envelope.header.SerializeToString(), [envelope.body]))
        with pytest.raises(ProtocolError, match=rf"envelope\.{name}"):
            decode_envelope(data, NOW_US)


def test_what_is_kept_of_one_envelope_is_not_taken_for_another():
    """Contexts and tables are decoded once; equal bytes under other limits are checked again."""
    first, second = value(), value(requester="q", route=("b", "a"))
    for token in (first, second, first, second):
        assert decode_envelope(joined(encode_envelope(token, NOW_US)), NOW_US) == token
    for limits in (EnvelopeLimits(route=1), EnvelopeLimits(tensor_bytes=1)):
        with pytest.raises(LimitExceeded):
            decode_envelope(joined(encode_envelope(first, NOW_US)), NOW_US, 0, limits)


def test_a_context_and_a_table_too_long_to_be_kept_travel_as_well():
    specs = [TensorSpec(f"{i}" * 300, (1,), "int8") for i in range(100, 130)]
    payload = tuple(EncodedTensor(spec, "", memoryview(b"x")) for spec in specs)
    token = value(route=("n" * MAX_ID,) * 256, payload=payload)
    for _ in range(2):
        assert decode_envelope(joined(encode_envelope(token, NOW_US)), NOW_US) == token


def test_a_fault_on_anything_but_an_error_is_refused():
    envelope = Opened(value())
    envelope.header.fault.code = "internal"
    with pytest.raises(ProtocolError, match=r"envelope\.fault"):
        envelope.decoded()


def test_a_faults_texts_are_cut_and_cleaned():
    fault = Fault("input", "cannot read \udcff" + "x" * 9999, "a", "s")
    sent = Token(Key("p", 1, bytes(16), 0), 0, Kind.ERROR, "r", (), NOW_US, fault=fault)
    envelope = Opened(sent)
    sent_on = envelope.header.fault
    assert sent_on.message == ("cannot read ?" + "x" * 9999)[:MAX_TEXT]
    sent_on.code = sent_on.node = sent_on.stage = "y" * 9999
    sent_on.message = "z" * 9999
    got = envelope.decoded().fault
    assert len(got.message) == MAX_TEXT
    assert {len(got.code), len(got.node), len(got.stage)} == {MAX_ID}


@pytest.mark.parametrize("number", [0, 4, 1000])
def test_a_priority_that_is_not_known_is_normal(number):
    envelope = Opened(value(priority=Priority.HIGH))
    envelope.change(priority=number)
    assert envelope.decoded().priority is Priority.NORMAL


def test_credits_of_a_fault_are_bounded():
    fault = Fault("overloaded", "full", "a", "s", 1 << 31)
    sent = Token(Key("p", 1, bytes(16), 0), 0, Kind.FAILED, "r", (), NOW_US, fault=fault)
    assert decode_envelope(joined(encode_envelope(sent, NOW_US)), NOW_US).fault.granted == MAX_GRANTED


@pytest.mark.parametrize("kind", [Kind.ERROR, Kind.FAILED])
def test_an_error_without_a_fault_is_refused(kind):
    envelope = Opened(value(kind=kind, payload=None))
    with pytest.raises(ProtocolError, match=r"envelope\.fault: an error or a failure has one"):
        envelope.decoded()


def test_what_was_accepted_can_be_sent_on_with_one_more_hop():
    """A relay must not make an envelope that the next node refuses."""
    big = 2**64 - 1
    full = value(
        reason="r" * MAX_TEXT,
        route=("n" * MAX_ID,) * 256,
        hops=(Hop(2**32 - 1, "n" * MAX_ID, big, big, big, big, big, big, 0.5, 2**32 - 1),) * 255,
        trace=bytes(MAX_TRACE_BYTES),
    )
    token = decode_envelope(joined(encode_envelope(full, NOW_US)), NOW_US)
    more = replace(token, hops=(*token.hops, token.hops[0]))
    assert decode_envelope(joined(encode_envelope(more, NOW_US)), NOW_US) == more


def test_a_header_that_no_peer_would_take_is_not_sent():
    tensor = EncodedTensor(TensorSpec("n" * 1024, (1,), "int8"), "", memoryview(b"x"))
    with pytest.raises(LimitExceeded, match=f"is over {MAX_HEADER_BYTES}"):
        encode_envelope(value(payload=(tensor,) * 300), NOW_US)


def test_unknown_fields_are_ignored():
    newer = b"\x9a\x06\x05hello" + b"\xf8\x3f\x01"
    envelope = Opened(value())
    header = envelope.header
    header.context += newer
    header.tensors += newer
    data = joined(frame(header.SerializeToString() + newer, [envelope.body]))
    assert decode_envelope(data, NOW_US) == value()


# --- any bytes at all --------------------------------------------------------

VALID = [
    joined(encode_envelope(token, NOW_US))
    for token in (
        value(hops=(Hop(0, "a", 1, 2, 3, 4, 5, 6, 0.5, 7),), reason="why", trace=b"trace"),
        Token(
            Key("p", 1, bytes(16), 0), 3, Kind.ERROR, "r", ("a",), NOW_US, fault=Fault("input", "m", "a", "s")
        ),
        Token(Key("p", 1, bytes(16), 0), 3, Kind.CANCEL, "r", ("a",), NOW_US),
    )
]


@st.composite
def mutated(draw) -> bytes:
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from("sxdit"))
        if what == "s":
            data[at] = draw(st.integers(0, 255))
        elif what == "x":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "d":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "i":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def try_to_decode(data: bytes) -> None:
    try:
        token = decode_envelope(data, NOW_US)
    except (ProtocolError, LimitExceeded):
        return
    for tensor in token.payload or ():
        assert len(tensor.data) <= len(data)
        assert tensor.codec or len(tensor.data) == tensor.spec.nbytes


@settings(max_examples=500)
@given(st.one_of(mutated(), st.binary(max_size=200), st.binary(max_size=200).map(lambda b: joined(frame(b)))))
def test_any_bytes_raise_protocol_errors_and_limits_only(data):
    try_to_decode(data)


def absurd() -> list[bytes]:
    """Envelopes that announce far more than they bring."""
    large, packed, many = (Opened(value()) for _ in range(3))
    for envelope in (large, many):
        envelope.table.tensors[0].shape[:] = [1 << 26]
        envelope.table.tensors[0].bytes = 1 << 28
    many.table.tensors.extend([large.table.tensors[0]] * 1000)
    packed.table.tensors[0].shape[:] = [1 << 26]
    packed.table.tensors[0].codec = "zstd"
    return [envelope.closed() for envelope in (large, packed, many)]


def test_no_memory_is_reserved_for_what_is_only_announced():
    inputs = [*absurd(), *VALID, b"\x0a\xff\xff\xff\xff\x0f", bytes(1000)]
    for data in inputs:
        try_to_decode(data)  # what is made once, in imports and caches
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try_to_decode(data)
            assert tracemalloc.get_traced_memory()[1] - before < 50_000 + 60 * len(data)
    finally:
        tracemalloc.stop()
