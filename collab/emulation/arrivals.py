"""When requests of an open workload arrive; pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice, takewhile
from random import Random

from collab.emulation.scenario import Arrivals, Bursts, Closed, Poisson, Workload


def arrival_times(load: Workload, chance: Random) -> Iterator[int]:
    """Times in µs from the start, ascending.

    Raises ValueError for a closed workload, whose arrivals follow from the answers.
    """
    if isinstance(load, Closed):
        raise ValueError("a closed workload has no times of its own")
    times = _endless(load, chance)
    if load.requests is not None:
        times = islice(times, load.requests)
    if load.duration_s is not None:
        end_us = load.duration_s * 1e6
        times = takewhile(lambda at: at < end_us, times)
    return times


def _endless(load: Poisson | Bursts | Arrivals, chance: Random) -> Iterator[int]:
    if isinstance(load, Poisson):
        at = 0.0
        while True:
            at += chance.expovariate(load.rate) * 1e6
            yield int(at)
    elif isinstance(load, Bursts):
        for number in count():
            yield from [int(number * load.every_s * 1e6)] * load.size
    else:
        yield from (int(at * 1e6) for at in load.at_s)
