"""Small networks: a perceptron, a CNN, a CNN over time, a transformer encoder (Vaswani et al., 2017)."""

from __future__ import annotations

from typing import Any

from collab.errors import UsageError
from collab.toolchain.zoo.frame import classifier
from collab.toolchain.zoo.options import Cnn1dOptions, CnnOptions, MlpOptions, TransformerOptions


def mlp(keras: Any, shape: tuple[int, ...], classes: int, options: MlpOptions) -> Any:
    """A perceptron over whatever it is given."""
    layers = keras.layers
    given = x = layers.Input(shape, name="features")
    if len(shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(options.hidden, 1):
        x = layers.Dense(units, activation="relu", name=f"hidden{index}")(x)
        if options.dropout:
            x = layers.Dropout(options.dropout, name=f"dropout{index}")(x)
    return keras.Model(given, classifier(layers, x, classes, options.logits))


def cnn(keras: Any, shape: tuple[int, ...], classes: int, options: CnnOptions) -> Any:
    """Pairs of convolutions, each pooled, and a hidden layer."""
    layers = keras.layers
    if min(shape[:2]) < 2 ** len(options.filters):
        raise UsageError(
            f"cnn: {shape[0]}×{shape[1]} pixels cannot be halved {len(options.filters)} times; "
            "give fewer --option filters="
        )
    given = x = layers.Input(shape, name="image")
    for pair, filters in enumerate(options.filters, 1):
        for letter in "ab":
            name = f"conv{pair}{letter}"
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"pool{pair}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(options.hidden, activation="relu", name="hidden")(x)
    x = layers.Dropout(options.dropout, name="dropout")(x)
    return keras.Model(given, classifier(layers, x, classes, options.logits))


def cnn_1d(keras: Any, shape: tuple[int, ...], classes: int, options: Cnn1dOptions) -> Any:
    """Convolutions over time, pooled, and their means."""
    layers = keras.layers
    if shape[0] < 2 ** len(options.filters):
        raise UsageError(
            f"cnn_1d: {shape[0]} steps cannot be halved {len(options.filters)} times; "
            "give fewer --option filters="
        )
    given = x = layers.Input(shape, name="window")
    for index, filters in enumerate(options.filters, 1):
        x = layers.Conv1D(filters, options.kernel, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"conv{index}_norm")(x)
        x = layers.ReLU(name=f"conv{index}_relu")(x)
        x = layers.MaxPooling1D(2, name=f"pool{index}")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.Dropout(options.dropout, name="dropout")(x)
    return keras.Model(given, classifier(layers, x, classes, options.logits))


def transformer(keras: Any, shape: tuple[int, ...], classes: int, options: TransformerOptions) -> Any:
    """Pre-norm blocks over steps, and the mean of what they make of each."""
    layers, width = keras.layers, options.width
    if width % options.heads:
        raise UsageError(f"transformer: option heads: {options.heads} must divide width, {width}")
    given = layers.Input(shape, name="window")
    # A bias for each step and feature is a learned embedding of the positions.
    x = layers.EinsumDense(
        "bsf,fw->bsw",
        (shape[0], width),
        bias_axes="sw",
        bias_initializer=keras.initializers.RandomNormal(stddev=0.02),
        name="embedding",
    )(given)
    for block in range(1, options.depth + 1):
        inner = layers.LayerNormalization(epsilon=1e-6, name=f"block{block}_norm1")(x)
        inner = layers.MultiHeadAttention(
            options.heads, width // options.heads, dropout=options.dropout, name=f"block{block}_attention"
        )(inner, inner)
        x = layers.Add(name=f"block{block}_add1")([x, inner])
        inner = layers.LayerNormalization(epsilon=1e-6, name=f"block{block}_norm2")(x)
        inner = layers.Dense(2 * width, activation="relu", name=f"block{block}_wide")(inner)
        inner = layers.Dense(width, name=f"block{block}_narrow")(inner)
        inner = layers.Dropout(options.dropout, name=f"block{block}_dropout")(inner)
        x = layers.Add(name=f"block{block}_add2")([x, inner])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(given, classifier(layers, x, classes, options.logits))
