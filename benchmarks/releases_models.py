"""Makes the models that `benchmarks.releases` compares: trained, its head anew, and all of it trained on.

    python -m benchmarks.releases_models FOLDER

The baseline is that of ``benchmarks.toolchain_models`` (438,000 parameters, Fashion-MNIST), taken from
FOLDER or trained there; it needs the toolchain.  The int8 ones go to ``benchmarks/assets/releases``.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fashion import training
from benchmarks.releases import ASSETS
from benchmarks.toolchain_models import taught, train
from collab.toolchain import demo_model
from collab.toolchain.compress.near import Former, nearer
from collab.toolchain.quantise import quantise

EXAMPLES, EPOCHS = 4000, 2
RATES = {"base": 0.0, "head": 1e-4, "tuned": 1e-5, "tuned_hard": 1e-4}
"""1e-5 is what guides name for training on; ten times that is learning anew."""


def main() -> None:
    """Train on, convert and quantise."""
    folder = Path(sys.argv[1])
    tf = demo_model.tensorflow()
    path = train("cnn", folder)
    # Those that it has not learned stand for what devices saw in the field.
    held_out = taught(training()[1], 28)
    fresh = held_out.inputs[:EXAMPLES], held_out.labels[:EXAMPLES]
    calibration = list(taught(training()[0], 28).inputs[:64, None])
    for name, rate in RATES.items():
        model = tf.keras.models.load_model(path)
        before = [weights.copy() for weights in model.get_weights()]
        for layer in model.layers[: -1 if name == "head" else 0]:
            layer.trainable = False
        if rate:
            model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
            model.fit(*fresh, batch_size=64, epochs=EPOCHS, verbose=0)
        changed = [np.mean(old != new) for old, new in zip(before, model.get_weights(), strict=True)]
        data = demo_model.convert(tf, model, functools.partial(_fixed, model))
        (folder / f"{name}.tflite").write_bytes(data)
        ASSETS.mkdir(parents=True, exist_ok=True)
        small = quantise(data, calibration, "image")
        (ASSETS / f"{name}_int8.tflite").write_bytes(small)
        if name.startswith("tuned"):
            former = Former((ASSETS / "base_int8.tflite").read_bytes())
            (ASSETS / f"{name}_near_int8.tflite").write_bytes(nearer(small, data, former))
        print(f"{name}: {len(data)}, {len(small)} bytes, changed {np.mean(changed):.1%}", file=sys.stderr)


def _fixed(model: Any, keras: Any, batch_size: int) -> Any:
    image = keras.Input((28, 28, 1), batch_size=batch_size, name="image")
    return keras.models.clone_model(model, input_tensors=image)


if __name__ == "__main__":
    main()
