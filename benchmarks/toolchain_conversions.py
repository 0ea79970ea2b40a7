"""Conversions beside their source: a CNN and MobileNetV3-small on 200 real images.

    python -m benchmarks.toolchain_conversions

Needs the ``toolchain`` extra and Debian's ``dataset-fashion-mnist``.  Both networks are
trained for a few steps, so that their answers differ between images, and kept under
``~/.cache/collab`` by a digest of how; ``--full`` trains them anew.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import fashion
from benchmarks.figures import Figure, run
from collab.toolchain.convert.converting import Converted, convert
from collab.toolchain.extras import needed

IMAGES: Final = 200
SIDE: Final = 56
TARGET: Final = "<= 1e-05"


def cnn(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )


def mobilenet(keras: Any) -> Any:
    return keras.applications.MobileNetV3Small(
        input_shape=(SIDE, SIDE, 3), weights=None, classes=10, include_preprocessing=False
    )


def small(images: Any) -> Any:
    return images


def large(images: Any) -> Any:
    """Twice the side, three equal channels."""
    return np.repeat(np.repeat(np.repeat(images, 2, 1), 2, 2), 3, 3)


MODELS: Final[dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], int]]] = {
    "CNN": (cnn, small, 120),
    "MobileNetV3-small": (mobilenet, large, 40),
}
"""How to build each, what it is shown, and how many steps of 32 images it learns."""


def trained(name: str, again: bool) -> Path:
    """The model's file."""
    make, shown, steps = MODELS[name]
    how = "".join(inspect.getsource(part) for part in (make, shown, trained)) + str((steps, SIDE))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collab"
    path = cache / f"conversions-{hashlib.sha256(how.encode()).hexdigest()[:16]}.keras"
    if path.is_file() and not again:
        return path
    keras = needed("tensorflow").keras
    keras.utils.set_random_seed(8)
    model = make(keras)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    training, _ = fashion.training()
    for step in range(steps):
        rows = slice(32 * step, 32 * (step + 1))
        model.train_on_batch(shown(training.scaled()[rows]), training.labels[rows])
    # So few steps leave the statistics of batch norms where they began, and all images alike.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8
    for step in range(30):
        model(shown(training.scaled()[64 * step : 64 * (step + 1)]), training=True)
    cache.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


def figures(name: str, path: Path, folder: Path) -> Iterator[Figure]:
    """LiteRT and ONNX by their answers, Core ML by its kernels."""
    inputs = {"image": MODELS[name][1](fashion.images("t10k").scaled()[:IMAGES])}
    for target, suffix in (("litert", ".tflite"), ("onnx", ".onnx")):
        done = convert(path, target, folder / f"m{suffix}", inputs, float("inf"))
        (one,) = done.differences
        assert one.varied, f"{name} gives one answer for all images"
        how = (
            f"largest difference of probabilities on {done.examples} Fashion-MNIST images, "
            f"{one.mean_abs:.1e} in the mean, {one.agreement:.1%} same class, {done.bytes} bytes"
        )
        yield Figure(f"{name}: {target} beside Keras", one.max_abs, "", TARGET, None, how)
    yield coreml(name, convert(path, "coreml", folder / "m.mlpackage", inputs, 1e-5))


def coreml(name: str, done: Converted) -> Figure:
    assert done.structure is not None
    found = done.structure.found
    how = (
        f"largest difference of kernels' directions, {found.matched} of {found.kernels} found in the "
        f"package; {sum(done.structure.operators.values())} operators"
    )
    return Figure(f"{name}: Core ML kernels beside Keras", found.max_difference, "", TARGET, None, how)


async def measure(options: argparse.Namespace) -> list[Figure]:
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            place = Path(folder) / name
            place.mkdir()
            found += figures(name, trained(name, options.full), place)
    return found


if __name__ == "__main__":
    run(measure, __doc__)
