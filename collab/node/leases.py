"""Admission credits: a plan's, leased out fairly to its requesters at its entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from collab.core.ids import NodeName
from collab.core.plan import Plan

TRIAL_US: Final = 1_000_000
"""How long a requester that asked for more is believed to need it, and how long its use is remembered."""
_NOBODY: Final[Mapping[NodeName, int]] = {}


@dataclass(frozen=True, slots=True)
class Lease:
    """How many attempts a requester may have in flight, and until when."""

    granted: int
    expires_us: int
    """On the clock of the node that gave it."""


@dataclass(slots=True)
class _Holder:
    """One requester, what it wants and what it has used of that lately."""

    want: int = 0
    granted: int = 0
    expires_us: int = 0
    trial_us: int = 0
    """Until then it is believed to need all that it wants."""
    span_us: int = 0
    peak: int = 0
    """Most that it has used in the span of `TRIAL_US` that began then."""
    before: int = 0
    """The same in the span before."""

    def used(self, count: int, now_us: int) -> None:
        """So many attempts are in flight."""
        spans = (now_us - self.span_us) // TRIAL_US
        if spans:
            self.before, self.peak = (self.peak if spans == 1 else 0), 0
            self.span_us += spans * TRIAL_US
        self.peak = max(self.peak, count)

    def demand(self, now_us: int) -> int:
        """What it needs: all that it wants when it has just asked for that, else twice what it uses."""
        return self.want if now_us < self.trial_us else min(self.want, 2 * max(self.peak, self.before) + 1)


class Leases:
    """The leases of one plan's credits at one entry node; what has expired counts no more.

    Credits are shared out by max-min fairness over what requesters need, what is left then
    over what they want.  A share that grows is told when it is asked for.  One that shrinks
    holds at once: attempts beyond it finish, and meanwhile all together may have up to
    twice the credits in flight, which is what nodes keep room for.
    """

    __slots__ = ("_credits", "_held", "_lease_us")

    def __init__(self, credits: int, lease_us: int) -> None:
        self._credits = credits
        self._lease_us = lease_us
        self._held: dict[NodeName, _Holder] = {}
        """In the order in which they came."""

    def ask(
        self,
        requester: NodeName,
        want: int,
        now_us: int,
        in_flight: Mapping[NodeName, int] = _NOBODY,
        *,
        short: bool = False,
    ) -> Lease:
        """Make ``want`` the requester's new total, as far as that is fair.

        ``in_flight`` has everybody's attempts; ``short`` says that the requester had too few credits.
        """
        self._held = {name: held for name, held in self._held.items() if held.expires_us > now_us}
        expires_us = now_us + self._lease_us
        if want <= 0:
            self.release(requester)
            return Lease(0, expires_us)
        mine = self._held.get(requester)
        if mine is None:
            mine = self._held[requester] = _Holder(span_us=now_us)
            short = True
        mine.want, mine.expires_us = min(want, self._credits), expires_us
        if short:
            mine.trial_us = now_us + TRIAL_US
        for name, held in self._held.items():
            held.used(in_flight.get(name, 0), now_us)
        shares = self._shares(now_us)
        room = 2 * self._credits
        for name in self._held.keys() | in_flight.keys():
            if name != requester:
                other = self._held.get(name, _Holder())
                other.granted = min(other.granted, shares.get(name, 0))
                room -= max(other.granted, in_flight.get(name, 0))
        mine.granted = max(0, min(shares[requester], room))
        return Lease(mine.granted, expires_us)

    def used(self, requester: NodeName, count: int, now_us: int) -> None:
        """A requester has so many attempts in flight."""
        held = self._held.get(requester)
        if held is not None:
            held.used(count, now_us)

    def release(self, requester: NodeName) -> None:
        """Give a requester's credits back."""
        self._held.pop(requester, None)

    def granted(self, requester: NodeName, now_us: int) -> int:
        """Credits that a requester holds."""
        held = self._held.get(requester)
        return held.granted if held is not None and held.expires_us > now_us else 0

    def total(self, now_us: int) -> tuple[int, int]:
        """All credits, and those that are leased."""
        return self._credits, sum(self.granted(name, now_us) for name in self._held)

    def _shares(self, now_us: int) -> dict[NodeName, int]:
        shares = fair({name: held.demand(now_us) for name, held in self._held.items()}, self._credits)
        left = self._credits - sum(shares.values())
        more = fair({name: held.want - shares[name] for name, held in self._held.items()}, left)
        return {name: shares[name] + more[name] for name in shares}


def fair(demands: Mapping[NodeName, int], credits: int) -> dict[NodeName, int]:
    """Share credits out so that nobody's share can grow but at the cost of one that is not larger.

    Max-min fairness (Bertsekas and Gallager, Data Networks, 6.5.2) in whole numbers: what
    does not divide goes to those who stand first.
    """
    shares = dict.fromkeys(demands, 0)
    left = max(0, credits)
    hungry = [name for name in demands if demands[name] > 0]
    while left and hungry:
        each = left // len(hungry)
        if not each:
            for name in hungry[:left]:
                shares[name] += 1
            break
        for name in hungry:
            more = min(each, demands[name] - shares[name])
            shares[name] += more
            left -= more
        hungry = [name for name in hungry if shares[name] < demands[name]]
    return shares


def share(plan: Plan, nodes: tuple[NodeName, ...], node: NodeName) -> int:
    """The credits that one of the entry's nodes leases out; replicas split them, each has one at least."""
    at = nodes.index(node)
    return max(1, plan.credits * (at + 1) // len(nodes) - plan.credits * at // len(nodes))
