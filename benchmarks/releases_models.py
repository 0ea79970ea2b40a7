"""Makes the models that `benchmarks.releases` compares: trained, and trained on with a few more digits.

    python -m benchmarks.releases_models

It needs the toolchain.  ``benchmarks/assets/releases`` has what it wrote.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.releases import ASSETS
from collab.toolchain import demo_model
from collab.toolchain.quantise import quantise

EPOCHS, TUNED_EPOCHS = 4, 2
TUNED_RATE = 1e-4


def main() -> None:
    """Train, train on, convert and quantise."""
    tf = demo_model.tensorflow()
    training, held_out = demo_model.load_digits(0)
    model = demo_model.train(tf, training, 0, EPOCHS)
    before = model.get_weights()
    base = demo_model.convert(tf, model)
    keras = tf.keras
    # Half of the digits that it has not seen stand for what a device saw in the field.
    fresh = held_out.scaled()[::2], np.eye(10, dtype=np.float32)[held_out.labels[::2]]
    model.compile(keras.optimizers.Adam(TUNED_RATE), keras.losses.CategoricalCrossentropy())
    model.fit(*fresh, batch_size=32, epochs=TUNED_EPOCHS, verbose=0)
    tuned = demo_model.convert(tf, model)
    changed = [
        float(np.mean(old != new))
        for old, new in zip(before, model.get_weights(), strict=True)
        if old.ndim > 1
    ]
    model.set_weights(before)
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.CategoricalCrossentropy())
    model.fit(*fresh, batch_size=32, epochs=TUNED_EPOCHS, verbose=0)
    head = demo_model.convert(tf, model)
    calibration = training.scaled()[:64, None]
    ASSETS.mkdir(parents=True, exist_ok=True)
    for name, data in (("base", base), ("tuned", tuned), ("head", head)):
        (ASSETS / f"{name}.tflite").write_bytes(data)
        small = quantise(data, list(calibration), "image")
        (ASSETS / f"{name}_int8.tflite").write_bytes(small)
        right = demo_model.accuracy(small, held_out)
        print(f"{name}: {len(data)} and {len(small)} bytes, int8 accuracy {right:.3f}", file=sys.stderr)
    print(f"trained on: {np.mean(changed):.1%} of the weights changed", file=sys.stderr)


if __name__ == "__main__":
    main()
