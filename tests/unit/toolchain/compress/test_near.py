"""Int8 weights stay those of the release before where they are near enough to the new real ones."""

from __future__ import annotations

import numpy as np
import pytest

from collab.assets import path as asset
from collab.errors import InputError
from collab.graph import parse_model
from collab.runtime.litert import LiteRT
from collab.toolchain.compress.near import Former, _weights, nearer, same_weights
from tests.integration.models import DATA

PLAIN = asset("digits.tflite").read_bytes()
NOW = (DATA / "digits_int8.tflite").read_bytes()


def weights(model: bytes):
    return list(_weights(parse_model(model)))


def trained_from(spread: float) -> bytes:
    """What may have been before some training: each weight somewhere around what it is now."""
    rng, data = np.random.default_rng(4), bytearray(NOW)
    for each in weights(NOW):
        moved = np.rint(each.values + rng.normal(0, spread, each.values.shape)).clip(-127, 127)
        data[each.start : each.start + each.values.nbytes] = moved.astype(np.int8).tobytes()
    return bytes(data)


def test_a_weight_is_the_former_one_exactly_where_that_is_near_enough():
    before = trained_from(1.0)
    made = nearer(NOW, PLAIN, Former(before, 1.0))
    real = {each.name: each.values for each in _weights(parse_model(PLAIN), 0)}
    for old, now, new in zip(weights(before), weights(NOW), weights(made), strict=True):
        near = np.abs(real[now.name] / now.scale - old.values) <= 1.0
        assert near.any()
        assert not near.all()
        assert np.array_equal(new.values, np.where(near, old.values, now.values))
    assert same_weights(NOW, before) < 0.6 < same_weights(made, before)


def test_nothing_but_weights_changes_and_the_model_runs():
    made = nearer(NOW, PLAIN, Former(trained_from(0.6), 1.0))
    spans = [range(each.start, each.start + each.values.nbytes) for each in weights(NOW)]
    changed = np.flatnonzero(np.frombuffer(made, np.uint8) != np.frombuffer(NOW, np.uint8))
    assert len(made) == len(NOW)
    assert len(changed)
    assert all(any(at in span for span in spans) for at in changed[:: max(1, len(changed) // 200)])
    stage = LiteRT().load(made)
    assert np.isfinite(stage.run([np.zeros(i.shape, i.dtype) for i in stage.inputs])[0]).all()
    stage.close()


def test_half_a_step_is_what_rounding_gives_and_layers_of_another_shape_are_left():
    assert nearer(NOW, PLAIN, Former(trained_from(1.0), 0.5)) == NOW
    other = (DATA / "trainable_mlp.tflite").read_bytes()
    assert same_weights(NOW, NOW) == 1.0
    with pytest.raises(InputError, match="has no int8 weights"):
        Former(other)
    with pytest.raises(InputError, match="has no int8 weights"):
        Former(PLAIN)
