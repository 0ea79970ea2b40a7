"""How hard a requester tries, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collab.client.budget import RetryBudget
from collab.core.plan import Plan
from collab.errors import LinkLost, NodeLost, NotLoaded, Overloaded, PeerUnreachable

RETRYABLE: Final = frozenset(e.code for e in (NodeLost, LinkLost, PeerUnreachable, Overloaded, NotLoaded))
"""Codes of faults that another attempt on other nodes may not meet."""

PARK_US: Final = 5_000
"""How often a request that waits for a credit is looked at, if nothing else happens."""

BURST: Final = 100
"""Extra attempts that a full budget holds at least: ten seconds of its floor."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard a requester tries, and what it may have under way.

    Attempts beyond a request's first, hedges included, are paid for from a budget: it holds
    ``budget_burst`` at most and at first, and earns ``budget_ratio`` with each request and
    ``budget_floor_per_s`` with each second.
    """

    max_attempts: int = 3
    """At one request, the first and hedges included."""
    grace_us: int = 250_000
    """How long an answer may still come after a node on its way was lost and no other way is there."""
    patience_us: int = 10_000_000
    """How long a request waits for nodes to come back where neither a plan nor an alternative has all of its
    own: as long as a silent peer may be alive."""
    renew_us: int = 10_000_000
    """A lease is renewed when it ends within this time."""
    max_requests: int = 4096
    hedge: bool = False
    """Whether a second attempt starts, on another way, when an answer takes unusually long."""
    hedge_quantile: float = 0.95
    """Of the latencies of recent requests: what is later is unusual."""
    refuse_hopeless: bool = True
    """Whether a request is refused at once when no answer is to be expected within its deadline."""
    budget_ratio: float = 0.1
    budget_floor_per_s: float = 10.0
    budget_burst: int | None = None
    """None: the plan's credits, since one lost node can take so many attempts with it; `BURST` at least."""

    def budget(self, plan: Plan) -> RetryBudget:
        """What extra attempts of one requester of a plan are paid from."""
        burst = max(BURST, plan.credits) if self.budget_burst is None else self.budget_burst
        return RetryBudget(self.budget_ratio, self.budget_floor_per_s, burst)


@dataclass(slots=True)
class Counters:
    """What a requester dropped, and what it did beyond the first attempts; each only grows."""

    late: int = 0
    """Tokens of requests or attempts that are over; answers to a request that is answered are among them."""
    forged: int = 0
    """Tokens from somebody whom the plan does not place there, or that contradict their attempt."""
    retries: int = 0
    """Attempts started because an earlier one failed."""
    hedged: int = 0
    """Attempts started because an earlier one took long."""
    unpaid: int = 0
    """Attempts that the budget had nothing left for."""
    hopeless: int = 0
    """Requests refused at once because no answer was to be expected in time."""
    waited: int = 0
    """Requests that waited for a credit that had gone with an entry node, or to another requester."""
