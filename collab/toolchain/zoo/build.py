"""Builds an architecture of the zoo, with initial weights that depend on the seed alone."""

from __future__ import annotations

import math
from typing import Any, Final

from collab.errors import ModelError, UsageError
from collab.toolchain.extras import needed
from collab.toolchain.zoo.frame import check_picture, check_steps
from collab.toolchain.zoo.options import read_options
from collab.toolchain.zoo.table import entry

MAX_INPUT: Final = 1 << 26
"""Numbers of one example."""
MAX_CLASSES: Final = 100_000
MAX_SEED: Final = 2**32 - 1


def build(name: str, *, input_shape: tuple[int, ...], classes: int, seed: int = 0, **options: Any) -> Any:
    """Return an untrained Keras 3 model.

    Args:
        name: of `ZOO`.
        input_shape: of one example, channels last.
        classes: how many there are to tell apart.
        seed: of the initial weights: equal ones for an equal seed.
        options: of that architecture, text or values.

    Raises:
        UsageError: no such architecture or option, or a value that it cannot have.
        ModelError: it cannot be built for that input.
        BackendError: TensorFlow is not installed.
    """
    chosen = entry(name)
    shape = tuple(int(size) for size in input_shape)
    if not shape or min(shape) < 1 or math.prod(shape) > MAX_INPUT:
        raise UsageError(
            f"{name}: input {list(shape)}: give sizes of one example, {MAX_INPUT} numbers at most"
        )
    if not 2 <= classes <= MAX_CLASSES:
        raise UsageError(f"{name}: {classes} classes: give 2 to {MAX_CLASSES}")
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"{name}: seed {seed}: give 0 to {MAX_SEED}")
    if chosen.takes == "pictures":
        check_picture(shape, name)
    elif chosen.takes == "windows":
        check_steps(shape, name)
    wanted = read_options(chosen.options, options, name)
    needed("tensorflow")
    keras = needed("keras")
    keras.utils.set_random_seed(seed)
    try:
        return chosen.make(keras, shape, classes, wanted)
    except ValueError as error:
        raise ModelError(f"{name}: cannot be built for input {list(shape)}: {str(error)[:200]}") from error
