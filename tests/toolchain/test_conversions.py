"""A Keras model converted is the same model: by its answers, or by what the file says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from collab import assets
from collab.errors import ModelError, TensorError
from collab.graph import read_model
from collab.runtime.litert import LiteRT
from collab.toolchain.convert.converting import convert
from collab.toolchain.convert.coreml import check_structure, read_package
from collab.toolchain.convert.litert import keras_to_litert
from collab.toolchain.convert.onnx import onnx_answers
from collab.toolchain.convert.source import keras_source, load_keras
from tests.toolchain.reference import tensorflow

pytestmark = [
    pytest.mark.heavy("toolchain"),
    # Importing TensorFlow and coremltools takes its time on a busy machine.
    pytest.mark.timeout(180),
    # Keras saves variables in a way that numpy 2 has words about.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def keras():
    """Keras 3."""
    return tensorflow().keras


@pytest.fixture(scope="module")
def digits():
    """Real digits as the models here take them."""
    with np.load(assets.path("digits_heldout.npz")) as held:
        return {"image": held["images"][:40].astype(np.float32) / 255}


@pytest.fixture(scope="module")
def file(keras, tmp_path_factory):
    """A small network with what converters merge and move: a batch norm, depthwise and dense kernels."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    ends = [layers.Dense(10, activation="softmax", name="zebra")(x), layers.Dense(2, name="apple")(x)]
    model = keras.Model(image, ends)
    rng = np.random.default_rng(0)
    model.get_layer("norm").set_weights([rng.uniform(0.5, 2, 8) for _ in range(4)])
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    model.save(path)
    return path


def test_litert_answers_as_keras_and_keeps_its_names(file, digits, tmp_path):
    done = convert(file, "litert", tmp_path / "m.tflite", digits, 1e-5)
    assert (done.written, done.examples) == ("litert", 40)
    assert all(one.within(1e-5) and one.varied for one in done.differences)
    graph = read_model(tmp_path / "m.tflite")
    assert [spec.name for spec in graph.inputs] == ["image"]
    assert sorted(spec.name for spec in graph.outputs) == ["apple", "zebra"]
    assert graph.signatures == ("serving_default",)
    assert graph.inputs[0].shape == (1, 28, 28, 1)
    # Splitting needs what the file has aligned and named.
    LiteRT().load(tmp_path / "m.tflite").close()


def test_onnx_answers_as_keras_by_name_and_any_batch(file, digits, tmp_path):
    done = convert(file, "onnx", tmp_path / "m.onnx", digits, 1e-5)
    assert [one.output for one in done.differences] == ["zebra", "apple"]
    assert all(one.within(1e-5) for one in done.differences)
    zebra, apple = onnx_answers((tmp_path / "m.onnx").read_bytes(), [digits["image"][:3]])
    assert (zebra.shape, apple.shape) == ((3, 10), (3, 2))


def test_without_tensorrt_onnx_is_written_and_the_command_told(file, digits, tmp_path):
    done = convert(file, "tensorrt", tmp_path / "m.engine", digits, 1e-5)
    assert done.written == "onnx"
    assert [path.name for path in done.files] == ["m.onnx"]
    assert "trtexec --onnx=m.onnx" in done.remarks[0]


def test_a_core_ml_package_has_the_ends_operators_and_kernels_of_its_source(file, digits, tmp_path):
    place = tmp_path / "m.mlpackage"
    done = convert(file, "coreml", place, digits, 1e-5)
    found = done.structure.found
    assert (found.kernels, found.matched) == (4, 4)
    assert done.structure.operators["conv"] == 2
    package = read_package(place)
    assert {(s.name, s.shape) for s in package.outputs} == {("zebra", (1, 10)), ("apple", (1, 2))}
    # Another model of the same shape is told apart.
    source = load_keras(file)
    kernel = source.model.get_layer("zebra").kernel
    kernel.assign(np.roll(np.asarray(kernel), 1, axis=0))
    assert check_structure(source, package).wrong(1e-5) == "the kernels of zebra are not in the package"
    # It is replaced by a later conversion, anything else is not.
    convert(file, "coreml", place, digits, 1e-5, half=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.mlpackage"]


def test_beyond_the_tolerance_nothing_is_written(file, digits, tmp_path, monkeypatch):
    place = "collab.toolchain.convert.converting.onnx_answers"
    monkeypatch.setattr(place, lambda *given: [a + np.float32(1e-3) for a in onnx_answers(*given)])
    with pytest.raises(
        ModelError, match=r"ONNX differs .* at output 'zebra' by 0\.001 .*nothing was written"
    ):
        convert(file, "onnx", tmp_path / "m.onnx", digits, 1e-5)
    assert list(tmp_path.iterdir()) == []


def test_examples_of_another_shape_are_refused(file, tmp_path):
    with pytest.raises(TensorError, match=r"the model takes \[N, 28, 28, 1\]"):
        convert(file, "onnx", tmp_path / "m.onnx", {"image": np.zeros((2, 32, 32, 1), np.float32)}, 1e-5)


def test_an_operator_without_a_counterpart_is_named(keras):
    tf = tensorflow()

    class Odd(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x):
            return tf.linalg.svd(x)[0]

    with pytest.raises(ModelError, match=r"^Svd has no counterpart in LiteRT"):
        keras_to_litert(keras.Sequential([keras.Input((4, 4)), Odd()]))


def test_an_open_shape_is_refused(keras):
    model = keras.Sequential(
        [keras.Input((None, None, 3), name="photo"), keras.layers.GlobalAveragePooling2D()]
    )
    with pytest.raises(ModelError, match=r"input 'photo' has the open shape \[None, None, None, 3\]"):
        keras_source("m.keras", model)


def test_what_is_no_keras_model_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="is no Keras model"):
        load_keras(path)
