"""Models as bytes: whole, or what changed; server and client have the same bits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import Conflict, LimitExceeded, ProtocolError, TensorError
from collab.federated.compression.models import decode_model, encode_model, fingerprint
from collab.federated.compression.settings import Compression
from collab.federated.update import Parameters


def model(seed=1, scale=0.1):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 4, 8), "dense": (20, 10), "scale": ()}
    return {name: np.asarray(rng.normal(0, scale, shape), np.float32) for name, shape in shapes.items()}


FORMS = [
    Compression(),
    Compression(pack=False),
    Compression(elements="fp16"),
    Compression(elements="int8", top=0.2),
]


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("base", [None, model(2)], ids=["whole", "change"])
def test_both_ends_have_the_same_bits(how, base):
    sent = encode_model(model(), how, base)
    got = decode_model(sent.data, base)
    assert fingerprint(got) == fingerprint(sent.model)
    if not how.lossy:
        assert fingerprint(got) == fingerprint(model())


def test_a_lossy_broadcast_comes_nearer_to_the_model_with_every_round():
    target, held = model(), model(2)
    apart = [max(abs(target[name] - held[name]).max() for name in target)]
    for _ in range(4):
        held = encode_model(target, Compression(elements="int8"), held).model
        apart.append(max(abs(target[name] - held[name]).max() for name in target))
    assert all(after < before / 50 or after < 1e-7 for before, after in pairwise(apart))


def test_tensors_that_did_not_change_take_no_bytes():
    before, after = model(), model()
    after["scale"] = after["scale"] + 1
    assert len(encode_model(after, Compression(pack=False), before).data) < 400
    assert len(encode_model(after, base=before).data) < 400 < len(encode_model(after).data)


def test_a_small_step_takes_less_than_the_whole_model_exactly():
    before = model()
    after = {name: array + np.float32(1e-6) * array for name, array in before.items()}
    assert len(encode_model(after, base=before).data) < 0.7 * len(encode_model(after).data)


def test_a_change_of_a_version_that_is_not_here_is_a_conflict():
    sent = encode_model(model(), Compression(elements="int8"), model(2))
    for other in (None, model(3)):
        with pytest.raises(Conflict, match="whole model"):
            decode_model(sent.data, other)
    with pytest.raises(TensorError, match="whole"):
        encode_model(model(), base={"other": np.ones(1, np.float32)})
    with pytest.raises(TensorError, match="random generator"):
        encode_model(model(), Compression(elements="int8", rounding="stochastic"))


@given(
    st.sampled_from(FORMS),
    st.booleans(),
    st.binary(max_size=100),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    st.integers(0),
)
def test_foreign_bytes_give_our_errors_alone(how, changed, garbage, changes, cut):
    base: Parameters = {"w": np.ones((3, 5), np.float32), "b": np.ones(2)}
    good = bytearray(encode_model({k: v * 2 for k, v in base.items()}, how, base if changed else None).data)
    for at, byte in changes:
        good[at % len(good)] = byte
    for data in (garbage, bytes(good), bytes(good[: cut % len(good)])):
        try:
            decode_model(data, base, 1 << 16)
        except (ProtocolError, TensorError, LimitExceeded, Conflict):
            continue
