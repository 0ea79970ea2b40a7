"""Which operators to leave in float: those whose rounding costs the most loss, and no more.

Pure: what a choice of operators costs is asked of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Loss = Callable[[frozenset[str]], float]
"""Loss of the model with these operators in float and all others rounded."""


@dataclass(frozen=True)
class Mixture:
    """The operators that stay in float, worst first, and what that costs."""

    in_float: tuple[str, ...]
    loss: float
    sensitivity: tuple[tuple[str, float], ...]
    """How much less loss there is when one operator alone stays in float, largest first."""


def mix(operators: Sequence[str], loss: Loss, float_loss: float, tolerance: float) -> Mixture:
    """Greedily leave operators in float until the loss is within ``tolerance`` of the float model's.

    Operators are ranked once, by what each alone gains; the search asks for as many losses as
    there are operators, and one more for each that stays in float.
    """
    rounded = loss(frozenset())
    if rounded <= float_loss + tolerance:
        return Mixture((), rounded, ())
    gains = sorted(
        ((rounded - loss(frozenset({name})), name) for name in operators), key=lambda g: (-g[0], g[1])
    )
    ranked = tuple((name, gain) for gain, name in gains)
    chosen: list[str] = []
    best = rounded
    for name, gain in ranked:
        if best <= float_loss + tolerance or gain <= 0:
            break
        tried = loss(frozenset({*chosen, name}))
        if tried < best:
            chosen.append(name)
            best = tried
    return Mixture(tuple(chosen), best, ranked)
