"""Who holds which examples: one data set divided among clients as federated data is.

Every function is a pure one of its arguments and the seed.  An example goes to exactly one client,
and every client holds at least ``at_least``; what cannot be is refused before anything is drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from collab.errors import ConfigError

MAX_CLIENTS: Final = 1_000_000
KINDS: Final = ("iid", "dirichlet", "shards", "lognormal", "power", "natural")
_PARAMETERS: Final[Mapping[str, float]] = {"dirichlet": 0.5, "shards": 2, "lognormal": 1.0, "power": 1.5}
"""What a kind takes when the rule names no number."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Partition:
    """Rows of the data set by client."""

    rows: tuple[Rows, ...]
    """Ascending, int64 [n] for each client."""
    owners: tuple[str, ...]
    """The clients' names, in the same order."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Examples of each client, int64 [clients]."""
        return np.array([len(part) for part in self.rows], np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a partition came to."""

    clients: int
    samples: int
    smallest: int
    median: float
    largest: int
    classes_held: float
    """Classes that a client has examples of, the mean over clients."""
    skew: float
    """Total variation distance of a client's classes from those of all, the mean over clients: 0 when all
    are alike, near 1 when each has a class of its own."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to divide, such as ``dirichlet:0.5``."""

    kind: str
    value: float | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value:g}"


def parse_rule(text: str) -> Rule:
    """Read a rule: ``iid`` or ``natural``, or one with a number.

    ``dirichlet:ALPHA``, ``shards:EACH``, ``lognormal:SIGMA`` and ``power:EXPONENT``; see the functions below.

    Raises:
        ConfigError: another kind, or a number that it cannot have.
    """
    kind, colon, number = text.partition(":")
    if kind not in KINDS:
        raise ConfigError(f"partition {text!r}: no such kind; use one of {', '.join(KINDS)}")
    if kind not in _PARAMETERS:
        if colon:
            raise ConfigError(f"partition {text!r}: {kind} takes no number; write {kind}")
        return Rule(kind)
    try:
        value = float(number) if colon else _PARAMETERS[kind]
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ConfigError(f"partition {text!r}: give a number above 0, such as {kind}:{_PARAMETERS[kind]:g}")
    if kind == "shards" and value != int(value):
        raise ConfigError(f"partition {text!r}: a client has a whole number of shards, such as shards:2")
    return Rule(kind, value)


def partition(
    rule: Rule,
    labels: ArrayLike,
    clients: int,
    seed: int,
    *,
    at_least: int = 1,
    owners: Sequence[object] | None = None,
) -> Partition:
    """Divide a data set by a rule.

    Args:
        rule: How.
        labels: The class of each example, int [n].
        clients: How many; with ``natural`` at most so many of the owners, drawn by the seed; 0 takes all.
        seed: Of every draw.
        at_least: Examples of every client.
        owners: Who made each example; ``natural`` needs it and the others do not look at it.

    Raises:
        ConfigError: it cannot be done with this data.
    """
    classes = np.asarray(labels).astype(np.int64, copy=False)
    if rule.kind == "natural":
        if owners is None:
            raise ConfigError("partition 'natural': the data says of no example who made it; name its column")
        if len(owners) != len(classes):
            raise ConfigError(f"partition 'natural': {len(owners)} owners of {len(classes)} examples")
        return natural(owners, clients, seed, at_least)
    _check(len(classes), clients, at_least)
    value = rule.value if rule.value is not None else _PARAMETERS.get(rule.kind, 0.0)
    if rule.kind == "iid":
        return iid(len(classes), clients, seed)
    if rule.kind == "dirichlet":
        return dirichlet(classes, clients, value, seed, at_least)
    if rule.kind == "shards":
        return shards(classes, clients, int(value), seed)
    law: Law = "lognormal" if rule.kind == "lognormal" else "power"
    return by_size(len(classes), clients, law, value, seed, at_least)


def iid(samples: int, clients: int, seed: int) -> Partition:
    """Shuffled and cut into parts whose sizes differ by at most one."""
    _check(samples, clients, 1)
    order = np.random.default_rng(seed).permutation(samples)
    return _named(np.array_split(order, clients))


def dirichlet(
    labels: NDArray[np.int64], clients: int, alpha: float, seed: int, at_least: int = 1
) -> Partition:
    """Each class is divided by shares drawn from Dirichlet(alpha) (Yurochkin et al., ICML 2019).

    Small ``alpha``: few clients hold most of a class.  A client that got fewer than ``at_least``
    takes examples from whoever has most at that moment.
    """
    _check(len(labels), clients, at_least)
    rng = np.random.default_rng(seed)
    parts: list[list[Rows]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        # Tiny alphas underflow to shares of 0 for all; one client then has all of the class.
        shares = rng.dirichlet(np.full(clients, alpha))
        if not np.isfinite(shares).all():
            shares = np.eye(clients)[rng.integers(clients)]
        ends = np.floor(np.cumsum(shares)[:-1] * len(rows) + 0.5).astype(np.int64)
        for client, part in enumerate(np.split(rows, np.clip(ends, 0, len(rows)))):
            if len(part):
                parts[client].append(part)
    return _named(
        _topped_up([np.concatenate(p) if p else np.empty(0, np.int64) for p in parts], at_least, rng)
    )


def shards(labels: NDArray[np.int64], clients: int, each: int, seed: int) -> Partition:
    """Sorted by class, cut into equal shards, ``each`` of them to a client (McMahan et al., AISTATS 2017)."""
    count = clients * each
    if len(labels) < count:
        raise ConfigError(
            f"partition 'shards:{each}': {clients} clients need {count} shards and there are {len(labels)} "
            f"examples; take at most {len(labels) // each} clients or fewer shards"
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    pieces = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], count)
    dealt = rng.permutation(count).reshape(clients, each)
    return _named([np.concatenate([pieces[i] for i in row]) for row in dealt])


