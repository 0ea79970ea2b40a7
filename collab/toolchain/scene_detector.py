"""Trains the small detector that finds digits in made scenes, for pipelines of different models.

A centre-point network (Zhou, Wang and Krähenbühl 2019, Objects as Points,
arXiv:1904.07850) of under 200 kB: `scene` float32 [1, 96, 96, 1] in [0, 1] to `heat`
[1, 24, 24, 1], the likelihood that a digit's centre is in a cell, `size` [1, 24, 24, 2],
height and width as shares of the image, and `offset` [1, 24, 24, 2], where in its cell the
centre is.  It is trained on scenes of the demo model's training digits and measured on
scenes of its held-out ones, so no digit is in both.  Rebuild the shipped files with

    python -m collab.toolchain.scene_detector --out collab/assets

which needs the ``toolchain`` extra and takes about two minutes on two free cores.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collab.errors import CollabError, ModelError
from collab.toolchain import demo_model
from collab.toolchain.demo_model import SEED as DIGITS_SEED
from collab.toolchain.demo_model import VERSIONS_OF, Digits, load_digits, tensorflow
from collab.toolchain.scenes import SIDE, Floats, Scene, halved, scene

SEED: Final = 65
STEPS: Final = 1500
BATCH: Final = 24
PEAK_RATE: Final = 4e-3
CELLS: Final = 24
"""Of the answer's grid, a side."""
WIDTHS: Final = (12, 24, 32)
MOST_BYTES: Final = 200_000
LEAST_FOUND: Final = 0.95
"""Of the peaks above one half, and of the digits: the shares that must be right and found."""
TRIED: Final = 200
"""Held-out scenes that a new detector is measured on."""
NAMES: Final = ("heat", "size", "offset")

Targets = tuple[Floats, Floats]


def build(keras: Any, batch_size: int | None = None) -> Any:
    """An untrained network."""
    layers = keras.layers

    def convolve(x: Any, width: int, kernel: int = 3, stride: int = 1) -> Any:
        x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))

    given = layers.Input((SIDE // 2, SIDE // 2, 1), batch_size=batch_size, name="scene")
    x = convolve(convolve(given, WIDTHS[0], stride=2), WIDTHS[1], stride=2)
    fine = layers.Add()([x, convolve(x, WIDTHS[1])])
    x = convolve(fine, WIDTHS[2], stride=2)
    x = layers.Add()([x, convolve(x, WIDTHS[2])])
    x = layers.Add()([x, convolve(x, WIDTHS[2])])
    x = layers.UpSampling2D()(convolve(x, WIDTHS[1], 1))
    x = convolve(layers.Add()([x, fine]), WIDTHS[1])
    bias = keras.initializers.Constant(-3.0)
    heat = layers.Conv2D(1, 1, activation="sigmoid", bias_initializer=bias, name="heat")(x)
    size = layers.Conv2D(2, 1, activation="sigmoid", name="size")(x)
    offset = layers.Conv2D(2, 1, activation="sigmoid", name="offset")(x)
    return keras.Model(given, [heat, size, offset])


def targets(scenes: Sequence[Scene]) -> Targets:
    """Heat [n, CELLS, CELLS, 1], and height, width, offset down and right where a centre is, else -1."""
    heat = np.zeros((len(scenes), CELLS, CELLS, 1), np.float32)
    place = np.full((len(scenes), CELLS, CELLS, 4), -1, np.float32)
    rows, columns = np.mgrid[:CELLS, :CELLS]
    for i, one in enumerate(scenes):
        for top, left, bottom, right in one.boxes / SIDE:
            height, width = bottom - top, right - left
            down, across = (top + bottom) / 2 * CELLS, (left + right) / 2 * CELLS
            row, column = min(int(down), CELLS - 1), min(int(across), CELLS - 1)
            spread = max(0.8, height * CELLS / 8)
            bump = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))
            heat[i, :, :, 0] = np.maximum(heat[i, :, :, 0], bump)
            place[i, row, column] = height, width, down - row, across - column
    return heat, place


