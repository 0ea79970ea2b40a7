"""How far one client can move the model: norms that are cut, at a bound that may follow a quantile."""

from __future__ import annotations

import math
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from collab.errors import ConfigError, TensorError
from collab.federated.update import Parameters

MIN_BOUND: Final = 2.0**-20
MAX_BOUND: Final = 2.0**20
_SLACK: Final = 1 - 2.0**-40
"""What float64 rounds in a norm of 2^26 weights is less."""


class Clipped(NamedTuple):
    """An update whose norm is within the bound."""

    delta: dict[str, NDArray[np.float64]]
    """Float64, as rounding to float32 could make it longer."""
    within: bool
    """Whether it was so before."""


def norm(parameters: Parameters) -> float:
    """Euclidean norm of all weights together, in float64."""
    squares = (float(np.square(array, dtype=np.float64).sum()) for array in parameters.values())
    return math.sqrt(sum(squares))


def clip(delta: Parameters, bound: float) -> Clipped:
    """Scale an update down to a norm of at most ``bound``.  Raises `TensorError` if it is not finite."""
    length = norm(delta)
    if not math.isfinite(length):
        raise TensorError("update: it has no finite norm; lower the learning rate")
    scale = 1.0 if length <= bound else bound / length * _SLACK
    return Clipped({name: array.astype(np.float64) * scale for name, array in delta.items()}, length <= bound)


class QuantileClip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bound that follows a quantile of the clients' norms (Andrew et al., NeurIPS 2021, algorithm 1)."""

    bound: Annotated[float, Meta(ge=MIN_BOUND, le=MAX_BOUND)] = 0.1
    """Of the next round."""
    quantile: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Share of clients whose norms should be within it."""
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """How fast it follows."""
    count_noise: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """Standard deviation of the noise on the number of clients within it; the paper takes a
    twentieth of the cohort."""

    def following(self, balance: int, cohort: int, noise: float = 0.0) -> QuantileClip:
        """The bound for the next round.

        Args:
            balance: Clients whose norm was within the bound, less those whose norm was not.
            cohort: Clients that were expected; those that did not come count as a half.
            noise: One number of the standard normal distribution.
        """
        # Each client adds a half or takes one away, so that one client changes the sum by a half.
        share = (balance / 2 + noise * self.count_noise) / cohort + 0.5
        bound = self.bound * math.exp(-self.rate * (min(max(share, 0.0), 1.0) - self.quantile))
        return msgspec.structs.replace(self, bound=min(max(bound, MIN_BOUND), MAX_BOUND))

    def weights_multiplier(self, noise_multiplier: float) -> float:
        """Noise on the weights, so that weights and count together are as private as ``noise_multiplier``.

        Raises `ConfigError` when the noise on the count is too small for that.
        """
        if noise_multiplier == 0:
            return 0.0
        if 2 * self.count_noise <= noise_multiplier:
            raise ConfigError(
                f"clipping.count_noise: {self.count_noise:g} has to be more than half of the noise "
                f"multiplier {noise_multiplier:g}; a twentieth of the clients of a round is usual"
            )
        # Theorem 1 of the paper: precisions add up, and the count's sensitivity is a half.
        return 1 / math.sqrt(noise_multiplier**-2 - (2 * self.count_noise) ** -2)
