"""The step that reads ONNX, by onnx2tf; the source's answers are onnxruntime's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.errors import ModelError
from collab.toolchain.convert.litert import input_names, keras_to_litert, output_names
from collab.toolchain.convert.onnx import onnx_answers
from collab.toolchain.extras import needed
from collab.toolchain.imports import examples
from collab.toolchain.steps.work import Work

REMEDY: Final = "pip install --no-deps -r requirements/onnx2tf.txt"
_PICTURES: Final = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""onnx2tf tries its work on pictures of that name in the current folder; else it downloads them."""
_IN_BODY: Final = ("If", "Loop", "Scan")


def convert(work: Work) -> Mapping[str, Any]:
    """Convert, and keep the source's answers.

    Settings: ``source``, ``count``, ``seed``.
    """
    settings, folder = work.settings, work.folder
    onnx = needed("onnx")
    path = Path(settings["source"])
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the file system have errors of their own
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name}: is no ONNX model ({reason})") from error
    needed("onnx2tf", REMEDY)
    _check_operators(path.name, model)
    inputs = _inputs(onnx, model)
    given = examples.examples_for(inputs, folder, settings["count"], settings["seed"])
    examples.write_arrays(folder / examples.EXAMPLES, given)
    examples.write_arrays(folder / examples.EXPECTED, _answers(model, given))
    made = _converted(path, folder)
    (folder / "model.tflite").write_bytes(keras_to_litert(made))
    return {
        "inputs": [{"name": one.name, "shape": list(one.shape)} for one in inputs],
        "outputs": [output.name for output in model.graph.output],
        "converted_inputs": input_names(made),
        "converted_outputs": output_names(made),
    }


def _check_operators(name: str, model: Any) -> None:
    """Refuse what onnx2tf has no translation for, all of it at once."""
    used = {(node.domain, node.op_type) for node in model.graph.node}
    missing = sorted(
        op if domain in ("", "ai.onnx") else f"{domain}:{op}"
        for domain, op in used
        if op in _IN_BODY
        or domain not in ("", "ai.onnx", "ai.onnx.ml")
        or importlib.util.find_spec(f"onnx2tf.ops.{op}") is None
    )
    if missing:
        raise ModelError(
            f"{name}: {', '.join(missing)} cannot be imported: export the model with operators that can, "
            "or cut it off before them"
        )


def _inputs(onnx: Any, model: Any) -> list[examples.Input]:
    weights = {each.name for each in model.graph.initializer}
    found = []
    for entry in model.graph.input:
        if entry.name in weights:
            continue
        tensor = entry.type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        found.append(examples.Input(entry.name, examples.fixed(entry.name, sizes), dtype))
    return found


def _answers(model: Any, given: list[examples.Array]) -> list[examples.Array]:
    """One example at a time, since a model's batch may be fixed."""
    data = model.SerializeToString()
    rows = [onnx_answers(data, [array[at : at + 1] for array in given]) for at in range(len(given[0]))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _converted(path: Path, folder: Path) -> Any:
    import onnx2tf

    source = path.absolute()
    # It reads pictures from the current folder and leaves files there.
    os.chdir(folder)
    np.save(_PICTURES, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    try:
        return onnx2tf.convert(
            input_onnx_file_path=str(source),
            output_folder_path=str(folder / "onnx2tf"),
            batch_size=1,
            not_use_onnxsim=True,
            disable_model_save=True,
            non_verbose=True,
            verbosity="error",
        )
    except (Exception, SystemExit) as error:  # it ends the process where it does not know what to do
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path.name}: onnx2tf cannot convert it ({type(error).__name__}: {reason}): simplify it with "
            "onnxsim, or export it from its framework to a SavedModel"
        ) from error
