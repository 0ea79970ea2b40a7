"""Trainable models: their gradients are TensorFlow's, and they hold what their description says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from collab.errors import ModelError
from collab.federated.trainable import read_description
from collab.graph import parse_model
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.export import export
from collab.toolchain.trainable.fixtures import BATCH as FIXTURE_BATCH
from collab.toolchain.trainable.fixtures import MODELS
from collab.toolchain.trainable.network import Network
from collab.toolchain.trainable.plain import Dense
from tests.toolchain.reference import FILE
from tests.trainable_cases import BATCH, CASES, Case, batch, branching, network, with_dropout


def parameters(model: Network):
    return {f"parameter:{p.name}": p.value for p in model.parameters}


@pytest.fixture(scope="module")
def stored():
    """What TensorFlow computed for each case."""
    with np.load(FILE) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_each_layer_are_the_stored_ones_of_tensorflow(stored, name):
    case = CASES[name]
    model = network(case)
    found = LiteRT().signatures(export(model, BATCH)).run("train", batch(case) | parameters(model))
    expected = {
        key.partition("|")[2]: value for key, value in stored.items() if key.partition("|")[0] == name
    }
    assert expected.keys() == found.keys() - {"correct"}
    for key, value in expected.items():
        np.testing.assert_allclose(
            found[key], value, rtol=1e-4, atol=1e-6 * max(1, np.abs(value).max()), err_msg=key
        )


def test_gradients_through_sums_and_joins_are_the_slopes_of_the_loss():
    model, given = branching(), batch(Case(()))
    run = LiteRT().signatures(export(model, BATCH))
    values = parameters(model)
    found = run.run("train", given | values)
    rng = np.random.default_rng(0)
    for p in model.parameters:
        direction = rng.standard_normal(p.value.shape).astype(np.float32)
        losses = [
            run.run("train", given | values | {f"parameter:{p.name}": p.value + step * direction})["loss"]
            for step in (np.float32(0.001), np.float32(-0.001))
        ]
        slope = (losses[0] - losses[1]) / 0.002
        assert np.vdot(found[f"gradient:{p.name}"], direction) == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_dropout_scales_by_the_mask_that_it_is_given():
    model = with_dropout()
    run = LiteRT().signatures(export(model, BATCH))
    given = batch(Case(())) | parameters(model)
    shape = (BATCH, 6, 6, 4)
    kept = run.run("train", given | {"mask:layer1": np.ones(shape, np.float32)})
    without = run.run("evaluate", given)
    assert kept["loss"] == pytest.approx(float(without["loss"]), rel=1e-6)
    dropped = run.run("train", given | {"mask:layer1": np.zeros(shape, np.float32)})
    assert not dropped["gradient:layer0/kernel"].any()
    assert dropped["gradient:layer3/bias"].any()


def test_examples_of_no_weight_change_nothing():
    case = CASES["batch normalisation, not a full batch"]
    model, given = network(case), batch(case)
    run = LiteRT().signatures(export(model, BATCH))
    before = run.run("train", given | parameters(model))
    given["x"] = given["x"].copy()
    given["x"][-case.missing :] = 9.0
    after = run.run("train", given | parameters(model))
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)


def test_the_file_says_what_it_is_and_holds_builtin_operators_only():
    model = with_dropout()
    data = export(model, BATCH)
    made = LiteRT().signatures(data).run("initial", {})
    description = read_description(made["description"])
    assert [w.name for w in description.weights] == [p.name for p in model.parameters]
    assert description.dropout["layer1"].rate == 0.5
    assert description.dropout["layer1"].shape == (6, 6, 4)
    assert (description.batch_size, description.input_shape, description.output_shape) == (4, (6, 6, 3), (5,))
    assert description.step_bytes > 4 * 9 * 3 * 36 * BATCH
    for p in model.parameters:
        np.testing.assert_array_equal(made[f"parameter:{p.name}"], p.value)
    graph = parse_model(data, signature="train")
    assert set(graph.signatures) == {"train", "evaluate", "infer", "initial"}
    assert not any(op.custom for s in graph.flat.subgraphs for op in s.operators)


def test_a_changed_description_is_refused():
    made = LiteRT().signatures(export(with_dropout(), BATCH)).run("initial", {})["description"]
    with pytest.raises(ModelError, match="export the model again"):
        read_description(made[:-2])
    later = np.frombuffer(made.tobytes().replace(b'"format":1', b'"format":9'), np.uint8)
    with pytest.raises(ModelError, match="has format 9; this version reads 1"):
        read_description(later)


def test_what_cannot_be_exported_is_refused():
    model = network(CASES["dense"])
    with pytest.raises(ModelError, match="1 to 1024 examples"):
        export(model, 0)
    frozen = tuple(dataclasses.replace(p, trainable=False) for p in model.parameters)
    with pytest.raises(ModelError, match="no weights to train"):
        export(dataclasses.replace(model, parameters=frozen), 4)
    with pytest.raises(ModelError, match="cannot be multiplied"):
        export(dataclasses.replace(model, input_shape=(9,)), 4)
    with pytest.raises(ModelError, match="does not fit into an image"):
        export(
            network(Case((*CASES["convolutions"].layers[:3], *CASES["convolutions"].layers), (3, 3, 3))), 4
        )
    with pytest.raises(ModelError, match="give 1 to 512 inputs"):
        export(model, 4, np.zeros((2, 7), np.float32))
    assert isinstance(model.nodes[0].layer, Dense)


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_test_models_are_those_that_the_code_makes(name):
    assert (FILE.parent / f"trainable_{name}.tflite").read_bytes() == export(MODELS[name](), FIXTURE_BATCH)
