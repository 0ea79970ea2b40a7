"""Deltas: what they save, and what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("bsdiff4")

from collab.errors import IntegrityError, LimitExceeded
from collab.updates.fetch import deltas
from collab.updates.fetch.deltas import apply_delta, make_delta
from collab.updates.release import Delta

RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(size=60_000).astype(np.float32)


def entropy_bytes(numbers):
    _, counts = np.unique(numbers, return_counts=True)
    shares = counts / counts.sum()
    return -(shares * np.log2(shares)).sum() * numbers.size / 8


def sha(data):
    return hashlib.sha256(data).hexdigest()


def made(base, target):
    found = make_delta(base, target)
    assert found is not None
    return found


def applied(base, target):
    delta, data = made(base, target)
    assert apply_delta(delta, base, data, len(target), sha(target)) == target
    return delta


def test_a_changed_head_costs_little():
    target = WEIGHTS.copy()
    target[-1000:] = RNG.normal(size=1000)
    delta = applied(WEIGHTS.tobytes(), target.tobytes())
    assert delta.size <= 0.03 * target.nbytes


def test_a_large_float_model_that_was_trained_on_takes_planes(monkeypatch):
    monkeypatch.setattr(deltas, "MAX_SLOW_BYTES", 1000)
    target = WEIGHTS * (1 + RNG.normal(size=WEIGHTS.size).astype(np.float32) * 1e-4)
    delta = applied(WEIGHTS.tobytes(), target.astype(np.float32).tobytes())
    assert delta.kind == "planes"
    assert delta.size <= 0.65 * target.nbytes


def test_an_int8_model_that_was_trained_on_costs_little():
    base = RNG.integers(-90, 90, 60_000).astype(np.int8)
    steps = RNG.choice([-1, 0, 1], size=base.size, p=[0.12, 0.76, 0.12]).astype(np.int8)
    delta = applied(base.tobytes(), (base + steps).tobytes())
    assert delta.kind == "planes"
    assert delta.size <= 1.25 * entropy_bytes(steps)


def test_planes_find_the_weights_behind_a_longer_begin():
    target = (WEIGHTS * np.float32(1.00001)).astype(np.float32).tobytes()
    moved = b"a longer begin" + target
    assert applied(b"a begin" + WEIGHTS.tobytes(), moved).size < 0.65 * len(moved)


def test_no_delta_is_kept_that_does_not_pay():
    assert make_delta(RNG.bytes(10_000), RNG.bytes(10_000)) is None
    assert make_delta(b"", b"x") is None


@settings(max_examples=25)
@given(st.binary(max_size=400), st.binary(min_size=1, max_size=400), st.integers(0, 400))
def test_every_kind_gives_back_what_it_was_made_of(base, changed, at):
    base = base + b"the base"
    target = base[:at] + changed + base[at:]
    for kind in deltas._KINDS:
        data = deltas._make(kind, base, target)
        assert deltas._apply(kind, base, data, len(target)) == target


def test_a_wrong_base_a_wrong_delta_and_a_wrong_result_are_refused():
    base, target = bytes(5000), bytes(4999) + b"x"
    delta, data = made(base, target)
    with pytest.raises(IntegrityError, match="for another base"):
        apply_delta(delta, base + b"x", data, len(target), sha(target))
    with pytest.raises(IntegrityError, match="not the delta that was signed"):
        apply_delta(delta, base, data + b"x", len(target), sha(target))
    with pytest.raises(IntegrityError, match="another file than is signed"):
        apply_delta(delta, base, data, len(target), sha(base))
    with pytest.raises(LimitExceeded):
        apply_delta(delta, base, data, deltas.MAX_BYTES + 1, sha(target))


@pytest.mark.parametrize("kind", deltas._KINDS)
def test_a_signed_delta_that_is_broken_or_says_another_size_is_one_line(kind):
    base, target = RNG.bytes(3000), RNG.bytes(3000)
    data = deltas._make(kind, base, target)
    for broken, size in ((data[: len(data) // 2], 3000), (data, 2000), (b"\0" * 40, 3000)):
        delta = Delta(base_sha256=sha(base), kind=kind, size=len(broken), sha256=sha(broken))
        with pytest.raises(IntegrityError):
            apply_delta(delta, base, broken, size, sha(target))
