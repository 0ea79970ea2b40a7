"""Bundles for tests: a small model that is none, with all that can belong to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from collab.core.preprocessing import ImageSteps, Preprocessing, Quantisation
from collab.updates.bundle.manifest import About, Port
from collab.updates.bundle.write import Parts

INPUT = Port(name="image", shape=(1, 4, 4, 1), dtype="float32")
OUTPUT = Port(
    name="scores", shape=(1, 3), dtype="int8", quantisation=Quantisation(scale=1 / 256, zero_point=-128)
)

RNG = np.random.default_rng(1)
IMAGES = RNG.random((2, 1, 4, 4, 1), np.float32)
SCORES = RNG.integers(-128, 128, (2, 1, 3), np.int8)


def parts(**changes: Any) -> Parts:
    """What goes into one."""
    whole = Parts(
        about=About(name="clothes", version="1.2.0", devices=("pi-4",), provenance={"data_sha256": "0" * 64}),
        model=b"\x1c\0\0\0TFL3" + bytes(range(200)),
        inputs=[INPUT],
        outputs=[OUTPUT],
        preprocessing=Preprocessing(steps=ImageSteps(height=4, width=4, colour="grey")),
        labels=("coat", "dress", "shirt"),
        card=b"# Clothes\n",
        golden=({"image": IMAGES}, {"scores": SCORES}, "litert test"),
        variants={"onnxruntime": (b"onnx", "m.onnx", "CUDA")},
    )
    return dataclasses.replace(whole, **changes)
