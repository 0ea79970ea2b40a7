"""The batches of an epoch: which examples, in what order, changed how, by seed, epoch and step alone."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.toolchain.data.prepared import Examples
from collab.toolchain.training.settings import Settings

_ORDER, _AUGMENT, _MASKS = range(3)
"""Streams of random numbers that never meet."""
SEED_WORDS: Final = 2
"""uint32 numbers of the state of a Keras seed generator."""


def steps_of(count: int, batch: int) -> int:
    """Steps of an epoch; the last batch may be smaller."""
    return math.ceil(count / batch)


def order(settings: Settings, epoch: int, count: int) -> NDArray[np.int64]:
    """Places of the examples of an epoch, in its order."""
    return np.random.default_rng((settings.seed, _ORDER, epoch)).permutation(count)


def batch_at(
    examples: Examples, rows: NDArray[np.int64], settings: Settings, epoch: int, step: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The inputs and labels of one step."""
    taken = rows[step * settings.batch : (step + 1) * settings.batch]
    rng = np.random.default_rng((settings.seed, _AUGMENT, epoch, step))
    return settings.augment.apply(examples.inputs[taken], rng), examples.labels[taken]


def mask_seeds(settings: Settings, epoch: int, generators: int) -> NDArray[np.uint32]:
    """What the seed generators of a model's layers begin an epoch with, ``[generators, 2]``."""
    rng = np.random.default_rng((settings.seed, _MASKS, epoch))
    return rng.integers(0, 2**32, (generators, SEED_WORDS), np.uint32)


def epoch_batches(keras: Any, examples: Examples, settings: Settings, epoch: int) -> Any:
    """An epoch as Keras reads it: it may ask for the steps in any order, from any thread."""
    rows = order(settings, epoch, len(examples))

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
        def __len__(self) -> int:
            return steps_of(len(rows), settings.batch)

        def __getitem__(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            return batch_at(examples, rows, settings, epoch, step)

    return Batches()


def balanced(labels: NDArray[np.int64], classes: int) -> dict[int, float]:
    """Weights that make every class count alike; the mean over the examples is 1."""
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return {c: float(len(labels) / (present * n)) if n else 0.0 for c, n in enumerate(counts)}
