"""``collab model export-trainable`` and ``collab model bake``: before and after federated training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.files import read_npz, write_bytes
from collab.cli.model import AsJson
from collab.cli.output import emit, say
from collab.errors import InputError, ModelError, UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from collab.federated.trainable import Loss

Calibration = Annotated[
    Path | None, typer.Option(help="Inputs for int8 ranges, `x` of an .npz, as the model takes them.")
]
LOSSES: Mapping[str, Loss] = {
    "cross_entropy": "cross_entropy",
    "mean_squared_error": "mean_squared_error",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "export-trainable", epilog="Example:\n\n    collab model export-trainable m.keras --out m.tflite"
    )(export_trainable)
    app.command(epilog="Example:\n\n    collab model bake m.tflite --weights w.npz --out served.tflite")(bake)


def export_trainable(
    model: Annotated[Path, typer.Argument(help="A .keras file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The trainable .tflite to write.")],
    batch: Annotated[int, typer.Option(help="Examples that go through at a time on a device.")] = 32,
    loss: Annotated[str, typer.Option(help="cross_entropy or mean_squared_error.")] = "cross_entropy",
    calibration: Calibration = None,
    json_: AsJson = False,
) -> None:
    """Write a Keras model as a .tflite that devices train without TensorFlow."""
    from collab.toolchain.demo_model import tensorflow
    from collab.toolchain.trainable.export import export
    from collab.toolchain.trainable.keras_model import read_keras

    if loss not in LOSSES:
        raise UsageError(f"--loss {loss}: use one of {', '.join(LOSSES)}")
    inputs = None if calibration is None else _inputs(calibration)
    if not model.is_file():
        raise ModelError(f"{model}: there is no such file: save the model as .keras")
    keras = tensorflow().keras
    try:
        loaded = keras.models.load_model(model, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a file makes it raise
        raise ModelError(f"{model}: is no Keras model ({_line(error)}): save it as .keras") from error
    network = read_keras(loaded, LOSSES[loss])
    data = export(network, batch, inputs)
    write_bytes(out, data)
    weights = sum(parameter.value.size for parameter in network.parameters)
    if json_:
        emit(_described(out, data) | {"weights": weights, "batch": batch, "loss": loss})
    else:
        say(f"{out}: {weights:,} weights in {len(network.nodes)} layers, batch {batch}, {size(len(data))}")


def bake(
    model: Annotated[Path, typer.Argument(help="A trainable .tflite.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .tflite to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights as .npz, by name; else those that it came with.")
    ] = None,
    quantise: Annotated[bool, typer.Option("--quantise", help="Int8 weights and activations.")] = False,
    calibration: Calibration = None,
    json_: AsJson = False,
) -> None:
    """Turn trained weights into constants of a plain .tflite that splits and runs."""
    from collab.federated.trainers.litert import LiteRtEngine
    from collab.toolchain.trainable.bake import bake as bake_model
    from collab.toolchain.trainable.bake import bake_int8

    if calibration is not None and not quantise:
        raise UsageError("--calibration goes with --quantise")
    try:
        trainable = model.read_bytes()
    except OSError as error:
        raise ModelError(f"{model}: {error.strerror}") from error
    parameters = LiteRtEngine(trainable).initial if weights is None else read_npz(weights, "--weights")
    if quantise:
        data = bake_int8(trainable, parameters, None if calibration is None else _inputs(calibration))
    else:
        data = bake_model(trainable, parameters)
    write_bytes(out, data)
    if json_:
        emit(_described(out, data))
    else:
        say(f"{out}: {size(len(data))}")


def _inputs(path: Path) -> NDArray[np.float32]:
    import numpy as np

    arrays = read_npz(path, "--calibration")
    if "x" not in arrays or arrays["x"].dtype != np.float32:
        raise InputError(f"--calibration {path}: must hold float32 inputs named x")
    found: NDArray[np.float32] = arrays["x"]
    return found


def _described(path: Path, data: bytes) -> dict[str, Any]:
    return {"file": str(path), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
