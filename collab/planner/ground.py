"""What a search runs on: devices or types of them, how they may follow, and chains out of paths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from collab.core.ids import NodeName
from collab.planner.chains import Chain, Objective, Option, StageChoice, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.options import Arcs, Limits
from collab.planner.refuse import allowed_devices
from collab.planner.subsets import Counts, Order, Space, Step, Sweep, sweep
from collab.planner.tables import Tables, best_threads, tables_for
from collab.planner.types import Type, device_types


@dataclass(frozen=True, eq=False)
class Ground:
    """Devices, tables of their costs, and the order in which they may follow each other."""

    tables: Tables
    types: tuple[Type, ...]
    space: Space
    max_stages: int

    @property
    def costs(self) -> Evaluator:
        """What prices chains."""
        return self.tables.costs

    @property
    def sets(self) -> int:
        """Number of sets of devices, those with as many of each type counted once."""
        return math.prod(len(group) + 1 for group in self.types) if isinstance(self.space, Counts) else 1

    @property
    def elements(self) -> int:
        """Size of what an exact search keeps."""
        return self.sets * len(self.types) * len(self.tables.codecs) * len(self.tables.places)

    def run(self, arcs: Arcs) -> Sweep:
        """Best chains by sets of devices under an objective."""
        return sweep(arcs, self.space, self.max_stages)

    def chain(self, arcs: Arcs, path: Sequence[Step]) -> Chain:
        """The chain of a path."""
        end = self.tables.end
        ends = [end, *(step.device for step in path), end]
        places = [*(step.start for step in path), self.tables.last]
        states = [self._entering(arcs, path), *(step.state for step in path)]
        moves = tuple(
            arcs.move(ends[i], ends[i + 1], place, states[i] if arcs.coupled else None)
            for i, place in enumerate(places)
        )
        return Chain(self.stages(path), moves)

    def stages(self, path: Sequence[Step]) -> tuple[StageChoice, ...]:
        """The stages of a path, with a device of its type for each and the best number of threads."""
        used: Counter[int] = Counter()
        places, stages = self.tables.places, []
        for step in path:
            group = self.types[step.device]
            name = group[used[step.device] % len(group)]
            used[step.device] += 1
            start, stop, threads = places[step.start], places[step.stop], 0
            if self.tables.wants.choose_threads:
                threads = best_threads(self.costs, [name], start, stop)
            stages.append(StageChoice(start, stop, (name,), threads))
        return tuple(stages)

    def _entering(self, arcs: Arcs, path: Sequence[Step]) -> int:
        """State of the input, which no step holds."""
        first = path[0]
        into = arcs.moves[:, self.tables.end, first.device, 0]
        options = arcs.join(into, arcs.stage(first.device)[:, first.state, 0, first.stop])
        return int(np.argmin(options))

    def option(self, arcs: Arcs, path: Sequence[Step]) -> Option:
        """The chain of a path with its costs."""
        chain = self.chain(arcs, path)
        return Option(chain, self.costs.evaluate(chain).costs)

    def within(self, order: Sequence[int]) -> Ground:
        """Only chains over exactly these devices in this order."""
        return Ground(self.tables, self.types, Order(tuple(order)), len(order))


def ground_for(costs: Evaluator, wants: Wants, devices: Sequence[NodeName] | None = None) -> Ground:
    """The ground of a profile and what is wanted; of some devices alone if they are given."""
    names = list(devices) if devices is not None else allowed_devices(costs, wants)
    if wants.assign is not None:
        names = list(dict.fromkeys(name for nodes in wants.assign for name in nodes))
        order = tuple(names.index(nodes[0]) for nodes in wants.assign)
        tables = tables_for(costs, wants, names)
        return Ground(tables, tuple((name,) for name in names), Order(order), len(order))
    apart = [wants.first_on] if wants.first_on is not None else []
    types = device_types(costs, names, apart)
    twins = {group[0]: group[1] for group in types if len(group) > 1}
    tables = tables_for(costs, wants, [group[0] for group in types], twins)
    stages = min(len(names), tables.last, wants.max_stages or len(names))
    return Ground(tables, tuple(types), Counts(tuple(len(group) for group in types)), stages)


def tightest(value: float, objective: Objective) -> Limits:
    """The limits that hold a chain to a value of an objective that is a maximum."""
    return Limits(busy_ms=value) if objective == "throughput" else Limits(memory_bytes=value)


def paths(found: Sweep, count: int) -> Iterator[list[Step]]:
    """Paths of finished chains, best first: one for each set of devices and last device, then other cuts."""
    ranked = np.argsort(found.finals, kind="stable")
    for index in ranked[:count]:
        if (path := found.path(int(index))) is not None:
            yield path
    if len(ranked) >= count:
        return
    for index in ranked[:count]:
        for start in range(1, found.arcs.tables.last):
            if found.ends[index][0] and (path := found.path(int(index), start)) is not None:
                yield path
