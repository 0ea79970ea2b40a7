"""Plans for when nodes of a plan are lost: one chain for each, on what the others have left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from collab.core.ids import NodeName
from collab.core.profile import Profile
from collab.errors import PlanError
from collab.planner.chains import Chain, Option, Solution, StageChoice, Wants
from collab.planner.evaluate import Evaluator

Solve = Callable[[Profile, Wants, int], Solution]

CLOSE: Final = 0.10
"""How much worse than the best an alternative may be, as a share, when less must be sent for it."""
MOST_DEVICES: Final = 10
"""Of more devices, only chains like the primary and whole models are compared: solving takes long."""
_RUNNERS_UP: Final = 4

Held = set[tuple[NodeName, int, int]]
"""Ranges of operators that nodes have on their disks already."""


@dataclass(frozen=True)
class Standby:
    """A chain that stands in where nodes are lost."""

    without: tuple[NodeName, ...]
    """Nodes of the primary that it is for; it uses none of them."""
    option: Option
    offline: bool = False
    """Whether it is to answer on its one node when that has lost all others."""

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        """The nodes that it uses."""
        return used(self.option.chain)


@dataclass(frozen=True)
class Standbys:
    """What stands in for a plan, and for which nodes nothing does."""

    chosen: tuple[Standby, ...]
    """By cost, the cheapest first; those for a node alone last."""
    missing: dict[NodeName, str]
    """Why there is none, by the node that would be lost."""


def used(chain: Chain) -> tuple[NodeName, ...]:
    """The nodes of a chain, each once."""
    return tuple(dict.fromkeys(name for stage in chain.stages for name in stage.nodes))


def needed(chain: Chain) -> tuple[NodeName, ...]:
    """Nodes that a chain cannot do without: some stage has no other replica."""
    return tuple(n for n in used(chain) if any(stage.nodes == (n,) for stage in chain.stages))


def standbys(
    profile: Profile, wants: Wants, primary: Chain, solve: Solve, offline: Sequence[NodeName] = ()
) -> Standbys:
    """For each node that a chain needs the best chain without it, and whole models for nodes alone.

    Objective and constraints are those of ``wants``, but for cuts and nodes given by hand.
    New ones have neither replicas nor nodes with several ranges, whose search takes long.
    Among chains within `CLOSE` of the best the one is taken of which nodes have most on their
    disks, for the primary or another alternative, whatever they take of memory beside those.
    """
    search = _Search(profile, replace(wants, at=None, assign=None), primary, solve)
    missing: dict[NodeName, str] = {}
    for lost in needed(primary):
        try:
            search.cover(lost)
        except PlanError as error:
            missing[lost] = str(error)
    for name in offline:
        if used(primary) == (name,):
            missing[name] = f"the plan is on {name!r} alone already"
            continue
        try:
            search.alone(name)
        except PlanError as error:
            missing[name] = f"alone: {error}"
    objective = wants.objective
    search.found.sort(key=lambda s: (s.offline, s.option.costs.of(objective), s.option.costs.latency_ms))
    return Standbys(tuple(search.found), missing)


def _instead(stage: StageChoice, lost: NodeName, name: NodeName) -> StageChoice:
    """The stage with another node in the place of a lost one; how many threads that has is its own."""
    if lost not in stage.nodes:
        return stage
    nodes = tuple(dict.fromkeys(name if n == lost else n for n in stage.nodes))
    return replace(stage, nodes=nodes, threads=0)


class _Search:
    """Chains chosen so far, and what they leave of the devices."""

    def __init__(self, profile: Profile, wants: Wants, primary: Chain, solve: Solve) -> None:
        self.found: list[Standby] = []
        self._wants = wants
        self._primary = primary
        self._solve = solve
        self._full = Evaluator(profile)
        self._held: Held = set()
        self._taken: dict[NodeName, int] = {}
        self._hold(primary)

    def cover(self, lost: NodeName) -> None:
        """Have a chain without a node; raises `PlanError` if there is none."""
        wants = replace(self._wants, forbidden=self._wants.forbidden | {lost})
        if wants.first_on == lost:
            raise PlanError(f"first_on: the first stage must be on {lost!r}")
        left = Evaluator(self._left())
        options = [o for o in self._like_primary(left, wants, lost) if self._allowed(wants, o)]
        reason = f"no other device can take what {lost!r} does"
        if len(left.devices) <= MOST_DEVICES:
            plain = replace(wants, revisit=False, max_replicas=1)
            try:
                solution = self._solve(left.profile, plain, _RUNNERS_UP)
            except PlanError as error:
                reason = str(error)
            else:
                options += [solution.best, *solution.runners_up]
        else:
            alone = (self._whole(left, wants, name) for name in left.devices if name not in wants.forbidden)
            options += [o for o in alone if self._allowed(wants, o)]
        known = [s.option for s in self.found if lost not in s.nodes]
        if not options and not known:
            raise PlanError(reason)
        best = self._pick([*known, *options])
        for index, standby in enumerate(self.found):
            if standby.option == best:
                self.found[index] = replace(standby, without=(*standby.without, lost))
                return
        self.found.append(Standby((lost,), best))
        self._hold(best.chain)

    def alone(self, name: NodeName) -> None:
        """Have the whole model on one node; raises `PlanError` if that cannot be."""
        others = tuple(n for n in used(self._primary) if n != name)
        for index, standby in enumerate(self.found):
            if standby.nodes == (name,):
                self.found[index] = replace(standby, offline=True, without=others)
                return
        if name not in self._full.devices or name in self._wants.forbidden:
            raise PlanError(f"no device {name!r} is there that may run anything")
        option = self._whole(Evaluator(self._left()), self._wants, name)
        if not math.isfinite(option.costs.latency_ms):
            raise PlanError(f"the whole model does not fit {name!r} beside the plan, or no link leads there")
        self.found.append(Standby(others, option, offline=True))
        self._hold(option.chain)

    # --- candidates ------------------------------------------------------------------

    def _like_primary(self, left: Evaluator, wants: Wants, lost: NodeName) -> Iterator[Option]:
        """The primary with another device in the place of the lost one."""
        kinds = tuple(dict.fromkeys(move.transport for move in self._primary.moves))
        for name in left.devices:
            if name in wants.forbidden or (name in used(self._primary) and not self._joins(lost, name)):
                continue
            stages = tuple(_instead(stage, lost, name) for stage in self._primary.stages)
            for kind in kinds:
                moves = tuple(replace(move, transport=kind) for move in self._primary.moves)
                chain = Chain(stages, moves if len(kinds) > 1 else self._primary.moves)
                yield Option(chain, left.evaluate(chain).costs)

    def _joins(self, lost: NodeName, name: NodeName) -> bool:
        """Whether a node may take over a lost one's ranges: they touch its own, or it may hold several."""
        if self._wants.revisit:
            return True
        held = [i for i, s in enumerate(self._primary.stages) if {lost, name} & set(s.nodes)]
        return held == list(range(held[0], held[-1] + 1))

    def _whole(self, left: Evaluator, wants: Wants, name: NodeName) -> Option:
        """The whole model on one device; infinitely dear where that is impossible."""
        listed = dict.fromkeys(link.transport for link in left.profile.links)
        kinds = tuple(wants.transports or listed) or ("grpc",)
        stage = StageChoice(0, left.op_count, (name,))
        chains = [
            Chain((stage,), (replace(self._primary.moves[0], transport=kind, codec="raw"),) * 2)
            for kind in kinds
        ]
        options = [Option(chain, left.evaluate(chain).costs) for chain in chains]
        return min(options, key=lambda option: option.costs.of(wants.objective))

    @staticmethod
    def _allowed(wants: Wants, option: Option) -> bool:
        costs, first = option.costs, option.chain.stages[0]
        return (
            math.isfinite(costs.latency_ms)
            and (wants.deadline_ms is None or costs.latency_ms <= wants.deadline_ms)
            and (wants.first_on is None or wants.first_on in first.nodes)
            and first.stop - first.start >= wants.first_ops
            and (wants.max_stages is None or len(option.chain.stages) <= wants.max_stages)
        )

    # --- choosing --------------------------------------------------------------------

    def _pick(self, options: Sequence[Option]) -> Option:
        """Of those close to the best the one that needs least sent; of equals the cheapest."""
        objective = self._wants.objective
        limit = min(o.costs.of(objective) for o in options) * (1 + CLOSE)
        close = [o for o in options if o.costs.of(objective) <= limit]
        return max(close, key=lambda o: (self._there(o.chain), -o.costs.of(objective), -o.costs.latency_ms))

    def _there(self, chain: Chain) -> int:
        """Bytes of a chain's stages that its nodes have already."""
        return sum(
            self._full.stage_bytes(self._full.devices[name], stage.start, stage.stop)
            for stage in chain.stages
            for name in stage.nodes
            if (name, stage.start, stage.stop) in self._held
        )

    def _hold(self, chain: Chain) -> None:
        for stage in chain.stages:
            for name in stage.nodes:
                self._held.add((name, stage.start, stage.stop))
                size = self._full.stage_bytes(self._full.devices[name], stage.start, stage.stop)
                self._taken[name] = self._taken.get(name, 0) + size

    def _left(self) -> Profile:
        """The profile with the memory that the primary and the alternatives leave."""
        profile = self._full.profile
        devices = tuple(
            msgspec.structs.replace(d, memory_bytes=max(1, d.memory_bytes - self._taken.get(d.name, 0)))
            for d in profile.devices
        )
        return msgspec.structs.replace(profile, devices=devices)
