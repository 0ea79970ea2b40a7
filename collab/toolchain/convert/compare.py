"""How far the answers of a converted model are from its source's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array

TOLERANCE: Final = 1e-5
"""Of float32 answers, as a share of an output's largest magnitude where that is over 1."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One output over all examples."""

    output: str
    max_abs: float
    mean_abs: float
    scale: float
    """Largest magnitude of the source's answers, at least 1."""
    agreement: float | None
    """Share of examples whose largest element is the same one, of ``[n, classes]``."""
    varied: bool
    """Whether the source's answers differ between examples; if not, equality proves little."""

    @property
    def relative(self) -> float:
        """What tolerances are compared with."""
        return self.max_abs / self.scale

    def within(self, tolerance: float) -> bool:
        """Whether it is small enough; never where an answer is no number."""
        return bool(np.isfinite(self.max_abs)) and self.relative <= tolerance


def difference(output: str, expected: Array, got: Array) -> Difference:
    """Compare answers ``[n, …]`` of one output.

    What is no number in both places counts as equal; in one of them, as infinitely far.
    """
    if expected.shape != got.shape:
        return Difference(output, float("inf"), float("inf"), 1.0, None, True)
    one, other = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    apart = np.nan_to_num(apart, nan=np.inf)
    finite = np.abs(one[np.isfinite(one)])
    agreement = None
    if one.ndim == 2 and one.shape[1] > 1 and len(one):
        agreement = float(np.mean(one.argmax(axis=1) == other.argmax(axis=1)))
    return Difference(
        output=output,
        max_abs=float(apart.max(initial=0.0)),
        mean_abs=float(apart.mean()) if apart.size else 0.0,
        scale=max(1.0, float(finite.max(initial=0.0))),
        agreement=agreement,
        varied=len(one) < 2 or bool(np.any(one[1:] != one[:1])),
    )


def differences(names: Sequence[str], expected: Sequence[Array], got: Sequence[Array]) -> list[Difference]:
    """Compare all outputs; those that are missing are infinitely far."""
    missing: list[Any] = [np.zeros(0)] * (len(expected) - len(got))
    return [difference(*row) for row in zip(names, expected, [*got, *missing], strict=False)]
