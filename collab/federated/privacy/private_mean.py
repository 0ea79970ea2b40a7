"""The mean of a round's updates under central differential privacy, and noise for local."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError
from collab.federated.privacy.clipping import QuantileClip, clip
from collab.federated.privacy.fixed_point import Encoding, Shapes, Sum, decode_sum, encode, vector_length
from collab.federated.privacy.masks import Ring
from collab.federated.privacy.noise import Noise, rounded_noise
from collab.federated.update import Parameters, Update

WITHIN = "collab/within"
"""Pseudo-parameter of a vector whose bound adapts: 1 from a client within it, -1 from one that is not."""


class PrivateMean:
    """Clipped updates, each counting alike, in fixed point; noise once, on the sum.

    (McMahan et al., ICLR 2018, algorithm 1.)
    The mean is the sum over the number of clients that were expected: dividing by how many came
    would say how many, and more as fewer come.  Memory is 8 bytes a weight.
    """

    def __init__(
        self,
        shapes: Shapes,
        clipping: QuantileClip,
        noise: Noise,
        *,
        noise_multiplier: float,
        cohort: int,
        adaptive: bool = False,
    ) -> None:
        """Begin a round.

        Args:
            shapes: Of the model.
            clipping: Its bound holds for this round.
            noise: Of this round alone.
            noise_multiplier: What the budget is charged with; the noise on weights is a little
                more where the bound adapts.
            cohort: Clients that were expected; more may come.
            adaptive: Whether the bound is to follow the clients' norms.
        """
        if cohort < 1:
            raise ConfigError(f"privacy: a cohort of {cohort} clients is none")
        self.shapes = private_shapes(shapes) if adaptive else dict(shapes)
        self.encoding = private_encoding(clipping.bound)
        self.encoding.check(cohort)
        self.clipping = clipping
        """The bound of this round, and after `combined` of the next."""
        self._noise: Noise | None = noise
        self._adaptive, self._cohort = adaptive, cohort
        self._multiplier = noise_multiplier
        if adaptive:
            self._multiplier = clipping.weights_multiplier(noise_multiplier)
        self._total: Ring = np.zeros(vector_length(self.shapes), self.encoding.type)
        self.clients = 0
        """So many have come."""

    def add(self, update: Update, weight: int = 1) -> None:
        """Clip one client's update and add it; weights do not count.

        Raises `TensorError` for what is not finite, `ConfigError` beyond what can be summed.
        """
        clipped = clipped_update(update.delta, self.clipping.bound, adaptive=self._adaptive)
        self.add_vector(encode(self.encoding, self.shapes, clipped, 1), 1)

    def add_vector(self, vector: Ring, clients: int) -> None:
        """Add what so many clients have clipped and encoded themselves, a secure sum of them."""
        if self._noise is None:
            raise ValueError("a round that was combined takes no more")
        self.encoding.check(self.clients + clients)
        self._total += vector
        self.clients += clients

    def combined(self) -> dict[str, NDArray[np.float64]]:
        """The noisy mean.  Once a round: a second one would have other noise on the same data."""
        if self._noise is None:
            raise ValueError("a round is combined once")
        noise, self._noise = self._noise, None
        total = decode_sum(self.encoding, self.shapes, self._total, self.clients) if self.clients else None
        numbers = total.numbers if total else np.zeros(vector_length(self.shapes) - 1, np.int64)
        bound = self.clipping.bound
        if self._adaptive:
            # The pseudo-parameter is the last one.
            numbers, balance = numbers[:-1], round(int(numbers[-1]) * self.encoding.step)
            self.clipping = self.clipping.following(balance, self._cohort, float(noise.normal(1)[0]))
        deviation = self._multiplier * bound / self.encoding.step
        noisy = numbers + rounded_noise(noise, deviation, len(numbers))
        shapes = {name: shape for name, shape in self.shapes.items() if name != WITHIN}
        return Sum(shapes, self.encoding.step, noisy, self.clients).divided(self._cohort)


def private_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Of the vectors of a round whose bound adapts."""
    return {**shapes, WITHIN: ()}


def private_encoding(bound: float) -> Encoding:
    """For updates that are clipped to a bound; fine steps, as every client counts alike."""
    return Encoding(fraction_bits=32, limit=max(bound, 1.0), max_samples=1)


def clipped_update(
    delta: Parameters, bound: float, *, adaptive: bool = False
) -> dict[str, NDArray[np.float64]]:
    """What a client encodes under secure aggregation and the server in its place without."""
    clipped, within = clip(delta, bound)
    if adaptive:
        clipped[WITHIN] = np.float64(1 if within else -1).reshape(())
    return clipped


def locally_private(
    delta: Parameters, bound: float, noise_multiplier: float, noise: Noise
) -> dict[str, NDArray[np.float64]]:
    """One client's update, clipped and made noisy before it leaves: then the server need not be trusted.

    The noise of all adds up: with n clients its share of the mean is √n times that of central
    noise of the same multiplier.
    """
    step = private_encoding(bound).step
    out = {}
    for name, array in clip(delta, bound).delta.items():
        added = rounded_noise(noise, noise_multiplier * bound / step, array.size)
        steps = np.trunc(array / step).astype(np.int64) + added.reshape(array.shape)
        out[name] = steps.astype(np.float64) * step
    return out
