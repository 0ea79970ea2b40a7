"""Inputs for a stage when nobody gives real ones."""

from __future__ import annotations

import numpy as np

from collab.codec.tensors import Array
from collab.runtime.base import LoadedStage


def zero_inputs(stage: LoadedStage) -> list[Array]:
    """Zeros of the right shapes and dtypes: in range for every operator, indices included."""
    return [np.zeros(spec.shape, spec.dtype) for spec in stage.inputs]


def seeded_inputs(stage: LoadedStage) -> list[Array]:
    """The same numbers from 0 to 1 each time where the dtype is one of floats; zeros where it is not."""
    rng = np.random.default_rng(0)
    return [
        rng.random(spec.shape).astype(spec.dtype) if spec.dtype.startswith("float") else zeros
        for spec, zeros in zip(stage.inputs, zero_inputs(stage), strict=True)
    ]
