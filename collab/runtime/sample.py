"""Inputs for timing a stage when nobody gives real ones."""

from __future__ import annotations

import numpy as np

from collab.codec.tensors import Array
from collab.runtime.base import LoadedStage


def zero_inputs(stage: LoadedStage) -> list[Array]:
    """Zeros of the right shapes and dtypes: in range for every operator, indices included."""
    return [np.zeros(spec.shape, spec.dtype) for spec in stage.inputs]
