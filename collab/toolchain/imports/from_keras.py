"""The step that reads a ``.keras`` or ``.h5`` file, of Keras 3 or of what it still reads of Keras 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from collab.errors import ModelError
from collab.toolchain.convert.litert import keras_to_litert
from collab.toolchain.convert.source import Source, keras_source
from collab.toolchain.extras import needed
from collab.toolchain.imports import examples
from collab.toolchain.keras_files import write_keras
from collab.toolchain.steps.work import Work

SPEAKING: Final = 300


def convert(work: Work) -> Mapping[str, Any]:
    """Load, write as asked, and keep the source's answers.

    Settings: ``source``, ``target`` (``keras`` or ``tflite``), ``count``, ``seed``.
    """
    settings, folder = work.settings, work.folder
    source = _load(Path(settings["source"]))
    inputs = [examples.Input(spec.name, tuple(spec.shape), spec.dtype) for spec in source.inputs]
    given = examples.examples_for(inputs, folder, settings["count"], settings["seed"])
    examples.write_arrays(folder / examples.EXAMPLES, given)
    examples.write_arrays(folder / examples.EXPECTED, source.answers(given))
    if settings["target"] == "tflite":
        (folder / "model.tflite").write_bytes(keras_to_litert(source.model))
    else:
        write_keras(source.model, folder / "model.keras")
        again = needed("keras").models.load_model(folder / "model.keras", compile=False, safe_mode=True)
        examples.write_arrays(folder / examples.GOT, keras_source(folder, again).answers(given))
    return {
        "inputs": [{"name": one.name, "shape": list(one.shape)} for one in inputs],
        "outputs": list(source.outputs),
        "parameters": int(source.model.count_params()),
    }


def _load(path: Path) -> Source:
    keras = needed("keras")
    needed("tensorflow")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a file makes it raise
        raise ModelError(f"{path.name}: {_reason(error)}") from error
    return keras_source(Path(path.name), model)


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    lower = said.lower()
    if "lambda" in lower or "safe_mode" in lower:
        return (
            "has a Lambda layer, which is code and is not run: put its operations into layers "
            "or keras.ops and save the model anew"
        )
    if "could not locate class" in lower or "unknown layer" in lower or "unknown object" in lower:
        name = said.split("'")[1] if said.count("'") > 1 else "?"
        return (
            f"has the layer or function {name!r} that Keras does not have: convert it where that is "
            "defined, with `model.export('m', format='tf_saved_model')`, and import the SavedModel"
        )
    return f"is no Keras model ({said[:SPEAKING]}): save it with model.save('m.keras')"
