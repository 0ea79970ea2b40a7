"""Keras models become trainable ones whose gradients, training and answers are TensorFlow's."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import ModelError
from collab.federated.data.examples import Data, Examples
from collab.federated.trainers.keras import KerasTrainer
from collab.federated.trainers.litert import LiteRtTrainer
from collab.federated.update import LocalTraining
from collab.graph import parse_model, verify
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.bake import bake, bake_int8
from collab.toolchain.trainable.export import export
from collab.toolchain.trainable.keras_model import read_keras
from tests.toolchain.reference import gradients, keras_model, tensorflow
from tests.trainable_cases import BATCH, CASES, batch, network

pytestmark = pytest.mark.heavy("toolchain")

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def tf():
    """TensorFlow."""
    return tensorflow()


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_each_layer_are_tensorflows(tf, name):
    case = CASES[name]
    model = keras_model(tf, case)
    made = read_keras(model, case.loss)
    assert [node.layer for node in made.nodes] == list(case.layers)
    run = LiteRT().signatures(export(made, BATCH))
    parameters = {f"parameter:{p.name}": p.value for p in made.parameters}
    found = run.run("train", batch(case) | parameters)
    for key, value in gradients(tf, model, case).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=TOLERANCE * max(1, np.abs(value).max()))


@pytest.mark.parametrize("name", CASES)
def test_a_baked_model_answers_as_keras_does(tf, name):
    case = CASES[name]
    model = keras_model(tf, case)
    trainable = export(read_keras(model, case.loss), BATCH)
    baked = bake(trainable, {p.name: p.value for p in network(case).parameters})
    x = batch(case)["x"][:1]
    (answer,) = LiteRT().load(baked).run([x])
    np.testing.assert_allclose(answer, model(x, training=False).numpy(), rtol=1e-4, atol=1e-5)


def examples(count):
    rng = np.random.default_rng(3)
    x = rng.random((count, 6, 6, 3), np.float32)
    return Examples(x, (x.mean((1, 2)).argmax(1)).astype(np.int64))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_hundred_steps_on_litert_are_a_hundred_steps_of_keras(tf, optimizer):
    model = keras_model(tf, CASES["mean, overlapping"])
    trainable = export(read_keras(model), BATCH)
    data = Data(examples(42), examples(9))
    task = LocalTraining(epochs=10, batch_size=BATCH, optimizer=optimizer, learning_rate=0.01, max_steps=100)
    on_litert, on_keras = LiteRtTrainer(trainable, data), KerasTrainer(model, data)
    assert on_litert.initial.keys() == on_keras.initial.keys()
    left, right = (t.train(on_litert.initial, task) for t in (on_litert, on_keras))
    assert left.steps == right.steps == 100
    for name, value in right.parameters.items():
        np.testing.assert_allclose(left.parameters[name], value, atol=1e-5)
    measured = on_keras.evaluate(left.parameters)
    assert on_litert.evaluate(left.parameters) == pytest.approx(measured, rel=1e-4)


def test_the_optimizers_are_those_of_keras(tf):
    from collab.federated.trainers.optimizers import make_optimizer

    rng = np.random.default_rng(5)
    start, moves = rng.random(30, np.float32), rng.random((20, 30), np.float32) - np.float32(0.5)
    optimizers = tf.keras.optimizers
    for name, theirs in (
        ("sgd", optimizers.SGD(0.1)),
        ("momentum", optimizers.SGD(0.1, momentum=0.9)),
        ("adam", optimizers.Adam(0.1)),
    ):
        weights, variable = start.copy(), tf.Variable(start)
        ours = make_optimizer(LocalTraining(optimizer=name), weights.size)
        for move in moves:
            ours.apply(weights, move.copy())
            theirs.apply([tf.constant(move)], [variable])
        np.testing.assert_allclose(weights, variable.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layers: [layers.UpSampling2D()], "UpSampling2D.*those that can are .*Dense"),
        (lambda layers: [layers.Flatten(), layers.Dense(3, "elu")], "'elu' cannot be trained.*relu6"),
        (lambda layers: [layers.Conv2D(3, 3, dilation_rate=2), layers.Flatten()], "dilation_rate"),
        (lambda layers: [layers.Conv2D(3, 3)], "output must be"),
        (lambda layers: [layers.Dense(3), layers.Flatten()], "put Flatten before it"),
        (lambda layers: [layers.Flatten(), layers.Dense(3, trainable=False)], "is frozen"),
        (lambda layers: [layers.Flatten(), layers.Dense(3, "softmax"), layers.Dense(3)], "at the end only"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(tf, make, message):
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((6, 6, 3)), *make(layers)])
    with pytest.raises(ModelError, match=message):
        read_keras(model)


def test_int8_of_a_trained_model_answers_nearly_alike_and_splits(tf):
    model = network(CASES["batch normalisation"])
    rng = np.random.default_rng(2)
    x = (2 * rng.random((60, *CASES["batch normalisation"].shape)) - 1).astype(np.float32)
    values = {p.name: p.value for p in model.parameters}
    trainable = export(model, BATCH, x)
    whole, small = LiteRT().load(bake(trainable, values)), bake_int8(trainable, values)
    graph = parse_model(small)
    stage = LiteRT().load(small)
    (given,) = graph.inputs
    assert given.dtype == "int8"
    scale, zero = tensor_scale(graph)
    answers = [
        stage.run([np.clip(np.round(r[None] / scale) + zero, -128, 127).astype(np.int8)])[0] for r in x
    ]
    same = np.mean([a.argmax() == whole.run([r[None]])[0].argmax() for a, r in zip(answers, x, strict=True)])
    assert same >= 0.9
    backend = LiteRT()
    cuts = [(k,) for k in range(1, graph.op_count)]
    report = verify(graph, cuts, lambda data: backend.load(data).run, whole=backend.load(small).run)
    assert report.exact == len(cuts)


def tensor_scale(graph):
    """Scale and zero point of the input."""
    tensor = graph.flat.subgraphs[graph.main].tensors[graph.flat.subgraphs[graph.main].inputs[0]]
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
