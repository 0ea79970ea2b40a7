"""What rounds have cost of a privacy budget, by the Rényi accountant of ``dp-accounting``."""

from __future__ import annotations

import importlib
import math
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from collab.errors import ConfigError, Refused

MAX_ROUNDS: Final = 1_000_000
_MOST_NOISE: Final = 1000.0


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one aggregate of clipped updates is made noisy."""

    noise_multiplier: Annotated[float, Meta(ge=0, le=1e6)]
    """Standard deviation of the noise over the clipping bound; 0 protects nothing."""
    place: Literal["central", "local"] = "central"
    """``central``: the server puts it on the sum, once.  ``local``: each client on its own update."""
    sampling: Literal["none", "poisson", "fixed"] = "none"
    """How the cohort was drawn.  ``poisson``: each client by itself with the same probability;
    ``fixed``: that many of all.  Only with chances that nobody but the server sees; else ``none``."""
    cohort: Annotated[int, Meta(ge=1)] = 1
    """Clients that are drawn, the expected number under ``poisson``."""
    population: Annotated[int, Meta(ge=1)] = 1
    """Clients that could have been drawn."""

    def __post_init__(self) -> None:
        if self.cohort > self.population and self.sampling != "none":
            raise ValueError(f"cohort {self.cohort} is more than population {self.population}")
        if self.place == "local" and self.sampling != "none":
            raise ValueError("local noise gains nothing from sampling: the server sees who sent what")


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit on what may be learned about any one client, and what of it is spent.

    Ask `allows` before a round and store what `charged` returns before its model is
    released, so that a crash can only make the account say too much.
    """

    epsilon: Annotated[float, Meta(gt=0)]
    """The limit; `math.inf` counts without one."""
    delta: Annotated[float, Meta(gt=0, lt=1)]
    """Chance that epsilon does not hold; less than one over the number of clients."""
    releases: tuple[tuple[Release, int], ...] = ()
    """What was released, and how many times in a row."""

    @property
    def rounds(self) -> int:
        """Releases so far."""
        return sum(count for _, count in self.releases)

    def spent(self) -> float:
        """Epsilon at delta of all releases so far; infinite if one had no noise."""
        return _epsilon(self.releases, self.delta)

    def charged(self, release: Release) -> Budget:
        """The budget after one more release.  Raises `Refused` if that is over the limit."""
        after = self._after(release)
        cost = after.spent()
        if not cost <= self.epsilon:
            raise Refused(
                f"privacy budget: round {self.rounds + 1} would cost epsilon {cost:.4g} in all at delta "
                f"{self.delta:g}, the limit is {self.epsilon:g}; training ends here with {self.spent():.4g} "
                "spent; more noise, or fewer clients of more, buys more rounds"
            )
        return after

    def allows(self, release: Release) -> bool:
        """Whether one more release is within the limit."""
        return self._after(release).spent() <= self.epsilon

    def _after(self, release: Release) -> Budget:
        if self.releases and self.releases[-1][0] == release:
            releases = (*self.releases[:-1], (release, self.releases[-1][1] + 1))
        else:
            releases = (*self.releases, (release, 1))
        if sum(count for _, count in releases) > MAX_ROUNDS:
            raise ConfigError(f"privacy budget: more than {MAX_ROUNDS} rounds are not counted")
        return msgspec.structs.replace(self, releases=releases)


def noise_for(budget: Budget, release: Release, rounds: int) -> float:
    """The least noise multiplier, to a thousandth, that affords so many rounds; raises `ConfigError`."""

    def cost(multiplier: float) -> float:
        planned = msgspec.structs.replace(release, noise_multiplier=multiplier)
        return _epsilon((*budget.releases, (planned, rounds)), budget.delta)

    low, high = 0.0, 1.0
    while cost(high) > budget.epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise ConfigError(
                f"privacy: no noise up to {_MOST_NOISE:g} times the bound makes {rounds} rounds cost "
                f"epsilon {budget.epsilon:g} at delta {budget.delta:g}; plan fewer rounds"
            )
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > budget.epsilon else (low, middle)
    return high


def _epsilon(releases: tuple[tuple[Release, int], ...], delta: float) -> float:
    if not releases:
        return 0.0
    if any(release.noise_multiplier == 0 for release, _ in releases):
        return math.inf
    kinds = {release.sampling for release, _ in releases} - {"none"}
    if len(kinds) > 1:
        raise ConfigError(
            "privacy: poisson and fixed sampling in one budget protect different things; use one"
        )
    dp = accountant()
    # A fixed cohort says how many there are, so a neighbour has another client in the place of one.
    replaced = "fixed" in kinds
    relation = dp.NeighboringRelation.REPLACE_ONE if replaced else dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    account = dp.rdp.RdpAccountant(neighboring_relation=relation)
    for release, count in releases:
        account.compose(_event(dp, release, replaced), count)
    return float(account.get_epsilon(delta))


def _event(dp: Any, release: Release, replaced: bool) -> Any:
    # One client in another's place moves a sum by twice the bound, and so does one update that
    # is another one, which is what local noise hides.
    twice = replaced or release.place == "local"
    noise = dp.GaussianDpEvent(release.noise_multiplier / (2 if twice else 1))
    if release.sampling == "poisson":
        return dp.PoissonSampledDpEvent(release.cohort / release.population, noise)
    if release.sampling == "fixed":
        return dp.SampledWithoutReplacementDpEvent(release.population, release.cohort, noise)
    return noise


def accountant() -> Any:
    """The library; raises `ConfigError` that names the extra when it is missing."""
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise ConfigError(
            "privacy: counting a budget needs dp-accounting; install collab[privacy]"
        ) from error
