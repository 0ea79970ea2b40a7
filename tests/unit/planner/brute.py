"""Every chain there is, and the best of them: slow, simple, and what planners are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, permutations, product

from collab.core.codecs import parse_codec
from collab.core.profile import Profile
from collab.planner.chains import Chain, Move, Option, StageChoice, Wants
from collab.planner.evaluate import Evaluator

NEAR = 1e-9


def chains(profile: Profile, wants: Wants) -> Iterator[Chain]:
    """All chains that keep the rules but memory, links and the deadline."""
    count = len(profile.devices[0].op_ms)
    cuts = [cut.at for cut in profile.cuts]
    sets = (
        [tuple(sorted(wants.at))]
        if wants.at is not None
        else [chosen for size in range(len(cuts) + 1) for chosen in combinations(cuts, size)]
    )
    for chosen in sets:
        if wants.max_stages is not None and len(chosen) + 1 > wants.max_stages:
            continue
        bounds = [0, *chosen, count]
        if bounds[1] < wants.first_ops:
            continue
        for nodes in _placements(profile, wants, len(chosen) + 1):
            yield from _with_moves(profile, wants, bounds, nodes)


def _placements(profile: Profile, wants: Wants, stages: int) -> Iterator[tuple[tuple[str, ...], ...]]:
    names = [device.name for device in profile.devices if device.name not in wants.forbidden]
    if wants.assign is not None:
        used = {name for group in wants.assign for name in group}
        if len(wants.assign) == stages and not used & wants.forbidden:
            yield wants.assign
        return
    sizes = range(1, wants.max_replicas + 1)
    groups = [group for size in sizes for group in combinations(names, size)]
    for nodes in (
        product(groups, repeat=stages)
        if wants.revisit or wants.max_replicas > 1
        else (tuple((name,) for name in order) for order in permutations(names, stages))
    ):
        flat = [name for group in nodes for name in group]
        if not wants.revisit and len(set(flat)) != len(flat):
            continue
        if wants.first_on is not None and nodes[0] != (wants.first_on,):
            continue
        yield nodes


def _with_moves(profile, wants, bounds, nodes) -> Iterator[Chain]:
    requester = profile.requester
    ends = [(requester,), *nodes, (requester,)]
    ways = []
    for i, at in enumerate(bounds):
        sources, targets = ends[i], ends[i + 1]
        if None in sources or None in targets or len({*sources, *targets}) == 1:
            ways.append([Move()])
        else:
            ways.append(_ways(profile, wants, at))
    threads = [_threads(profile, wants, group) for group in nodes]
    for moves in product(*ways):
        for counts in product(*threads):
            yield Chain(
                tuple(
                    StageChoice(bounds[i], bounds[i + 1], group, counts[i]) for i, group in enumerate(nodes)
                ),
                moves,
            )


def _ways(profile: Profile, wants: Wants, at: int) -> list[Move]:
    count = len(profile.devices[0].op_ms)
    known = {0: profile.input_codecs, count: profile.output_codecs} | {c.at: c.codecs for c in profile.cuts}
    errors = {entry.codec: entry.error for entry in known[at]} | {"raw": 0.0}
    codecs = [
        codec
        for codec in wants.codecs
        if codec in errors
        and (
            parse_codec(codec).exact or (wants.codec_error is not None and errors[codec] <= wants.codec_error)
        )
    ]
    transports = {link.transport for link in profile.links}
    return [
        Move(transport, codec)
        for transport in sorted(transports)
        if not wants.transports or transport in wants.transports
        for codec in codecs
    ]


def _threads(profile: Profile, wants: Wants, group: tuple[str, ...]) -> list[int]:
    if not wants.choose_threads:
        return [0]
    by_name = {device.name: device for device in profile.devices}
    shared = set.intersection(*({more.threads for more in by_name[name].more_threads} for name in group))
    return [0, *sorted(shared)]


def options(profile: Profile, wants: Wants) -> list[Option]:
    """Every possible chain with its costs."""
    costs = Evaluator(profile)
    found = (Option(chain, costs.evaluate(chain).costs) for chain in chains(profile, wants))
    return [
        option
        for option in found
        if math.isfinite(option.costs.latency_ms)
        and (wants.deadline_ms is None or option.costs.latency_ms <= wants.deadline_ms)
    ]


def best(profile: Profile, wants: Wants) -> tuple[float, float, int] | None:
    """Objective, then latency, then stages of the best chain; None where there is none."""
    every = options(profile, wants)
    if not every:
        return None
    value = min(option.costs.of(wants.objective) for option in every)
    near = [o for o in every if o.costs.of(wants.objective) <= value + abs(value) * NEAR]
    latency = min(option.costs.latency_ms for option in near)
    near = [o for o in near if o.costs.latency_ms <= latency + latency * NEAR]
    return value, latency, min(len(option.chain.stages) for option in near)
