"""Packaged examples: does a runtime give the answers that were packaged?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.runtime.preprocessing.quantised import to_reals
from collab.updates.bundle.read import Bundle

Run = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]
"""From inputs to outputs, both in the manifest's order."""


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How answers compare with those that were packaged.

    Attributes:
        compared: examples.
        exact: those with the same bytes.
        max_abs_diff: largest difference of any number, of quantised ones in real terms.
        same_class: whether this runtime is of the class that made them, so that all must be exact.
    """

    compared: int
    exact: int
    max_abs_diff: float
    same_class: bool

    @property
    def passed(self) -> bool:
        """Nothing differs that may not."""
        return self.exact == self.compared or not self.same_class


def check_golden(bundle: Bundle, run: Run, runtime_class: str) -> GoldenReport | None:
    """Run a bundle's examples; None if it has none.

    Raises:
        IntegrityError: the examples are not those that were packaged.
    """
    found, golden = bundle.golden(), bundle.manifest.golden
    if found is None or golden is None:
        return None
    inputs, outputs = found
    exact, largest = 0, 0.0
    for row in range(golden.count):
        made = run([inputs[port.name][row] for port in bundle.manifest.inputs])
        same = True
        for port, got in zip(bundle.manifest.outputs, made, strict=True):
            want = outputs[port.name][row]
            same &= got.tobytes() == want.tobytes()
            difference = np.abs(to_reals(got, port.quantisation) - to_reals(want, port.quantisation))
            largest = max(largest, float(difference.max(initial=0.0)))
        exact += same
    return GoldenReport(golden.count, exact, largest, golden.runtime_class == runtime_class)


def golden_inputs(bundle: Bundle, most: int) -> list[Mapping[str, NDArray[Any]]]:
    """A bundle's first examples by tensor name; empty if it has none."""
    found, golden = bundle.golden(), bundle.manifest.golden
    if found is None or golden is None:
        return []
    return [{name: array[row] for name, array in found[0].items()} for row in range(min(most, golden.count))]
