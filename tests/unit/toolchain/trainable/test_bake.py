"""A baked model answers as the trained one, splits exactly, and normalisation is gone from it."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import ModelError, TensorError
from collab.graph import parse_model
from collab.graph import verify as verify_graph
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.bake import bake, bake_int8
from collab.toolchain.trainable.export import export
from collab.toolchain.trainable.fixtures import cnn
from tests.trainable_cases import BATCH, CASES, batch, branching, network


def values(model):
    return {p.name: p.value for p in model.parameters}


@pytest.mark.parametrize("name", [*CASES, "branching"])
def test_it_answers_as_the_trained_model(name):
    model = branching() if name == "branching" else network(CASES[name])
    case = CASES.get(name, CASES["convolutions"])
    trainable, x = export(model, BATCH), batch(case)["x"][:1]
    given = {f"parameter:{key}": value for key, value in values(model).items()}
    expected = LiteRT().signatures(trainable).run("infer", given | {"x": x})["y"]
    (answer,) = LiteRT().load(bake(trainable, values(model))).run([x])
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


def test_normalisation_and_activations_vanish_in_convolutions():
    case = CASES["batch normalisation"]
    model = network(case)
    graph = parse_model(bake(export(model, BATCH), values(model)))
    assert [op.name for op in graph.operators] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert graph.foldable_count == 0
    assert [spec.name for spec in graph.inputs] == ["x"]


def test_it_splits_exactly_at_every_cut():
    model = cnn()
    graph = parse_model(bake(export(model, 2), values(model)))
    backend = LiteRT()
    splits = [(k,) for k in range(1, graph.op_count)]
    report = verify_graph(
        graph, splits, lambda data: backend.load(data, 1).run, whole=backend.load(graph.data, 1).run
    )
    assert report.exact == len(splits) > 3


def test_weights_that_are_not_the_models_are_refused():
    model = network(CASES["dense"])
    trainable, good = export(model, BATCH), values(model)
    with pytest.raises(TensorError, match=r"'layer0/bias' of shape \(7,\) is missing"):
        bake(trainable, {key: value for key, value in good.items() if key != "layer0/bias"})
    with pytest.raises(TensorError, match="'layer0/bias' is not finite"):
        bake(trainable, good | {"layer0/bias": np.full(7, np.nan, np.float32)})
    with pytest.raises(TensorError, match="no parameter 'more'"):
        bake(trainable, good | {"more": np.zeros(1, np.float32)})
    with pytest.raises(ModelError, match="no signature 'infer'"):
        bake(bake(trainable, good), good)


def test_int8_needs_a_calibration():
    model = network(CASES["dense"])
    with pytest.raises(ModelError, match="carries no calibration"):
        bake_int8(export(model, BATCH), values(model))
