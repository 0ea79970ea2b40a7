"""What a task says about aggregation."""

from __future__ import annotations

import math
from typing import Final, Literal, Union

from collab.core.plan import Frozen
from collab.errors import ConfigError
from collab.federated.aggregate.server import (
    Adagrad,
    Adam,
    Momentum,
    ServerOptimizer,
    Sgd,
    Yogi,
    check_server,
)
from collab.federated.update import LocalTraining

Rule = Literal["fedavg", "fedavgm", "fedprox", "fedadam", "fedyogi", "fedadagrad", "scaffold", "fedbuff"]
Combine = Literal["mean", "median", "trimmed-mean", "krum", "multi-krum"]

_SERVERS: Final[dict[str, ServerOptimizer]] = {
    "fedavgm": Momentum(),
    "fedadam": Adam(),
    "fedyogi": Yogi(),
    "fedadagrad": Adagrad(),
}
"""Server optimizers of the rules that name one; the others take the mean as it is."""


class Aggregation(Frozen, frozen=True, kw_only=True):
    """How updates become the next model."""

    rule: Rule = "fedavg"
    """A published algorithm; the fields below change parts of it."""
    combine: Combine = "mean"
    weighting: Union[Literal["samples", "uniform"], None] = None
    """Of updates in a mean; by samples unless the rule is ``scaffold`` or ``fedbuff``."""
    server: Union[ServerOptimizer, None] = None
    """The rule's own where it is not given."""
    clip_norm: Union[float, None] = None
    """Updates with a larger L2 norm are scaled down to it."""
    trim: float = 0.2
    """Share of the updates that ``trimmed-mean`` leaves out at each end of every coordinate."""
    byzantine: int = 1
    """Bad clients that ``krum`` and ``multi-krum`` withstand."""
    keep: Union[int, None] = None
    """Updates that ``multi-krum`` averages; all but ``byzantine`` of them where it is not given."""
    staleness_exponent: float = 0.5
    """An update that began s rounds ago counts ``(1 + s)^-exponent`` (Xie et al., 2019)."""

    @property
    def optimizer(self) -> ServerOptimizer:
        """The server optimizer, given or the rule's."""
        return self.server or _SERVERS.get(self.rule, Sgd())

    @property
    def by_samples(self) -> bool:
        """Whether an update weighs as much as it has samples."""
        weighting = self.weighting or ("uniform" if self.rule in ("scaffold", "fedbuff") else "samples")
        return weighting == "samples"

    @property
    def by_count(self) -> bool:
        """Whether discounted updates are divided by their number (FedBuff), not by what is left of it."""
        return self.rule == "fedbuff"

    @property
    def controls(self) -> bool:
        """Whether clients and server keep control variates."""
        return self.rule == "scaffold"

    @property
    def robust(self) -> bool:
        """Whether single updates must be at hand to combine them."""
        return self.combine != "mean"

    @property
    def least(self) -> int:
        """Updates without which a round cannot be combined; the quorum may not be lower."""
        if self.combine in ("krum", "multi-krum"):
            return max(2 * self.byzantine + 3, self.keep or 0)
        return 1

    def check(self, training: LocalTraining | None = None) -> Aggregation:
        """Return self, or raise `ConfigError` that names a field and what to write instead."""
        check_server(self.optimizer)
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise _wrong("clip_norm", self.clip_norm, "a number over 0")
        if not 0 <= self.trim < 0.5:
            raise _wrong("trim", self.trim, "a share from 0 and less than 0.5")
        if self.byzantine < 0:
            raise _wrong("byzantine", self.byzantine, "the number of bad clients, 0 or more")
        if self.keep is not None and self.keep < 1:
            raise _wrong("keep", self.keep, "1 or more")
        if not 0 <= self.staleness_exponent < math.inf:
            raise _wrong("staleness_exponent", self.staleness_exponent, "0 (no discount) or more")
        if training is not None:
            self._check_training(training)
        return self

    def _check_training(self, training: LocalTraining) -> None:
        if self.rule == "fedprox" and not training.proximal > 0:
            raise ConfigError(
                "aggregation.rule: fedprox needs training.proximal over 0; set it, or use fedavg"
            )
        if self.rule == "scaffold" and training.optimizer != "sgd":
            raise ConfigError(
                f"aggregation.rule: scaffold corrects plain gradients, and training.optimizer is "
                f"{training.optimizer!r}; set it to sgd"
            )


def _wrong(name: str, value: float, remedy: str) -> ConfigError:
    return ConfigError(f"aggregation.{name}: {value:g} cannot be; use {remedy}")
