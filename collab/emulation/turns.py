"""Who asks when: a workload, dealt out to the processes that ask.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from collab.emulation.arrivals import arrival_times
from collab.emulation.base import stream
from collab.emulation.scenario import Closed, Poisson, Workload


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """What one process asks: at given times, or one request after another in some slots."""

    slots: int = 0
    """Of a closed workload; 0 where ``at`` says when."""
    first: int = 0
    step: int = 1
    """Requests are numbered ``first``, ``first + step`` and so on."""
    requests: int | None = None
    """Numbers are below it."""
    duration_s: float | None = None
    think_ms: float = 0.0
    at: tuple[tuple[int, int], ...] = ()
    """Number and µs from the begin, ascending in time."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to ask."""
        return not self.slots and not self.at

    @property
    def longest_pause_s(self) -> float:
        """How long nothing may be asked, from the begin on."""
        times = [0, *(at_us for _, at_us in self.at)]
        gaps = (later - before for before, later in pairwise(times))
        return max(self.think_ms / 1e3, *(gap / 1e6 for gap in gaps), 0.0)


def deal(load: Workload, askers: int, seed: int) -> tuple[Turns, ...]:
    """Turns of each process, in the order of the scenario's requesters.

    The same seed deals arrivals as the simulator does.  Of a closed workload each process
    has slots of its own; with fewer slots than processes the last ones ask nothing.
    """
    if isinstance(load, Closed):
        active = min(askers, load.concurrency)
        return tuple(
            Turns(
                slots=load.concurrency // active + (i < load.concurrency % active),
                first=i,
                step=active,
                requests=load.requests,
                duration_s=load.duration_s,
                think_ms=load.think_ms,
            )
            if i < active
            else Turns()
            for i in range(askers)
        )
    who, dealt = stream(seed, "who"), [list[tuple[int, int]]() for _ in range(askers)]
    for number, at_us in enumerate(arrival_times(load, stream(seed, "arrivals"))):
        # Independent arrivals are independent at each client, too.
        asker = who.choice(range(askers)) if isinstance(load, Poisson) else number % askers
        dealt[asker].append((number, at_us))
    return tuple(Turns(at=tuple(at)) for at in dealt)


def expected_requests(load: Workload, turns: Sequence[Turns]) -> int | None:
    """How many requests one run has; None where answers decide."""
    return load.requests if isinstance(load, Closed) else sum(len(one.at) for one in turns)
