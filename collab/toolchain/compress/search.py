"""Successive halving over recipes: all with little training, the better half with more, and so on.

Jamieson and Talwalkar 2016 (arXiv:1502.07943).  Pure: the caller tries what `Halving.trials`
gives and tells what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from collab.toolchain.compress.frontier import Measured, Targets
from collab.toolchain.compress.recipe import Recipe

EFFORTS: Final = (0.25, 0.5, 1.0)
"""Shares of every training's epochs, rung by rung."""


@dataclass(frozen=True)
class Trial:
    """A recipe with a share of its training."""

    recipe: Recipe
    effort: float


@dataclass
class Halving:
    """The state of a search: which recipes are left on which rung."""

    recipes: Sequence[Recipe]
    targets: Targets
    efforts: Sequence[float] = EFFORTS
    rung: int = 0
    left: list[Recipe] = field(init=False)

    def __post_init__(self) -> None:
        self.left = list({str(recipe): recipe for recipe in self.recipes}.values())

    @property
    def done(self) -> bool:
        """Whether nothing is left to try."""
        return self.rung >= len(self.efforts)

    def trials(self) -> tuple[Trial, ...]:
        """What is to be tried now; recipes that train nothing are tried once, with full effort."""
        if self.done:
            return ()
        effort = self.efforts[self.rung]
        return tuple(
            Trial(recipe, effort if recipe.epochs else 1.0)
            for recipe in self.left
            if recipe.epochs or self.rung == 0
        )

    def tell(self, results: Mapping[str, Measured]) -> None:
        """What came of this rung, by recipe; the better half goes on, one at least.

        Recipes without a result, since they cannot be used on this model, are left out.
        """
        trained = [each for each in self.left if each.epochs and str(each) in results]
        order = sorted(trained, key=lambda each: (self.targets.cost(results[str(each)]), str(each)))
        self.left = order[: max(1, math.ceil(len(order) / 2))]
        self.rung += 1
        if not self.left:
            self.rung = len(self.efforts)
