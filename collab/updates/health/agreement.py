"""Do two releases say the same about one input?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TOLERANCE: Final = 0.05
"""Relative to the largest number of the old answer, for outputs that are no scores."""


def agree(old: Sequence[NDArray[Any]], new: Sequence[NDArray[Any]]) -> bool:
    """Whether each output names the same class, if it is a vector of scores, or is close otherwise."""
    return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))


def finite(answer: Sequence[NDArray[Any]]) -> bool:
    """Whether an answer has no NaN and no infinity."""
    return all(bool(np.isfinite(one).all()) for one in answer if one.dtype.kind == "f")


def _same(old: NDArray[Any], new: NDArray[Any]) -> bool:
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    if old.size > 1 and old.size == old.shape[-1]:
        return int(old.argmax()) == int(new.argmax())
    a, b = old.astype(np.float64), new.astype(np.float64)
    return bool(np.abs(a - b).max(initial=0.0) <= TOLERANCE * max(np.abs(a).max(initial=0.0), 1e-6))
