"""TensorFlow's gradients of the cases, which the normal suite compares with.

    python -m tests.toolchain.reference

writes ``tests/data/gradients.npz``; needs TensorFlow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from collab.toolchain.trainable import convolution, normalisation, plain, pooling
from tests.trainable_cases import CASES, Case, batch, network

FILE = Path(__file__).parents[1] / "data" / "gradients.npz"


def tensorflow() -> Any:
    """TensorFlow, quiet and without kernels that round differently from run to run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    return tf


def keras_layer(layers: Any, layer: Any, name: str) -> Any:
    """The same layer in Keras."""
    padding = "same" if getattr(layer, "same", False) else "valid"
    if isinstance(layer, plain.Dense):
        return layers.Dense(layer.units, use_bias=layer.bias, name=name)
    if isinstance(layer, convolution.Conv2D):
        return layers.Conv2D(layer.filters, layer.size, layer.stride, padding, use_bias=layer.bias, name=name)
    if isinstance(layer, convolution.DepthwiseConv2D):
        return layers.DepthwiseConv2D(layer.size, layer.stride, padding, use_bias=layer.bias, name=name)
    if isinstance(layer, pooling.Pool2D):
        kind = layers.MaxPooling2D if layer.largest else layers.AveragePooling2D
        return kind(layer.size, layer.stride, padding, name=name)
    if isinstance(layer, pooling.GlobalAverage):
        return layers.GlobalAveragePooling2D(name=name)
    if isinstance(layer, normalisation.BatchNorm):
        return layers.BatchNormalization(
            momentum=layer.momentum, epsilon=layer.epsilon, scale=layer.scale, center=layer.center, name=name
        )
    if isinstance(layer, normalisation.GroupNorm):
        return layers.GroupNormalization(layer.groups, epsilon=layer.epsilon, name=name)
    if isinstance(layer, plain.Activation):
        if layer.kind == "leaky_relu":
            return layers.LeakyReLU(layer.slope, name=name)
        if layer.kind == "relu6":
            return layers.ReLU(6, name=name)
        return layers.Activation(layer.kind, name=name)
    kinds = {plain.Softmax: layers.Softmax, plain.Flatten: layers.Flatten}
    return kinds[type(layer)](name=name)


def keras_model(tf: Any, case: Case) -> Any:
    """The case in Keras, with the same weights."""
    made = [keras_layer(tf.keras.layers, layer, f"layer{n}") for n, layer in enumerate(case.layers)]
    model = tf.keras.Sequential([tf.keras.layers.Input(case.shape), *made])
    values = {parameter.name: parameter.value for parameter in network(case).parameters}
    for variable in model.weights:
        variable.assign(values[short(variable)])
    return model


def short(variable: Any) -> str:
    """Name of a variable as exported models have it."""
    return "/".join(variable.path.split("/")[-2:])


def gradients(tf: Any, model: Any, case: Case) -> dict[str, Any]:
    """Loss, gradients and new statistics of the case's batch, as TensorFlow computes them."""
    given = batch(case)
    real = len(given["y"]) - case.missing
    x, y = given["x"][:real], given["y"][:real]
    with tf.GradientTape() as tape:
        output = model(x, training=True)
        if case.loss == "mean_squared_error":
            loss = tf.reduce_mean((output - y) ** 2)
        elif isinstance(case.layers[-1], plain.Softmax):
            loss = tf.reduce_mean(-tf.math.log(tf.gather(output, y, batch_dims=1)))
        else:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, output))
    made = tape.gradient(loss, [v.value for v in model.trainable_variables])
    found = {"loss": loss.numpy()}
    for variable, gradient in zip(model.trainable_variables, made, strict=True):
        found[f"gradient:{short(variable)}"] = gradient.numpy()
    for variable in model.non_trainable_variables:
        found[f"statistic:{short(variable)}"] = variable.numpy()
    return found


def main() -> None:
    """Write the file."""
    tf = tensorflow()
    arrays = {}
    for name, case in CASES.items():
        for key, value in gradients(tf, keras_model(tf, case), case).items():
            arrays[f"{name}|{key}"] = value
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
