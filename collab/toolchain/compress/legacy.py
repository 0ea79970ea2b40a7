"""Networks as `tf_keras` models, which is what tensorflow-model-optimization takes, and back.

Runs in a process of its own only: importing that package turns ``tf.keras`` into Keras 2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from collab.errors import ModelError
from collab.toolchain.compress.network import Array, Network, Node, mapped
from collab.toolchain.compress.training import Progress, Schedule, Taught, batches, cosine

Wrap = Callable[[Node, Any], Any]
"""Gives a layer, or what wraps it."""


def build_legacy(network: Network, wrap: Wrap) -> tuple[Any, Mapping[str, Any]]:
    """The `tf_keras` model of a network with its weights, and its plain layers by name.

    Raises:
        ModelError: A layer has no counterpart there.
    """
    import tf_keras

    made: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    for node in network.nodes:
        if node.kind == "InputLayer":
            made[node.name] = tf_keras.Input(node.shape, name=node.name, dtype=node.config["dtype"])
            continue
        if len(node.shapes) != 1:
            raise ModelError(f"layer {node.name}: {node.kind} has several outputs, which tfmot does not take")
        layer = layers[node.name] = _layer(node)
        if node.weights:
            # Before it is wrapped: some wrappers take the weights away.
            source = node.inputs[0]
            layer.build((None, *network.node(source.node).shapes[source.index]))
            layer.set_weights([value for _, value in node.weights])
        given = mapped(list(node.args), lambda ref: made[ref.node])
        made[node.name] = wrap(node, layer)(given[0])
    ends = [[made[ref.node] for ref in refs] for refs in (network.inputs, network.outputs)]
    model = tf_keras.Model(*(refs[0] if len(refs) == 1 else refs for refs in ends))
    return model, layers


def taken_back(network: Network, values: Mapping[str, list[Array]]) -> Network:
    """The network with other weights, by layer, in the order that both Keras keep."""
    changed = {}
    for name, arrays in values.items():
        node = network.node(name)
        names = [key for key, _ in node.weights]
        changed[name] = node.with_weights(
            **{key: np.asarray(value) for key, value in zip(names, arrays, strict=True)}
        )
    return network.changed(changed)


def _layer(node: Node) -> Any:
    import tf_keras

    name = node.name
    if node.cls.__module__.startswith("keras.src.ops"):
        return _operation(node)
    cls = getattr(tf_keras.layers, node.kind, None)
    if cls is None:
        raise ModelError(f"layer {name}: {node.kind} has no counterpart for tfmot; use a recipe without it")
    known = set(inspect.signature(cls.__init__).parameters)
    # Initialisers and the like are objects of the other Keras; weights come from outside anyway.
    config = {
        key: value
        for key, value in node.config.items()
        if key in known and not key.endswith(("_initializer", "_regularizer", "_constraint"))
    }
    if "activation" in config:
        config["activation"] = activation_of(config["activation"])
    return cls(**config, name=name)


def hard_silu_of_keras_3(x: Any) -> Any:
    """``x · relu6(x + 3) / 6``."""
    return x * hard_sigmoid_of_keras_3(x)


def hard_sigmoid_of_keras_3(x: Any) -> Any:
    """``relu6(x + 3) / 6``; Keras 2 has another function of that name."""
    import tensorflow as tf

    return tf.nn.relu6(x + 3.0) / 6.0


FUNCTIONS: Final[Mapping[str, Any]] = {
    function.__name__: function for function in (hard_silu_of_keras_3, hard_sigmoid_of_keras_3)
}
"""What copies of a model have to be told to find."""


def activation_of(name: Any) -> Any:
    """The function of a Keras 3 name; raises `ModelError` for one that has no name."""
    if not isinstance(name, str):
        raise ModelError(f"activation {name}: is no name of Keras, so tfmot cannot train with it")
    return FUNCTIONS.get(f"{name}_of_keras_3", name)


def _operation(node: Node) -> Any:
    """An operation of Keras 3 on one tensor and numbers, or on several tensors, as a layer."""
    import tf_keras

    numbers = [value for value in node.args if isinstance(value, (int, float))]
    layer = {"Add": "Add", "Multiply": "Multiply"}.get(node.kind)
    if layer is None or len(node.args) != 2:
        raise ModelError(f"operation {node.name}: {node.kind} cannot be trained by tfmot; use another recipe")
    if not numbers:
        return _Pair(getattr(tf_keras.layers, layer)(name=node.name))
    number = float(numbers[0])
    scale, offset = (number, 0.0) if node.kind == "Multiply" else (1.0, number)
    return tf_keras.layers.Rescaling(scale, offset, name=node.name)


class _Pair:
    """Takes both tensors of an operation as the list that layers take."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, given: Any) -> Any:
        return self.layer(given)


def fit_legacy(
    model: Any, taught: Taught, schedule: Schedule, progress: Progress, callbacks: Any = ()
) -> None:
    """Train a `tf_keras` model that answers with probabilities, in place."""
    import tf_keras

    tf_keras.utils.set_random_seed(schedule.seed)
    total = schedule.steps(len(taught))
    model.compile(tf_keras.optimizers.Adam(cosine(tf_keras, schedule.rate, total)), _loss)
    watched = tf_keras.callbacks.CallbackList(list(callbacks), model=model)
    watched.on_train_begin()
    for done, (inputs, labels) in enumerate(batches(taught, schedule), 1):
        watched.on_train_batch_begin(done)
        model.train_on_batch(inputs, labels)
        watched.on_train_batch_end(done)
        progress(done, total)
    # Pruning applies its masks once more at the end of an epoch.
    watched.on_epoch_end(0)
    watched.on_train_end()


def _loss(labels: Any, answers: Any) -> Any:
    import tensorflow as tf

    logits = tf.math.log(tf.maximum(answers, 1e-7))
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(tf.cast(labels, tf.int64), [-1]), logits)
