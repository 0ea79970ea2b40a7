"""How good plans are, and how long they take: against every chain there is, and against peers.

Random small instances are compared with an enumeration of all chains.  Random clusters,
branched graphs on two sites, and published models with operator times measured here are
planned by `collab.planner` and by published methods (`benchmarks.planner_peers`) in turn;
each result is priced by the same definition of costs.  ``how`` of the growth figures holds
the series.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from benchmarks.figures import Figure, run
from benchmarks.planner_peers import dads, equal_split, memory_split, neurosurgeon, pipeedge, single
from benchmarks.planner_profiles import LINKS, Rates, branched, cluster, real
from benchmarks.splits import models
from collab.coordinator.planning import open_model, time_operators
from collab.core.ids import NodeName
from collab.core.profile import Profile
from collab.errors import PlanError
from collab.planner.chains import Chain, Objective, Option, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.mincut import dag_cut
from collab.planner.orders import dag_order_helps
from collab.planner.solve import solve
from collab.runtime.litert import LiteRT
from tests.unit.planner.brute import best as best_of_all
from tests.unit.planner.instances import instance

P = ParamSpec("P")
T = TypeVar("T")

OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput")
SHARES = {"any": 0.7, "plain": 0.05, "revisit": 0.1, "replicas": 0.1, "assign": 0.05}
"""Kinds of random instances."""
SAME = 1e-9
"""Relative difference of sums that were rounded in another order."""
BOARD = 10
"""How many times slower than this machine's core a small board is."""
FOUR: Mapping[str, float] = {"a": 4 * BOARD, "b": 2 * BOARD, "c": 2 * BOARD, "d": BOARD}
"""A cluster of boards, by how many times slower than this machine."""
NEAR, FAR = NodeName("near"), NodeName("far")
BETWEEN: Rates = {(a, b): (2, 100) for a in FOUR for b in FOUR if a != b}


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    quick = bool(options.quick)
    solve(cluster(0, 10, 3), Wants())  # what a process pays once
    figures: list[Figure] = []
    for part in (optimality, speed, growth, clusters, sites, minimum_cuts):
        figures += part(quick)
        print(f"{part.__name__} done", file=sys.stderr)
    return figures


def timed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """A result and how many ms it took."""
    start = time.perf_counter()
    found = call(*args, **kwargs)
    return found, (time.perf_counter() - start) * 1000


# --- optimality -----------------------------------------------------------------------


def optimality(quick: bool) -> list[Figure]:
    """Plans beside the best of all chains."""
    count = 300 if quick else 2000
    worse: Counter[str] = Counter()
    claimed: list[str] = []
    for kind, share in SHARES.items():
        for seed in range(round(count * share)):
            asked = instance(seed, kind)
            found = best_of_all(asked.profile, asked.wants)
            wanted = found[0] if found else math.inf
            value, bound = _solved(asked.profile, asked.wants)
            if not _same(value, wanted):
                worse[kind] += 1
                if value < wanted or not math.isfinite(value) or bound > wanted * (1 + SAME):
                    claimed.append(f"{kind} {seed}")
    what = ", ".join(f"{round(count * share)} {kind}" for kind, share in SHARES.items())
    return [
        Figure(
            "random instances whose plan is not the best of all chains",
            sum(worse.values()),
            f"of {count}",
            "<= 0",
            None,
            f"{what}; worse: {dict(worse)}",
        ),
        Figure(
            "random instances with a bound or refusal that is wrong",
            len(claimed),
            f"of {count}",
            "<= 0",
            None,
            f"kind and seed: {', '.join(claimed[:10]) or 'none'}",
        ),
    ]


def _solved(profile: Profile, wants: Wants) -> tuple[float, float]:
    """Objective and bound of a plan; infinite where it is refused."""
    try:
        found = solve(profile, wants)
    except PlanError:
        return math.inf, math.inf
    return found.best.costs.of(wants.objective), found.bound


