"""Architectures have the parameters of their papers, start alike by seed, and become builtin operators."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collab.errors import ModelError
from collab.graph import parse_model
from collab.runtime.litert import LiteRT
from collab.toolchain.convert.litert import keras_to_litert
from collab.toolchain.zoo import ZOO, build, entry
from collab.toolchain.zoo.pretrained import load_pretrained
from collab.toolchain.zoo.shufflenet import shuffled
from tests.toolchain.reference import tensorflow

pytestmark = [
    pytest.mark.heavy("toolchain"),
    # Keras reads TensorFlow's variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

WRITTEN_HERE = [
    *("squeezenet_1_0", "squeezenet_1_1", "shufflenet_v2_0_5x", "efficientnet_lite0"),
    *("mlp", "cnn", "cnn_small", "cnn_1d", "transformer"),
]
"""Without the wider ShuffleNets, which `python -m benchmarks.zoo` counts too."""


@pytest.fixture(scope="module", autouse=True)
def tf():
    """TensorFlow, quiet."""
    return tensorflow()


def trained_numbers(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_parameters_are_those_that_are_published(name):
    known = entry(name)
    model = build(name, input_shape=known.shape, classes=known.classes)
    count = trained_numbers(model)
    assert count == known.parameters
    if known.published.endswith("M"):
        assert f"{count / 1e6:.1f}M" == known.published
    elif known.published:
        assert f"{count:,}" == known.published


def test_a_stock_network_sees_small_pictures_as_they_are_and_keeps_no_preprocessing(tf):
    model = build(
        "mobilenet_v3_small", input_shape=(28, 28, 1), classes=4, minimalistic="true", norm_momentum=0.5
    )
    kinds = {type(layer).__name__ for layer in model.layers}
    assert "ZeroPadding2D" in kinds
    assert not {"Rescaling", "Normalization"} & kinds
    momenta = {layer.momentum for layer in model.layers if type(layer).__name__ == "BatchNormalization"}
    assert momenta == {0.5}
    assert model.outputs[0].shape == (None, 4)


def test_a_shuffle_takes_the_channels_of_both_halves_in_turn_by_builtin_operators(tf):
    layers = tf.keras.layers
    given = layers.Input((2, 3, 6))
    model = tf.keras.Model(given, shuffled(layers, given, "unit"))
    data = keras_to_litert(model)
    x = np.arange(36, dtype=np.float32).reshape((1, 2, 3, 6))
    (answer,) = LiteRT().load(data).run([x])
    np.testing.assert_array_equal(answer, x[..., [0, 3, 1, 4, 2, 5]])
    assert "TRANSPOSE" in {operator.name for operator in parse_model(data).operators}


def test_attention_becomes_builtin_operators():
    model = build("transformer", input_shape=(12, 5), classes=3, seed=4, depth=1, width=8)
    x = np.random.default_rng(1).standard_normal((1, 12, 5), np.float32)
    (answer,) = LiteRT().load(keras_to_litert(model)).run([x])
    np.testing.assert_allclose(answer, model(x, training=False), atol=1e-5)


def test_a_seed_gives_the_same_weights_and_another_gives_others():
    one, same, other = (build("cnn_small", input_shape=(8, 8, 1), classes=3, seed=s) for s in (7, 7, 8))
    for left, right in zip(one.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(one.get_weights()[0], other.get_weights()[0])


def test_weights_of_a_file_are_taken_but_for_a_classifier_of_another_size(tmp_path):
    wide = build("cnn_small", input_shape=(8, 8, 1), classes=5, seed=1)
    for name, save in (("w.keras", wide.save), ("w.h5", wide.save), ("w.weights.h5", wide.save_weights)):
        save(tmp_path / name)
        model = build("cnn_small", input_shape=(8, 8, 1), classes=3, seed=2)
        assert not load_pretrained(model, tmp_path / name)
        np.testing.assert_array_equal(model.get_weights()[0], wide.get_weights()[0])
        assert load_pretrained(build("cnn_small", input_shape=(8, 8, 1), classes=5, seed=2), tmp_path / name)
    with pytest.raises(ModelError, match=r"has no weights for .* such as 'hidden1'"):
        load_pretrained(build("mlp", input_shape=(8, 8, 1), classes=3), tmp_path / "w.keras")


def test_every_name_of_the_table_has_options_with_defaults():
    for name, known in ZOO.items():
        assert known.options().logits is False, name
