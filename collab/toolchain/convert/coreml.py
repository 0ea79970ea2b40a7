"""Keras to a Core ML ``mlprogram``; prediction needs macOS, so it is compared through its specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array
from collab.core.tensor import TensorSpec
from collab.errors import ModelError
from collab.toolchain.convert.kernels import Found, find_kernels
from collab.toolchain.convert.litert import no_counterpart, serving_function
from collab.toolchain.convert.quiet import quietly
from collab.toolchain.convert.source import Source
from collab.toolchain.extras import needed

SUFFIX: Final = ".mlpackage"
_DTYPES: Final = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32", 131080: "int8"}
"""``ArrayFeatureType.ArrayDataType`` of Core ML's FeatureTypes.proto."""
_PLUMBING: Final = frozenset({"const", "cast", "identity", "transpose", "reshape"})
"""Operators that move numbers and make none."""


@dataclass(frozen=True)
class Specification:
    """What a package says of itself.

    Attributes:
        operators: how often each stands in the program, constants left out.
        constants: the program's arrays of numbers, by name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    constants: Mapping[str, Array]


@dataclass(frozen=True)
class StructureCheck:
    """How a package compares with its source."""

    operators: Mapping[str, int]
    found: Found

    def wrong(self, tolerance: float) -> str | None:
        """Why it is not the same model, if it is not."""
        if self.found.missing:
            return f"the kernels of {', '.join(self.found.missing)} are not in the package"
        if self.found.max_difference > tolerance:
            return f"a kernel differs by {self.found.max_difference:.2g}, over {tolerance:g}"
        return None


def keras_to_coreml(source: Source, folder: Path, *, half: bool = False) -> Path:
    """Write a package for iOS 15 and later into a folder; float32, or ``half`` float16.

    Raises:
        ModelError: an operator has no counterpart in Core ML; it names which.
        BackendError: coremltools is not installed.
    """
    tf = needed("tensorflow")
    with quietly():
        tools = needed("coremltools")
        try:
            model = tools.convert(
                [serving_function(tf, source.model).get_concrete_function()],
                source="tensorflow",
                convert_to="mlprogram",
                compute_precision=tools.precision.FLOAT16 if half else tools.precision.FLOAT32,
                skip_model_load=True,
            )
            spec = model.get_spec()
            made = [feature.name for feature in spec.description.output]
            for old, new in zip(made, _outputs(source, spec), strict=True):
                if old != new:
                    tools.utils.rename_feature(spec, old, new)
            path = folder / f"model{SUFFIX}"
            tools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
        except ModelError:
            raise
        except Exception as error:  # whatever an operator makes the converter raise
            raise ModelError(no_counterpart(error, "Core ML")) from error
    return path


def _outputs(source: Source, spec: Any) -> list[str]:
    """Names for the package's outputs; TensorFlow sorts a function's results by name."""
    if len(spec.description.output) != len(source.outputs):
        raise ModelError(
            f"Core ML has {len(spec.description.output)} outputs, the model {len(source.outputs)}: "
            "leave out outputs that are the same tensor"
        )
    return sorted(source.outputs)


def read_package(path: Path) -> Specification:
    """Read a package's inputs, outputs, operators and constants.

    Raises:
        ModelError: it is no ``mlprogram`` of one function.
    """
    with quietly():
        tools = needed("coremltools")
        spec = tools.models.utils.load_spec(str(path))
    if "main" not in spec.mlProgram.functions:
        raise ModelError(f"{path}: holds no program: convert anew")
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    operators = Counter(op.type for op in block.operations if op.type not in _PLUMBING)
    weights = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    return Specification(
        inputs=tuple(map(_spec, spec.description.input)),
        outputs=tuple(map(_spec, spec.description.output)),
        operators=dict(sorted(operators.items())),
        constants=_constants(block, weights),
    )


def _spec(feature: Any) -> TensorSpec:
    array = feature.type.multiArrayType
    return TensorSpec(feature.name, tuple(array.shape), _DTYPES.get(array.dataType, "unknown"))


def _constants(block: Any, weights: Path) -> dict[str, Array]:
    storage = needed("coremltools.libmilstoragepython")._BlobStorageReader
    reader = storage(str(weights)) if weights.is_file() else None
    found = {}
    for op in block.operations:
        if op.type != "const":
            continue
        value = op.attributes["val"]
        shape = tuple(int(d.constant.size) for d in value.type.tensorType.dimensions)
        numbers = _numbers(value, reader)
        if numbers is not None and numbers.size == np.prod(shape, dtype=np.int64):
            found[op.outputs[0].name] = numbers.reshape(shape)
    return found


def _numbers(value: Any, reader: Any) -> Array | None:
    kind = value.type.tensorType.dataType
    if value.WhichOneof("value") == "blobFileValue" and reader is not None:
        offset = value.blobFileValue.offset
        if kind == 11:  # DataType.FLOAT32 of MIL.proto
            return np.asarray(reader.read_float_data(offset), np.float32)
        if kind == 10:  # FLOAT16, whose bits come as they are
            return np.asarray(reader.read_fp16_data(offset), np.uint16).view(np.float16).astype(np.float32)
        return None
    if value.WhichOneof("value") == "immediateValue" and kind == 11:
        return np.asarray(value.immediateValue.tensor.floats.values, np.float32)
    return None


def check_structure(source: Source, package: Specification) -> StructureCheck:
    """Compare a package with its source: both ends by name, shape and dtype, kernels by their numbers.

    Raises:
        ModelError: an input or output is another one.
    """
    given = [(s.name, s.shape, s.dtype) for s in package.inputs]
    wanted = [(s.name, s.shape, s.dtype) for s in source.inputs]
    if sorted(given) != sorted(wanted):
        raise ModelError(f"Core ML takes {given}, the model takes {wanted}")
    answers = source.answers([np.zeros(spec.shape, spec.dtype) for spec in source.inputs])
    made = {s.name: s.shape for s in package.outputs}
    for name, answer in zip(source.outputs, answers, strict=True):
        if made.get(name) != answer.shape:
            raise ModelError(f"Core ML gives {made}, the model {name!r} of the shape {list(answer.shape)}")
    return StructureCheck(package.operators, find_kernels(source.model, package.constants))
