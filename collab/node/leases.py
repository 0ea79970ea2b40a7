"""Admission credits: a plan's, leased out per requester at its entry."""

from __future__ import annotations

from dataclasses import dataclass

from collab.core.ids import NodeName
from collab.core.plan import Plan


@dataclass(frozen=True, slots=True)
class Lease:
    """How many attempts a requester may have in flight, and until when."""

    granted: int
    expires_us: int
    """On the clock of the node that gave it."""


class Leases:
    """The leases of one plan's credits at one entry node; what has expired counts no more."""

    __slots__ = ("_credits", "_held", "_lease_us")

    def __init__(self, credits: int, lease_us: int) -> None:
        self._credits = credits
        self._lease_us = lease_us
        self._held: dict[NodeName, Lease] = {}

    def ask(self, requester: NodeName, want: int, now_us: int) -> Lease:
        """Make ``want`` the requester's new total, as far as credits are free."""
        self._held = {name: lease for name, lease in self._held.items() if lease.expires_us > now_us}
        taken = sum(lease.granted for name, lease in self._held.items() if name != requester)
        granted = max(0, min(want, self._credits - taken))
        lease = Lease(granted, now_us + self._lease_us)
        if granted:
            self._held[requester] = lease
        else:
            self._held.pop(requester, None)
        return lease

    def release(self, requester: NodeName) -> None:
        """Give a requester's credits back."""
        self._held.pop(requester, None)

    def granted(self, requester: NodeName, now_us: int) -> int:
        """Credits that a requester holds."""
        lease = self._held.get(requester)
        return lease.granted if lease is not None and lease.expires_us > now_us else 0


def share(plan: Plan, nodes: tuple[NodeName, ...], node: NodeName) -> int:
    """The credits that one of the entry's nodes leases out; replicas split them, each has one at least."""
    at = nodes.index(node)
    return max(1, plan.credits * (at + 1) // len(nodes) - plan.credits * at // len(nodes))
