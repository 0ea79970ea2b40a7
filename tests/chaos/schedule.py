"""Which faults happen when: the same seed gives the same schedule, and every stage keeps a sound replica."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from random import Random
from typing import Final

CLIENT: Final = "client"
"""The requester's host; it is at the end of links, and never harmed by itself."""
BROKER: Final = "broker"
"""The same of whoever carries sessions between all others."""
GAP_S: Final = 1.2
"""Between two faults, on average."""
FIRST_S: Final = 1.0
LAST_S: Final = 2.0
"""Before the end no fault begins any more."""
RESTART_S: Final = 6.0
"""What a process takes to start and to be linked again."""
SETTLE_S: Final = 4.0
"""After a fault, before its nodes count as sound: links are dialled anew, and standing is regained."""
TRIES: Final = 8
STAGES_AT_A_TIME: Final = 2
"""Stages of which a replica is harmed: a request has three attempts, one more than that."""


class Kind(str, Enum):
    """What can go wrong."""

    KILL = "kill"
    """SIGKILL, and started again after a while."""
    FREEZE = "freeze"
    """SIGSTOP, and SIGCONT after a while."""
    RESTART = "restart"
    """SIGTERM, which drains, and started again."""
    CUT = "cut"
    """No packet passes in either direction."""
    ONE_WAY = "one-way cut"
    """No packet passes from the target to the other end."""
    LOSS = "loss"
    CORRUPT = "corrupt"
    """One bit of a packet in a thousand or so, under a checksum that fits."""
    DELAY = "delay"
    REORDER = "reorder"
    DUPLICATE = "duplicate"


_NODES: Final = frozenset((Kind.KILL, Kind.FREEZE, Kind.RESTART))
_MILD: Final = frozenset((Kind.DELAY, Kind.REORDER, Kind.DUPLICATE))
"""Links over streams bear these: nobody is taken for lost."""

_SPANS: Final = {
    Kind.KILL: (0.0, 2.0),
    Kind.FREEZE: (1.0, 6.0),
    Kind.RESTART: (0.0, 1.0),
    Kind.CUT: (1.0, 6.0),
    Kind.ONE_WAY: (1.0, 6.0),
    Kind.LOSS: (2.0, 5.0),
    Kind.CORRUPT: (2.0, 5.0),
    Kind.DELAY: (2.0, 6.0),
    Kind.REORDER: (2.0, 6.0),
    Kind.DUPLICATE: (2.0, 6.0),
}
"""Shortest and longest, in s."""
_AMOUNTS: Final = {
    Kind.LOSS: (0.02, 0.2),
    Kind.CORRUPT: (0.001, 0.01),
    Kind.DELAY: (5.0, 60.0),
    Kind.REORDER: (0.05, 0.3),
    Kind.DUPLICATE: (0.05, 0.3),
}
"""Share of packets; of a delay, ms."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, from a time after the start on."""

    at_s: float
    kind: Kind
    target: str
    duration_s: float
    other: str = ""
    """The other end, of a fault of a link."""
    amount: float = 0.0

    @property
    def ends(self) -> frozenset[str]:
        """Whom it concerns."""
        return frozenset((self.target, self.other) if self.other else (self.target,))

    @property
    def harmed(self) -> frozenset[str]:
        """Nodes that cannot be relied on meanwhile."""
        return frozenset() if self.kind in _MILD else self.ends - {CLIENT, BROKER}

    @property
    def sound_again_s(self) -> float:
        """When its nodes can be relied on again."""
        more_s = SETTLE_S
        if self.kind in (Kind.KILL, Kind.RESTART):
            more_s += RESTART_S
        elif self.kind in (Kind.CUT, Kind.ONE_WAY):
            more_s += self.duration_s  # the next retransmission comes after as long again (RFC 6298 5.5)
        return self.at_s + self.duration_s + more_s

    def __str__(self) -> str:
        arrow = " -> " if self.kind is Kind.ONE_WAY else " - "
        where = self.target + (arrow + self.other if self.other else "")
        amount = f", {self.amount:.3g}" if self.amount else ""
        return f"{self.at_s:7.2f} s  {self.kind.value} {where} for {self.duration_s:.2f} s{amount}"


Links = Sequence[tuple[str, str]]


def direct_links(stages: Sequence[Sequence[str]]) -> Links:
    """Pairs between which a request's tokens travel, and those of the client with every node."""
    found = [(CLIENT, node) for stage in stages for node in stage]
    for sooner, later in pairwise(stages):
        found += [(one, other) for one in sooner for other in later]
    return found


def broker_links(stages: Sequence[Sequence[str]]) -> Links:
    """Pairs where sessions run over a broker; without the client's, on which everything depends."""
    return [(BROKER, node) for stage in stages for node in stage]


def schedule(
    seed: int, length_s: float, stages: Sequence[Sequence[str]], links: Links = ()
) -> tuple[Fault, ...]:
    """Faults of every kind, in the order of their times; ``stages`` are the replicas of each.

    Links that can fail are `direct_links`, unless others are given.
    """
    links = links or direct_links(stages)
    chance = Random(f"chaos {seed}")
    made: list[Fault] = []
    bag: list[Kind] = []
    at_s = FIRST_S
    while at_s < length_s - LAST_S:
        if not bag:
            bag = list(Kind)
            chance.shuffle(bag)
        going = [fault for fault in made if fault.sound_again_s > at_s]
        found = _bearable(chance, at_s, bag, going, stages, links)
        if found is not None:
            made.append(found)
            bag.remove(found.kind)
        at_s += 0.2 + chance.expovariate(1 / (GAP_S - 0.2))
    return tuple(made)


def _bearable(
    chance: Random,
    at_s: float,
    bag: Sequence[Kind],
    going: Sequence[Fault],
    stages: Sequence[Sequence[str]],
    links: Links,
) -> Fault | None:
    """A fault of the first kind for which some place bears one now."""
    for kind in bag:
        for _ in range(TRIES):
            fault = _draw(chance, at_s, kind, stages, links)
            if is_bearable(fault, going, stages):
                return fault
    return None


def _draw(chance: Random, at_s: float, kind: Kind, stages: Sequence[Sequence[str]], links: Links) -> Fault:
    duration_s = round(chance.uniform(*_SPANS[kind]), 2)
    if kind in _NODES:
        return Fault(round(at_s, 2), kind, chance.choice([n for s in stages for n in s]), duration_s)
    ends = list(chance.choice(links))
    chance.shuffle(ends)
    amount = float(f"{chance.uniform(*_AMOUNTS[kind]):.3g}") if kind in _AMOUNTS else 0.0
    return Fault(round(at_s, 2), kind, ends[0], duration_s, ends[1], amount)


def is_bearable(fault: Fault, before: Iterable[Fault], stages: Sequence[Sequence[str]]) -> bool:
    """Whether a fault beside earlier ones leaves every stage a replica that none of them harms."""
    others = [other for other in before if other.sound_again_s > fault.at_s]
    if any(fault.other and fault.ends == other.ends for other in others):
        return False
    harmed = frozenset[str]().union(*(other.harmed for other in others))
    if harmed & fault.harmed:
        return False
    harmed |= fault.harmed
    touched = sum(bool(harmed & set(stage)) for stage in stages)
    return touched <= STAGES_AT_A_TIME and all(set(stage) - harmed for stage in stages)
