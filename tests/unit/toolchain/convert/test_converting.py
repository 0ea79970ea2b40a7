"""What cannot be converted is refused in one line with what to do, and leaves no file."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import BackendError, InputError, ModelError, TensorError, UsageError
from collab.toolchain.convert import tensorrt
from collab.toolchain.convert.converting import convert
from collab.toolchain.convert.kernels import find_kernels
from collab.toolchain.convert.litert import no_counterpart
from collab.toolchain.convert.source import matched
from collab.toolchain.extras import needed
from collab.toolchain.keras_files import write_durably

IMAGE = TensorSpec("image", (1, 4, 4, 1), "float32")


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        ("litert", UsageError, "is a .tflite already"),
        ("onnx", ModelError, "give the .keras file"),
        ("coreml", ModelError, "give the .keras file"),
    ],
)
def test_what_needs_the_keras_model_says_so(tmp_path, target, error, said):
    with pytest.raises(error, match=said):
        convert(tmp_path / "m.tflite", target, tmp_path / "out", None, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_keras_model_is_only_converted_with_real_inputs(tmp_path):
    with pytest.raises(UsageError, match="give --data DIR or --inputs"):
        convert(tmp_path / "m.keras", "onnx", tmp_path / "out", None, 0.0)


def test_half_precision_is_for_those_that_have_it(tmp_path):
    with pytest.raises(UsageError, match="collab model compress"):
        convert(tmp_path / "m.keras", "litert", tmp_path / "out", None, 0.0, half=True)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((3, 5, 4, 1), np.float32)}, r"\[3, 5, 4, 1\], the model takes \[N, 4, 4, 1\]"),
        ({"x": np.zeros((3, 4, 4, 1))}, "float64, the model takes float32"),
        ({"x": np.zeros((0, 4, 4, 1), np.float32)}, "at least one example"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "input 'image' is missing"),
    ],
)
def test_examples_that_do_not_fit_are_refused(arrays, said):
    with pytest.raises(TensorError, match=said):
        matched([IMAGE], arrays, "examples")


def test_of_one_input_any_name_serves():
    array = np.ones((2, 4, 4, 1), np.float32)
    assert matched([IMAGE], {"whatever": array}, "examples")[0] is array


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("… Custom ops: Svd, Betainc\nDetails: …", "Svd, Betainc has no counterpart"),
        ("error: 'tf.Erfc' op is neither a custom op nor a flex op", "Erfc has no counterpart"),
        ("something else entirely", "cannot be written: something else entirely"),
    ],
)
def test_operators_without_a_counterpart_are_named(text, named):
    assert named in no_counterpart(ValueError(text), "LiteRT")


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(BackendError, match=r"no_such_package is missing: pip install 'collab\[toolchain\]'"):
        needed("no_such_package.inner")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_durably(tmp_path / "m.onnx", b"model")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_without_tensorrt_the_command_for_the_device_is_told(tmp_path):
    said = tensorrt.remark(tmp_path / "m.onnx", half=True)
    assert "trtexec --onnx=m.onnx --saveEngine=m.engine --fp16" in said


class Conv2D:
    """As a Keras layer looks to what searches for its kernel."""

    def __init__(self, name, kernel):
        self.name = name
        self.weights = [Variable("kernel", kernel)]


class Variable:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def numpy(self):
        return self.value


class Layers:
    def __init__(self, *layers):
        self.layers = layers

    def _flatten_layers(self, include_self):
        return self.layers


def test_a_kernel_is_found_with_its_axes_moved_and_its_channels_scaled():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    moved = np.transpose(kernel, (3, 2, 0, 1)) * np.linspace(-2, 2, 8, dtype=np.float32)[:, None, None, None]
    found = find_kernels(Layers(Conv2D("conv", kernel)), {"w": moved})
    assert (found.kernels, found.matched, found.missing) == (1, 1, ())
    assert found.max_difference < 1e-6


def test_a_kernel_with_one_other_number_is_told_and_another_one_is_missing():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    moved = np.transpose(kernel, (3, 2, 0, 1)).copy()
    moved[0, 0, 0, 0] += 0.01
    close = find_kernels(Layers(Conv2D("conv", kernel)), {"w": moved})
    assert 1e-4 < close.max_difference < 1e-2
    other = find_kernels(Layers(Conv2D("conv", kernel)), {"w": np.roll(moved, 1, axis=1)})
    assert other.missing == ("conv",)


def test_an_engine_is_built_from_the_parsed_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(parses=True))
    assert tensorrt.build_engine(b"onnx", half=True) == b"engine of onnx"


def test_an_operator_that_tensorrt_refuses_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(parses=False))
    with pytest.raises(ModelError, match="TensorRT cannot take the model: no importer for Svd"):
        tensorrt.build_engine(b"onnx")


class FakeTensorRT:
    """The calls of TensorRT's documented Python interface, without a GPU."""

    BuilderFlag = SimpleNamespace(FP16="fp16")
    ERROR = "error"

    def __init__(self, parses):
        self.parses, self.data = parses, b""
        self.num_errors = 1
        self.num_inputs = 1

    class Logger(str):
        ERROR = "error"

    def Builder(self, logger):
        return self

    def create_network(self, flags):
        return self

    def OnnxParser(self, network, logger):
        return self

    def parse(self, data):
        self.data = data
        return self.parses

    def get_error(self, at):
        return "no importer for Svd"

    def create_builder_config(self):
        return self

    def set_flag(self, flag):
        assert flag == "fp16"

    def create_optimization_profile(self):
        return self

    def get_input(self, at):
        return SimpleNamespace(name="image", shape=(-1, 4, 4, 1))

    def set_shape(self, name, least, best, most):
        assert least == best == most == (1, 4, 4, 1)

    def add_optimization_profile(self, profile):
        pass

    def build_serialized_network(self, network, config):
        return b"engine of " + self.data