def train(tf: Any, digits: Digits, seed: int, steps: int, batch: int = BATCH) -> Any:
    """Train a new network on scenes of `digits`; a line every 250 steps goes to stderr."""
    keras = tf.keras
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(seed)
    model = build(keras)
    rate = keras.optimizers.schedules.CosineDecay(
        PEAK_RATE / 20, steps - steps // 10, warmup_target=PEAK_RATE, warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)

    def step(given: Any, heat: Any, place: Any) -> Any:
        with tf.GradientTape() as tape:
            likely, size, offset = model(given, training=True)
            likely = tf.clip_by_value(likely, 1e-4, 1 - 1e-4)
            centre = tf.cast(heat > 0.999, tf.float32)
            # The focal loss of the paper: exponents 2, and 4 for what is near a centre.
            near = centre * (1 - likely) ** 2 * tf.math.log(likely)
            far = (1 - centre) * (1 - heat) ** 4 * likely**2 * tf.math.log(1 - likely)
            count = tf.maximum(tf.reduce_sum(centre), 1.0)
            there = tf.cast(place[..., :1] >= 0, tf.float32)
            off = tf.abs(tf.concat([size, offset / CELLS], -1) - place / [1.0, 1.0, CELLS, CELLS]) * there
            loss = -tf.reduce_sum(near + far) / count + 20 * tf.reduce_sum(off) / count
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    compiled = tf.function(step)
    total = 0.0
    for done in range(steps):
        scenes = [scene(digits.images, digits.labels, rng) for _ in range(batch)]
        heat, place = targets(scenes)
        total += float(compiled(halved(np.stack([one.image for one in scenes])), heat, place))
        if (done + 1) % 250 == 0:
            _say(f"step {done + 1}/{steps}: loss {total / 250:.4f}")
            total = 0.0
    return model


def convert(tf: Any, model: Any) -> bytes:
    """`model` as a float32 ``.tflite`` of batch 1 with tensors `scene`, `heat`, `size` and `offset`."""
    return demo_model.convert(tf, model, build, takes="scene", gives=NAMES)


def held_out_scenes(count: int, seed: int = SEED) -> list[Scene]:
    """Scenes of the shipped held-out digits alone."""
    from collab.assets import path

    with np.load(path("digits_heldout.npz")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    rng = np.random.default_rng(seed)
    return [scene(images, labels, rng) for _ in range(count)]


def peaks(heat: Floats, least: float = 0.5) -> npt.NDArray[np.int64]:
    """Cells [n, 2] above `least` that no neighbour exceeds."""
    padded = np.pad(heat[0, :, :, 0], 1)
    around = [padded[i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3)]
    cells: npt.NDArray[np.int64] = np.argwhere(
        (padded[1:-1, 1:-1] >= np.max(around, 0)) & (padded[1:-1, 1:-1] >= least)
    )
    return cells


def measure(model: bytes, scenes: Sequence[Scene]) -> tuple[float, float]:
    """Precision and recall of peaks, each of which is right within a cell and a half of a centre."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    at = {entry["name"]: entry["index"] for entry in interpreter.get_output_details()}
    right = said = there = 0
    for one in scenes:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], halved(one.image[None]))
        interpreter.invoke()
        cells = peaks(interpreter.get_tensor(at["heat"])) + 0.5
        centres = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2 / SIDE * CELLS
        left = list(centres)
        for cell in cells:
            close = [i for i, centre in enumerate(left) if np.abs(centre - cell).max() <= 1.5]
            right += bool(close)
            if close:
                del left[close[0]]
        said += len(cells)
        there += len(centres)
    return right / max(1, said), right / max(1, there)


def make(out: Path, seed: int, steps: int) -> None:
    """Train, convert, measure, and write the model and its card to `out`.

    Raises:
        BackendError: a library is missing.
        ModelError: the model is worse than `LEAST_FOUND` or too large; nothing was written.
    """
    training, _ = load_digits(DIGITS_SEED)
    tf = tensorflow()
    start = time.monotonic()
    trained = train(tf, training, seed, steps)
    _say(f"trained in {time.monotonic() - start:.0f} s")
    model = convert(tf, trained)
    precision, recall = measure(model, held_out_scenes(TRIED))
    _say(f"precision {precision:.4f}, recall {recall:.4f} on {TRIED} held-out scenes, {len(model)} bytes")
    if min(precision, recall) < LEAST_FOUND or len(model) > MOST_BYTES:
        raise ModelError(
            f"precision {precision:.4f} and recall {recall:.4f} must be {LEAST_FOUND} at least, "
            f"and {len(model)} bytes {MOST_BYTES} at most; train for more steps"
        )
    grid = [1, CELLS, CELLS]
    card = {
        "model": {
            "file": "scene_detector.tflite",
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "input": {
                "name": "scene",
                "shape": [1, SIDE // 2, SIDE // 2, 1],
                "dtype": "float32",
                "range": [0, 1],
            },
            "outputs": [
                {"name": name, "shape": [*grid, width], "dtype": "float32"}
                for name, width in zip(NAMES, (1, 2, 2), strict=True)
            ],
        },
        "held_out": {"scenes": TRIED, "precision": round(precision, 4), "recall": round(recall, 4)},
        "training": {
            "data": "scenes made of the demo model's training digits (MNIST)",
            "steps": steps,
            "batch": BATCH,
            "seed": seed,
        },
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "scene_detector.tflite").write_bytes(model)
    (out / "scene_detector.json").write_text(json.dumps(card, indent=2) + "\n")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m collab.toolchain.scene_detector", description="train the detector of made scenes"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its card")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(argv)
    try:
        make(options.out, options.seed, options.steps)
    except CollabError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