def _same(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= SAME * max(abs(a), abs(b))


# --- speed ----------------------------------------------------------------------------


def speed(quick: bool) -> list[Figure]:
    """Time to plan, and what five runners-up beside the plan take."""
    figures = []
    for cuts, devices, kinds, limit in ((100, 8, None, 50), (100, 12, None, 1000), (300, 64, 4, 2000)):
        for objective in OBJECTIVES:
            count = 2 if quick else 7
            spent = _times(cuts, devices, kinds, objective, count, runners_up=0)
            more = _times(cuts, devices, kinds, objective, count)
            what = f"{cuts} cuts, {devices} devices" + (f" of {kinds} types" if kinds else "")
            how = (
                f"median of {len(spent)} random clusters; most {max(spent):.1f} ms; "
                f"{_median(more):.1f} ms with five runners-up"
            )
            figures.append(
                Figure(
                    f"time to plan for {objective}: {what}", _median(spent), "ms", f"<= {limit}", None, how
                )
            )
    return figures


def growth(quick: bool) -> list[Figure]:
    """Time to plan over devices and over cuts."""
    by_devices = (2, 4, 6, 8, 10) if quick else tuple(range(2, 13))
    by_cuts = (25, 50, 100, 200) if quick else (12, 25, 50, 100, 200, 400, 800)
    count = 1 if quick else 3
    figures = []
    for objective in OBJECTIVES:
        over_devices = {n: _median(_times(100, n, None, objective, count)) for n in by_devices}
        over_cuts = {n: _median(_times(n, 6, None, objective, count)) for n in by_cuts}
        for what, series in (("devices, 100 cuts", over_devices), ("cuts, 6 devices", over_cuts)):
            most = max(series)
            how = "ms: " + ", ".join(f"{size}: {ms:.2f}" for size, ms in series.items())
            name = f"time to plan for {objective} over {what}: {most}"
            figures.append(Figure(name, series[most], "ms", "", None, how))
    return figures


def _times(
    cuts: int, devices: int, kinds: int | None, objective: Objective, count: int, runners_up: int = 5
) -> list[float]:
    """Times in ms for random clusters of one size."""
    wants = Wants(objective=objective)
    found: list[float] = []
    for seed in itertools.count():
        with contextlib.suppress(PlanError):  # few small devices may not have room for the model
            found.append(timed(solve, cluster(seed, cuts, devices, kinds), wants, runners_up)[1])
        if len(found) == count:
            return found
    raise AssertionError


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.inf


# --- peers ----------------------------------------------------------------------------


@dataclass
class Tally:
    """One peer beside the planner over several profiles."""

    peer: str
    ratios: list[float] = field(default_factory=list)
    impossible: int = 0
    peer_ms: list[float] = field(default_factory=list)
    own_ms: list[float] = field(default_factory=list)

    def add(self, peer: float, own: float, peer_ms: float, own_ms: float) -> None:
        """One profile's objectives and times."""
        self.peer_ms.append(peer_ms)
        self.own_ms.append(own_ms)
        if math.isfinite(peer):
            self.ratios.append(peer / own)
        else:
            self.impossible += 1

    @property
    def better(self) -> int:
        """How often the peer was."""
        return sum(ratio < 1 - SAME for ratio in self.ratios)

    def figure(self, where: str) -> Figure:
        """The median ratio."""
        spread = f"least {min(self.ratios):.4g}, most {max(self.ratios):.4g}" if self.ratios else "none"
        how = (
            f"median of {len(self.ratios)} profiles, {spread}; no plan that fits or connects in "
            f"{self.impossible} more; {_median(self.peer_ms):.2f} ms against {_median(self.own_ms):.2f} ms"
        )
        return Figure(f"{where}: {self.peer} / ours", _median(self.ratios), "x", ">= 1", 1.0, how)


Peers = Mapping[str, Callable[[Profile], Chain | None]]

CLUSTER_PEERS: Peers = {
    "PipeEdge": pipeedge,
    "equal split": equal_split,
    "split by memory (exo)": memory_split,
}


def clusters(quick: bool) -> list[Figure]:
    """Pipelines on random clusters and of real models on four boards."""
    figures = []
    better = tried = 0
    for where, profiles in (
        ("5 random devices", [cluster(seed, 30, 5) for seed in range(15 if quick else 100)]),
        ("real models, 4 boards", [p for _, p in _real(FOUR, {"": BETWEEN})]),
    ):
        for objective in OBJECTIVES:
            found = _compare(profiles, objective, CLUSTER_PEERS)
            figures += [tally.figure(f"{objective}, {where}") for tally in found]
            better += sum(tally.better for tally in found)
            tried += sum(len(tally.ratios) for tally in found)
    name = "plans of peers on clusters that are better than ours"
    return [*figures, Figure(name, better, f"of {tried}", "<= 0", None, "by over a 10⁹th")]


def _compare(profiles: list[Profile], objective: Objective, peers: Peers) -> list[Tally]:
    """Every peer beside the planner, in turn; the best single device is one of them."""
    tallies = {name: Tally(name) for name in (*peers, "best single device")}
    wants = Wants(objective=objective)
    for profile in profiles:
        costs = Evaluator(profile)
        solution, own_ms = timed(solve, profile, wants)
        own = solution.best.costs.of(objective)
        for name, plan in peers.items():
            chain, peer_ms = timed(plan, profile)
            value = costs.evaluate(chain).costs.of(objective) if chain else math.inf
            tallies[name].add(value, own, peer_ms, own_ms)
        alone = (costs.evaluate(single(profile, d.name)).costs.of(objective) for d in profile.devices)
        tallies["best single device"].add(min(alone), own, 0.0, own_ms)
    return list(tallies.values())


def _real(slower: Mapping[str, float], links: Mapping[str, Rates]) -> Iterator[tuple[str, Profile]]:
    """Published models with times measured here."""
    for path in models():
        graph = open_model(path)
        op_ms = time_operators(graph, LiteRT())
        for name, rates in links.items():
            yield f"{path.stem}, {name}", real(graph, op_ms, slower, rates)


def sites(quick: bool) -> list[Figure]:
    """Two sites: one cut, the minimum cut, and ours with operators in another order where that helps."""
    near_far: Mapping[str, float] = {NEAR: float(BOARD), FAR: 1.0}
    figures = []
    for where, profiles in (
        ("branched graphs", [branched(seed, 60) for seed in range(20 if quick else 200)]),
        ("real models", [p for _, p in _real(near_far, LINKS)]),
    ):
        cut, minimum, plain = Tally("Neurosurgeon"), Tally("DADS"), Tally("ours in the order of the file")
        helped = 0
        for profile in profiles:
            (own, moved), own_ms = timed(_any_order, profile)
            chain, chain_ms = timed(neurosurgeon, profile, NEAR, FAR)
            cut.add(Evaluator(profile).evaluate(chain).costs.latency_ms, own, chain_ms, own_ms)
            least, least_ms = timed(dads, profile, NEAR, FAR)
            minimum.add(least, own, least_ms, own_ms)
            plain.add(moved.costs.latency_ms, own, 0.0, own_ms)
            helped += not _same(moved.costs.latency_ms, own)
        figures += [tally.figure(f"latency, two sites, {where}") for tally in (cut, minimum, plain)]
        share = helped / len(profiles)
        what = f"two sites, {where}: share where another order is over 1 % faster"
        figures.append(Figure(what, share, "", "", None, f"{helped} of {len(profiles)}"))
    return figures


def _any_order(profile: Profile) -> tuple[float, Option]:
    """Latency of the best plan in any order, and the best one in the file's order."""
    wants = Wants()
    best = solve(profile, wants).best
    found = dag_order_helps(profile, wants, best)
    return (found.latency_ms if found else best.costs.latency_ms), best


def minimum_cuts(quick: bool) -> list[Figure]:
    """Time of the minimum cut on large graphs."""
    figures = []
    for ops in (239, 5000):
        profiles = [branched(seed, ops, 8) for seed in range(3 if quick else 15)]
        spent = [timed(dag_cut, profile, NEAR, FAR)[1] for profile in profiles]
        how = f"median of {len(spent)} graphs with 8 branches; most {max(spent):.1f} ms"
        figures.append(Figure(f"minimum cut of {ops:,} operators", _median(spent), "ms", "", None, how))
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
