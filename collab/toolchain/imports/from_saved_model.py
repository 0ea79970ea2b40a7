"""The step that reads a TensorFlow SavedModel: its signature, with a batch of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collab.errors import ModelError
from collab.toolchain.convert.litert import module_to_litert
from collab.toolchain.extras import needed
from collab.toolchain.imports import examples
from collab.toolchain.steps.work import Work


def convert(work: Work) -> Mapping[str, Any]:
    """Convert a signature and keep its answers.

    Settings: ``source``, ``signature``, ``count``, ``seed``.
    """
    tf, settings, folder = needed("tensorflow"), work.settings, work.folder
    loaded, function = _signature(tf, Path(settings["source"]), settings["signature"])
    taken = function.structured_input_signature[1]
    inputs = [
        examples.Input(name, examples.fixed(name, _sizes(spec)), spec.dtype.name)
        for name, spec in taken.items()
    ]
    outputs = sorted(function.structured_outputs)
    module = tf.Module()
    module.loaded = loaded

    def serve(*arrays: Any) -> Any:
        made = function(**{one.name: array for one, array in zip(inputs, arrays, strict=True)})
        return {name: tf.identity(value) for name, value in made.items()}

    specs = [tf.TensorSpec(one.shape, one.dtype, name=one.name) for one in inputs]
    module.serve = tf.function(serve, input_signature=specs, autograph=False)
    given = examples.examples_for(inputs, folder, settings["count"], settings["seed"])
    examples.write_arrays(folder / examples.EXAMPLES, given)
    examples.write_arrays(folder / examples.EXPECTED, _answers(function, inputs, outputs, given))
    (folder / "model.tflite").write_bytes(module_to_litert(tf, module))
    return {
        "inputs": [{"name": one.name, "shape": list(one.shape)} for one in inputs],
        "outputs": outputs,
    }


def _signature(tf: Any, path: Path, name: str) -> tuple[Any, Any]:
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises whatever a file makes it raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name}: is no SavedModel that this TensorFlow reads ({reason})") from error
    if name not in loaded.signatures:
        known = ", ".join(loaded.signatures) or "none"
        raise ModelError(
            f"{path.name}: has no signature {name!r}, it has {known}: choose with --signature, or save it "
            "with tf.saved_model.save(model, path, signatures=…)"
        )
    return loaded, loaded.signatures[name]


def _sizes(spec: Any) -> Sequence[Any]:
    if spec.shape.rank is None:
        raise ModelError(f"input {spec.name!r} has no shape: export the model anew with its sizes")
    return list(spec.shape)


def _answers(
    function: Any, inputs: Sequence[examples.Input], outputs: Sequence[str], given: Sequence[examples.Array]
) -> list[examples.Array]:
    tf = needed("tensorflow")
    rows = []
    for at in range(len(given[0])):
        one = {i.name: tf.constant(array[at : at + 1]) for i, array in zip(inputs, given, strict=True)}
        made = function(**one)
        rows.append([made[name].numpy() for name in outputs])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
