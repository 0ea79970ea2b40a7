"""LiteRT's errors in our words, and what is special about it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from collab.codec.tensors import Array
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, ModelError, TensorError
from collab.runtime import litert as litert_module
from collab.runtime.litert import LiteRT
from tests.tflite_builder import ModelBuilder

BACKEND = LiteRT()


def simple() -> bytes:
    b = ModelBuilder()
    x = b.main.input("x", (1, 64))
    b.main.output(b.main.dense(x, np.ones((64, 64), np.float32), name="y"))
    return b.build()


def with_operator(kind: str, **more) -> bytes:
    b = ModelBuilder()
    x = b.main.input("x", (1, 4))
    b.main.output(b.main.op(kind, [x], name="y", shape=(1, 4), **more))
    return b.build()


def test_an_unknown_custom_operator_is_named():
    with pytest.raises(
        ModelError, match=r"^operator 'Mystery' is not known to this LiteRT; update it or convert"
    ):
        BACKEND.load(with_operator("Mystery", custom=b"options"))


def test_an_operator_of_a_later_release_is_named_by_its_number():
    b = ModelBuilder()
    x = b.main.input("x", (1, 4))
    b.main.output(b.main.unary("TANH", x, name="y"))
    code = b.table.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = 4000, 127
    with pytest.raises(ModelError, match=r"4000|out of range|not known"):
        BACKEND.load(b.build())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_a_model_error(tmp_path, share):
    data = simple()
    cut = data[: int(len(data) * share)]
    with pytest.raises(ModelError, match=r"^LiteRT cannot load the model: \S"):
        BACKEND.load(cut)
    path = tmp_path / "cut.tflite"
    path.write_bytes(cut)
    with pytest.raises(ModelError, match=r"^LiteRT cannot load the model: \S"):
        BACKEND.load(path)


def test_messages_are_one_line_of_bounded_length(tmp_path):
    for model in (b"", b"\n" * 50, tmp_path / ("x" * 200), with_operator("Mystery", custom=b"")):
        with pytest.raises(ModelError) as caught:
            BACKEND.load(model)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_an_operator_that_fails_when_it_runs_is_a_backend_error():
    b = ModelBuilder()
    table = b.main.const("table", np.ones((3, 2), np.float32))
    index = b.main.input("index", (1,), "int32")
    y = b.main.op("GATHER", [table, index], name="y", shape=(1, 2), options="GatherOptions")
    b.main.output(y)
    stage = BACKEND.load(b.build())
    assert stage.run([np.array([2], np.int32)])[0].tolist() == [[1, 1]]
    with pytest.raises(BackendError, match=r"^LiteRT: \S"):
        stage.run([np.array([7], np.int32)])
    assert stage.run([np.array([0], np.int32)])[0].tolist() == [[1, 1]]
    stage.close()


def test_a_closed_stage_says_so():
    stage = BACKEND.load(simple())
    stage.close()
    with pytest.raises(BackendError, match="LiteRT: the stage is closed"):
        stage.run([np.zeros((1, 64), np.float32)])


def test_a_tensor_without_a_numpy_dtype_shows_as_a_string():
    b = ModelBuilder()
    x = b.main.input("x", (1,), "string")
    b.main.output(b.main.op("RESHAPE", [x], name="y", shape=(1,), dtype="string", options="ReshapeOptions"))
    try:
        stage = BACKEND.load(b.build())
    except ModelError:
        pytest.skip("this LiteRT does not reshape strings")
    assert stage.inputs[0].dtype == "string"
    with pytest.raises(TensorError):
        stage.inputs[0].check()
    stage.close()


def test_shapes_are_those_that_the_interpreter_allocates():
    shapes = BACKEND.tensor_shapes(simple())
    assert (1, 64) in shapes
    assert (64, 64) in shapes
    with pytest.raises(ModelError):
        BACKEND.tensor_shapes(b"")


# --- signatures --------------------------------------------------------------


def signed() -> bytes:
    b = ModelBuilder()
    g = b.main
    x, n = g.input("serve_x", (2,)), g.input("serve_n", (2,))
    total, product = g.add(x, n, name="total"), g.mul(x, n, name="product")
    g.output(total, product)
    b.signature("serve", {"x": x, "n": n}, {"product": product, "total": total})
    return b.build()


def arrays() -> list[Array]:
    return [np.array([1, 2], np.float32), np.array([3, 4], np.float32)]


def test_a_signature_runs_with_tensors_in_its_own_order():
    stage = BACKEND.load_signature(signed(), "serve")
    by_name = {"serve_x": arrays()[0], "serve_n": arrays()[1]}
    made = stage.run([by_name[spec.name] for spec in stage.inputs])
    results = {spec.name: array.tolist() for spec, array in zip(stage.outputs, made, strict=True)}
    assert results == {"total": [4, 6], "product": [3, 8]}
    assert TensorSpec("total", (2,), "float32") in stage.outputs
    stage.close()


def test_a_signature_refuses_wrong_inputs_and_says_when_it_is_closed():
    stage = BACKEND.load_signature(signed(), "serve")
    with pytest.raises(TensorError, match="takes 2 tensors, got 1"):
        stage.run(arrays()[:1])
    with pytest.raises(TensorError, match="expected float32"):
        stage.run([array.astype("int8") for array in arrays()])
    stage.close()
    stage.close()
    with pytest.raises(BackendError, match="closed"):
        stage.run(arrays())


def test_a_signature_that_is_not_there_is_a_model_error():
    with pytest.raises(ModelError, match=r"^LiteRT cannot run signature 'train': \S"):
        BACKEND.load_signature(signed(), "train")


# --- the runtime itself ------------------------------------------------------


def test_without_a_runtime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(litert_module, "_PACKAGES", (("no_such_package", "no-such"),))
    for operation in (lambda: BACKEND.load(b""), BACKEND.runtime_class):
        with pytest.raises(BackendError, match="no LiteRT runtime is installed; install ai-edge-litert"):
            operation()


def test_a_runtime_that_cannot_be_imported_is_named(monkeypatch):
    def broken(name):
        raise ImportError("built for another numpy")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(BackendError, match="ai-edge-litert is installed but cannot be imported: built for"):
        BACKEND.load(b"")


def test_the_predecessor_is_used_where_only_that_is_installed(monkeypatch):
    monkeypatch.setattr(
        litert_module, "_PACKAGES", (("no_such_package", "x"), ("ai_edge_litert", "ai-edge-litert"))
    )
    assert BACKEND.runtime_class().version.startswith("ai-edge-litert ")


def test_the_runtime_class_names_all_that_results_depend_on():
    text = str(BACKEND.runtime_class())
    assert text.startswith("litert ai-edge-litert ")
    assert text.endswith(" xnnpack")
