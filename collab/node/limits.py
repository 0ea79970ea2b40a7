"""Bounds of a session, and the count of what it dropped or refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Hard bounds on everything that a peer can make a node remember."""

    attempts: int = 4096
    """Attempts in flight on this node, over all plans and requesters."""
    attempts_per_requester: int = 1024
    """The same of one requester."""
    rooms_per_credit: int = 2
    """Attempts in flight of one plan, in multiples of its credits."""
    tombstones: int = 2048
    """Attempts that are over here and remembered, so that duplicates do not revive them."""
    routes: int = 256
    """Routes of one plan whose paths are kept worked out."""
    plans: int = 256
    """Names of plans that are remembered, and plans loaded, all epochs counted."""
    budget_us: int = 3_600_000_000
    """An attempt is forgotten after this time, whatever its deadline."""
    linger_us: int = 1_000_000
    """An attempt is remembered at least this long past its deadline."""
    reservation_us: int = 60_000_000
    """A deployment keeps a plan's name reserved this long after its last step."""
    lease_us: int = 30_000_000
    """A lease of credits lives this long after it was last asked for."""


@dataclass(slots=True)
class Counters:
    """What was dropped, and what was refused and why; each only grows."""

    duplicates: int = 0
    """A second token of one edge, cancel of one stage or failure of one node."""
    late: int = 0
    """Tokens and results for a stage that is settled, or an attempt that is over."""
    cancelled: int = 0
    """Joins and computations that were given up because of a cancel or a failure."""
    expired: int = 0
    """Stages settled because their deadline had passed."""
    forged: int = 0
    """Tokens from somebody whom the plan does not place there, or that contradict their attempt."""
    malformed: int = 0
    """Tokens with an edge, route or fault that the plan does not have."""
    not_loaded: int = 0
    """Tokens of plans or epochs that are not loaded here."""
    retired: int = 0
    """New attempts refused because this node or the epoch is draining."""
    no_lease: int = 0
    """New attempts refused because their requester has no credit left."""
    no_room: int = 0
    """Attempts refused because a bound in `SessionLimits` or of the plan was reached."""
    hopeless: int = 0
    """Work refused because it could not have been done before its deadline."""
    undeliverable: int = 0
    """Tokens that no link would take."""
    evicted: int = 0
    """Tombstones that made room for newer ones before their time."""