Law = Literal["lognormal", "power"]


def by_size(samples: int, clients: int, law: Law, spread: float, seed: int, at_least: int = 1) -> Partition:
    """IID examples in unequal amounts.

    Sizes follow a log-normal law (``spread`` is sigma) or a power law (Pareto's exponent).
    """
    _check(samples, clients, at_least)
    rng = np.random.default_rng(seed)
    if law == "lognormal":
        logs = rng.normal(0.0, spread, clients)
        weights = np.exp(logs - logs.max())  # the largest is 1: nothing overflows
    else:
        weights = rng.random(clients) ** (1.0 / spread)
        weights = weights.min() / weights if weights.min() > 0 else np.ones(clients)
    free = samples - clients * at_least
    ends = np.cumsum(weights / weights.sum()) * free
    bounds = np.floor(ends[:-1] + 0.5).astype(np.int64) + at_least * np.arange(1, clients)
    return _named(np.split(rng.permutation(samples), bounds))


def natural(owners: Sequence[object], clients: int, seed: int, at_least: int = 1) -> Partition:
    """Each writer, speaker or device is a client.

    Owners with fewer than ``at_least`` examples are left out; of the others so many as asked for are drawn.
    """
    names, index = np.unique(np.asarray([str(owner) for owner in owners]), return_inverse=True)
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index, minlength=len(names))
    groups = np.split(order, np.cumsum(counts)[:-1])
    fit = np.flatnonzero(counts >= at_least)
    if len(fit) == 0 or len(fit) < clients:
        raise ConfigError(
            f"partition 'natural': {clients or 'some'} clients with at least {at_least} examples are asked "
            f"for and {len(fit)} of {len(names)} owners have as many; ask for at most {len(fit)}"
        )
    if clients:
        fit = np.sort(np.random.default_rng(seed).permutation(fit)[:clients])
    return Partition(tuple(_sorted(groups[i]) for i in fit), tuple(str(names[i]) for i in fit))


def class_table(part: Partition, labels: ArrayLike) -> NDArray[np.int64]:
    """Examples by client and class, int64 [clients, classes]."""
    classes, index = np.unique(np.asarray(labels), return_inverse=True)
    return np.array([np.bincount(index[rows], minlength=len(classes)) for rows in part.rows], np.int64)


def outcome(part: Partition, labels: ArrayLike) -> Outcome:
    """What came of it in a few figures."""
    table = class_table(part, labels)
    sizes = table.sum(axis=1)
    everyone = table.sum(axis=0) / sizes.sum()
    distance = np.abs(table / sizes[:, None] - everyone).sum(axis=1) / 2
    return Outcome(
        clients=len(sizes),
        samples=int(sizes.sum()),
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
        classes_held=float((table > 0).sum(axis=1).mean()),
        skew=float(distance.mean()),
    )


def _check(samples: int, clients: int, at_least: int) -> None:
    """Refuse what no rule can do."""
    if not 1 <= clients <= MAX_CLIENTS:
        raise ConfigError(f"clients {clients}: give 1 to {MAX_CLIENTS}")
    if at_least < 1:
        raise ConfigError(f"at_least {at_least}: every client has 1 example or more")
    if samples < clients * at_least:
        raise ConfigError(
            f"clients {clients}: with at least {at_least} examples each they need {clients * at_least} and "
            f"there are {samples}; take at most {samples // at_least} clients"
        )


def _topped_up(parts: list[Rows], at_least: int, rng: np.random.Generator) -> list[Rows]:
    """Clients with too few take from whoever has most; which examples is drawn."""
    poor = [client for client, part in enumerate(parts) if len(part) < at_least]
    if not poor:
        return parts
    given = {client: list(rng.permutation(part)) for client, part in enumerate(parts)}
    richest = [(-len(part), client) for client, part in enumerate(parts)]
    heapq.heapify(richest)
    for client in poor:
        while len(given[client]) < at_least:
            size, giver = heapq.heappop(richest)
            if -size != len(given[giver]):  # it has taken since; its present size goes in
                heapq.heappush(richest, (-len(given[giver]), giver))
                continue
            given[client].append(given[giver].pop())
            heapq.heappush(richest, (size + 1, giver))
    return [np.array(given[client], np.int64) for client in range(len(parts))]


def _named(parts: Sequence[NDArray[np.int64]]) -> Partition:
    """Numbered clients, with as many digits each as the last one needs."""
    width = len(str(len(parts) - 1))
    return Partition(
        tuple(_sorted(part) for part in parts), tuple(f"client-{i:0{width}d}" for i in range(len(parts)))
    )


def _sorted(rows: NDArray[np.int64]) -> Rows:
    return np.sort(rows).astype(np.int64, copy=False)
