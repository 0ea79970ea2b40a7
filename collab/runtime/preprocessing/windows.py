"""Recordings of sensors to windows, and windows to a model's inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import WindowSteps
from collab.errors import InputError
from collab.runtime.preprocessing.scaling import Floats
from collab.runtime.preprocessing.tables import Table, numbers

Samples = NDArray[np.float64]


def read_samples(table: Table, steps: WindowSteps) -> Samples:
    """A recording ``[samples, channels]`` without gaps; raises `InputError` that names the line."""
    samples = np.stack([numbers(table, name) for name in steps.channels], axis=1)
    missing = np.isnan(samples)
    if not missing.any():
        return samples
    row, channel = (int(place[0]) for place in np.nonzero(missing))
    if steps.gap == "refuse":
        raise InputError(
            f"{table.where(row)}: column {steps.channels[channel]!r} is missing; "
            "give a value, or prepare the data with --missing fill"
        )
    if missing[0].any():
        name = steps.channels[int(missing[0].argmax())]
        raise InputError(f"{table.where(0)}: column {name!r} is missing and no sample stands before it")
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(samples))[:, None]), axis=0)
    return np.take_along_axis(samples, last, axis=0)


def window_starts(samples: int, steps: WindowSteps) -> range:
    """First samples of the windows that fit."""
    return range(0, samples - steps.length + 1, steps.step)


def window_input(window: Samples, steps: WindowSteps) -> Floats:
    """One window ``[length, channels]`` as the model takes it.

    Windows go through one by one: what numpy adds up in which order depends on the
    array's shape, and many at once might differ in the last bit from one alone.
    """
    x = np.ascontiguousarray(window, np.float64)
    if steps.low:
        x = np.maximum(x, np.array([-np.inf if bound is None else bound for bound in steps.low]))
    if steps.high:
        x = np.minimum(x, np.array([np.inf if bound is None else bound for bound in steps.high]))
    if steps.scaling is not None:
        x = (x - np.array(steps.scaling.shift)) / np.array(steps.scaling.width)
    if steps.feature == "spectrum":
        x = np.abs(np.fft.rfft(x, axis=0)) / steps.length
    elif steps.feature == "moments":
        x = np.stack([x.mean(axis=0), x.std(axis=0), x.min(axis=0), x.max(axis=0)])
    return x.astype(np.float32)


def window_inputs(samples: Samples, steps: WindowSteps, where: str) -> Floats:
    """All windows of a recording, ``[windows, …]``; raises `InputError` if there is none."""
    starts = window_starts(len(samples), steps)
    if not starts:
        raise InputError(
            f"{where}: has {len(samples)} samples, a window is {steps.length}; record for longer"
        )
    return np.stack([window_input(samples[at : at + steps.length], steps) for at in starts])
