"""Models of other formats are imported with the answers of their source, or refused by name."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from collab.errors import BackendError, ModelError, TensorError, UsageError
from collab.graph import read_model
from collab.toolchain.imports import from_keras, from_saved_model, importing
from collab.toolchain.imports.importing import Wanted, import_model
from collab.toolchain.steps import Result, Work
from collab.toolchain.zoo import build
from tests.toolchain.onnx_models import small_onnx
from tests.toolchain.reference import tensorflow

pytestmark = [
    pytest.mark.heavy("toolchain"),
    # Keras reads TensorFlow's variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

HERE = {"import-keras": from_keras.convert, "import-saved-model": from_saved_model.convert}


@pytest.fixture(scope="module")
def tf():
    """TensorFlow, quiet."""
    return tensorflow()


@pytest.fixture
def here(monkeypatch):
    """Steps run in this process, which has TensorFlow already."""

    def run(name, settings, folder, progress=None):
        return Result(HERE[name](Work(settings, folder, lambda *told: None)), folder)

    monkeypatch.setattr(importing, "run_step", run)


@pytest.fixture(scope="module")
def model(tf):
    """A small network with answers that differ."""
    return build("mlp", input_shape=(6,), classes=3, hidden=(5,), seed=3)


@pytest.mark.parametrize(("source", "target"), [("m.keras", "o.tflite"), ("m.h5", "o.keras")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_keras_files_keep_their_answers(here, model, tmp_path, source, target):
    model.save(tmp_path / source)
    made = import_model(Wanted(tmp_path / source, tmp_path / target))
    assert made.differences[0].max_abs < 1e-6
    assert made.examples == 16
    assert not made.remarks
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((source, target))


def test_a_saved_model_keeps_its_names_and_its_answers(tf, here, tmp_path):
    module = tf.Module()
    module.scale = tf.Variable([1.0, 2.0, 3.0])

    @tf.function(
        input_signature=[tf.TensorSpec((None, 3), name="right"), tf.TensorSpec((None, 3), name="left")]
    )
    def serve(right, left):
        return {"sum": left + right * module.scale, "difference": left - right}

    tf.saved_model.save(module, str(tmp_path / "m"), signatures=serve)
    made = import_model(Wanted(tmp_path / "m", tmp_path / "o.tflite"))
    assert {one.output: one.max_abs for one in made.differences} == {"difference": 0.0, "sum": 0.0}
    graph = read_model(tmp_path / "o.tflite")
    assert {spec.name for spec in graph.inputs} == {"left", "right"}
    with pytest.raises(ModelError, match="has no signature 'other', it has serving_default"):
        import_model(Wanted(tmp_path / "m", tmp_path / "p.tflite", signature="other"))
    assert not (tmp_path / "p.tflite").exists()


def test_what_differs_or_does_not_fit_is_not_written(here, model, tmp_path):
    model.save(tmp_path / "m.keras")
    out = tmp_path / "o.tflite"
    wrong = {"features": np.zeros((4, 7), np.float32)}
    with pytest.raises(TensorError, match="'features' is float32"):
        import_model(Wanted(tmp_path / "m.keras", out, inputs=wrong))
    with pytest.raises(UsageError, match="holds a graph and no layers"):
        import_model(Wanted(small_onnx(tmp_path / "m.onnx"), tmp_path / "o.keras"))
    (tmp_path / "broken.keras").write_bytes(b"PK broken")
    with pytest.raises(ModelError, match="is no Keras model"):
        import_model(Wanted(tmp_path / "broken.keras", out))
    assert not list(tmp_path.glob("o.*"))


def test_onnx_keeps_its_answers_with_channels_last(tmp_path):
    if importlib.util.find_spec("onnx2tf") is None:
        with pytest.raises(BackendError, match=r"onnx2tf is missing: pip install --no-deps"):
            import_model(Wanted(small_onnx(tmp_path / "m.onnx"), tmp_path / "o.tflite"))
        return
    made = import_model(Wanted(small_onnx(tmp_path / "m.onnx"), tmp_path / "o.tflite"))
    assert made.differences[0].relative < 1e-5
    assert made.channels_last == ("x",)
    assert read_model(tmp_path / "o.tflite").inputs[0].shape == (1, 8, 8, 3)
