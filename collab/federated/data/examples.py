"""Examples in memory, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError, TensorError

HELD_OUT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs and what a model should say of them.

    Attributes:
        x: ``[n, …]``; integers are kept as they are and become float32 when they are used.
        y: classes ``[n]`` as whole numbers, or wanted outputs ``[n, …]``.
        scale: what `x` is divided by when it is used.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise TensorError(f"{len(self.x)} inputs with {len(self.y)} labels: give one for each")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.x.nbytes + self.y.nbytes

    def first(self, count: int | None) -> Examples:
        """The first `count` of them, or all."""
        return self if count is None else Examples(self.x[:count], self.y[:count], self.scale)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Some of them as a model takes them: float32 inputs, int32 classes or float32 targets."""
        x = self.x[rows].astype(np.float32, copy=False)
        if self.scale != 1.0:
            x = x / np.float32(self.scale)
        y = self.y[rows]
        return x, y.astype(np.int32 if y.dtype.kind in "iu" else np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class Data:
    """What a device trains on, and what it measures on."""

    training: Examples
    held_out: Examples

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.training.nbytes + self.held_out.nbytes


def split(examples: Examples, held_out: float = HELD_OUT, seed: int = 0) -> Data:
    """Hold a part out, drawn by `seed`: the same for the same examples, wherever they are read.

    Raises:
        ConfigError: `held_out` is not a share below 1.
    """
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out is {held_out}; it must be 0 to below 1")
    count = len(examples)
    apart = int(round(count * held_out)) if count > 1 else 0
    rows = np.random.default_rng(seed).permutation(count)
    parts = (np.sort(rows[apart:]), np.sort(rows[:apart]))
    training, measured = (Examples(examples.x[part], examples.y[part], examples.scale) for part in parts)
    return Data(training, measured)
