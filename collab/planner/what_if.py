"""What would make a plan better, and why one device may be best: found by solving again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from msgspec.structs import replace as changed

from collab.core.codecs import parse_codec
from collab.core.ids import NodeName
from collab.core.profile import DeviceProfile, LinkEntry, Profile
from collab.planner.chains import Chain, Move, Objective, Solution, StageChoice, Wants
from collab.planner.evaluate import Evaluation, Evaluator
from collab.planner.explain import (
    ARROW,
    best_moves,
    codecs_at,
    cut_of,
    fastest_threads,
    is_single,
    limits,
    may_use,
    moves_rank,
    options_between,
)
from collab.planner.wording import duration, figure, number, percent, place, rate, size

Solve = Callable[[Profile, Wants], Solution]
"""A planner: the best chain for a profile under rules."""

WORTH_SAYING = 1.05
"""Gains below this are within what a measured profile is wrong by."""
MOST_RESOURCES = 3
MOST_SUGGESTIONS = 5


@dataclass(frozen=True)
class WhatIf:
    """An improvement of one resource, and the plan that it would allow."""

    change: str
    """Such as ``a 200 Mbit/s link a → b``."""
    before: float
    after: float
    """Figures of the objective."""
    chain: Chain
    sentence: str

    @property
    def times(self) -> float:
        """How many times as good."""
        return self.before / self.after if self.after > 0 else math.inf


def what_if(profile: Profile, wants: Wants, solution: Solution, solve: Solve) -> tuple[WhatIf, ...]:
    """Improvements of what limits a plan that would make it at least 1.05 times as good, best first.

    The three most limiting nodes and links are tried: a link at two and four times its
    rate or with half its delay, a device twice as fast, the next codecs allowed.  Where
    one device is best, links of the best chain of two are tried as well.  Each is solved
    anew, so other cuts and devices may come out.
    """
    evaluator = Evaluator(profile)
    chains = [solution.best.chain]
    if is_single(solution.best.chain):
        chains += [pair for pair in [best_pair(evaluator, wants)] if pair is not None]
    before = solution.best.costs.of(wants.objective)
    found: dict[str, WhatIf] = {}
    for chain in chains:
        evaluation = evaluator.evaluate(chain)
        for limit in limits(evaluation, wants.objective)[:MOST_RESOURCES]:
            for group in _improvements(evaluator, wants, chain, limit.where):
                for better in _worth_it(group, before, solve, wants.objective):
                    found.setdefault(better.change, better)
    best_first = sorted(found.values(), key=lambda better: (-better.times, better.change))
    return tuple(best_first[:MOST_SUGGESTIONS])


_Change = tuple[str, Profile, Wants]


def _worth_it(group: list[_Change], before: float, solve: Solve, objective: Objective) -> Iterator[WhatIf]:
    """Those of ever larger improvements that gain enough over the one before."""
    reached = before
    for change, profile, wants in group:
        best = solve(profile, wants).best
        after = best.costs.of(objective)
        if not math.isfinite(after) or before <= 0 or after * WORTH_SAYING > reached:
            continue
        reached = after
        yield WhatIf(change, before, after, best.chain, _sentence(change, objective, before, after))


def _sentence(change: str, objective: Objective, before: float, after: float) -> str:
    pair = f"{figure(objective, after)} instead of {figure(objective, before)}"
    if after <= 0:
        return f"{change} would give {pair}"
    return f"{change} would give {number(before / after)} times ({pair})"


def _improvements(evaluator: Evaluator, wants: Wants, chain: Chain, where: str) -> Iterator[list[_Change]]:
    """Groups of ever larger improvements of a node or link."""
    profile = evaluator.profile
    if ARROW not in where:
        devices = tuple(_faster(each) if each.name == where else each for each in profile.devices)
        yield [(f"a device twice as fast as {where}", changed(profile, devices=devices), wants)]
        return
    source, target = map(NodeName, where.split(ARROW))
    index = _move_over(evaluator, chain, where)
    link = evaluator.link(source, target, chain.moves[index].transport)
    if link is None:
        return
    yield [
        (
            f"a {rate(times * link.mbit_s)} link {where}",
            _with_links(profile, source, target, times, 1.0),
            wants,
        )
        for times in (2, 4)
    ]
    if link.latency_ms > 0:
        half = _with_links(profile, source, target, 1.0, 0.5)
        yield [(f"a link {where} with {duration(link.latency_ms / 2)} delay", half, wants)]
    for codec, error in _next_codecs(evaluator, wants, cut_of(chain, index)):
        exact = parse_codec(codec).exact
        allowed = replace(
            wants,
            codecs=(*wants.codecs, *({codec} - {*wants.codecs})),
            codec_error=wants.codec_error if exact else max(wants.codec_error or 0.0, error),
        )
        what = "exact" if exact else f"error up to {percent(error)}"
        yield [(f"allowing codec {codec} ({what})", profile, allowed)]


def _move_over(evaluator: Evaluator, chain: Chain, where: str) -> int:
    """The longest move of a chain over a link."""
    spans = [s for s in evaluator.evaluate(chain).spans if s.where == where]
    if spans:
        return max(spans, key=lambda span: span.duration_ms).stage
    # Only the slowest of replicas have a span; the others' link belongs to a move by its ends.
    source, target = map(NodeName, where.split(ARROW))
    for index in range(1, len(chain.stages)):
        if source in chain.stages[index - 1].nodes and target in chain.stages[index].nodes:
            return index
    return 0 if target in chain.stages[0].nodes else len(chain.stages)


def _with_links(profile: Profile, source: NodeName, target: NodeName, rates: float, delays: float) -> Profile:
    """Links of one direction with other rates and delays, over any transport: they share the wire."""

    def other(link: LinkEntry) -> LinkEntry:
        if (link.source, link.target) != (source, target):
            return link
        return changed(link, mbit_s=link.mbit_s * rates, latency_ms=link.latency_ms * delays)

    return changed(profile, links=tuple(map(other, profile.links)))


def _faster(device: DeviceProfile) -> DeviceProfile:
    """The device at twice its speed, with any number of threads and any codec."""
    return changed(
        device,
        op_ms=tuple(ms / 2 for ms in device.op_ms),
        stage_ms=device.stage_ms / 2,
        more_threads=tuple(
            changed(more, op_ms=tuple(ms / 2 for ms in more.op_ms), stage_ms=more.stage_ms / 2)
            for more in device.more_threads
        ),
        codecs=tuple(
            changed(speed, encode_mb_s=2 * speed.encode_mb_s, decode_mb_s=2 * speed.decode_mb_s)
            for speed in device.codecs
        ),
    )


def _next_codecs(evaluator: Evaluator, wants: Wants, at: int) -> Iterator[tuple[str, float]]:
    """Of the codecs that are known at a cut and not allowed: an exact one, and the least wrong one."""
    refused = [entry for entry in codecs_at(evaluator, at) if not may_use(wants, *entry)]
    exact = [entry for entry in refused if parse_codec(entry[0]).exact]
    lossy = [entry for entry in refused if not parse_codec(entry[0]).exact]
    if exact:
        yield min(exact, key=lambda entry: -_ratio(evaluator, at, entry[0]))
    if lossy:
        yield min(lossy, key=lambda entry: (entry[1], -_ratio(evaluator, at, entry[0])))


def _ratio(evaluator: Evaluator, at: int, codec: str) -> float:
    known = evaluator.codec_at(at, codec)
    return known.ratio if known is not None else 1.0


# --- one device -----------------------------------------------------------------------


def best_pair(evaluator: Evaluator, wants: Wants) -> Chain | None:
    """The best chain of two stages on two devices under the rules, its deadline left out.

    None where there is no such chain.  Pairs are looked at in the order of a bound on
    their cost, so that few are evaluated in full.
    """
    best: Chain | None = None
    rank: tuple[float, ...] = ()
    for bound, chain in sorted(_pairs(evaluator, wants), key=lambda pair: pair[0]):
        if best is not None and bound >= rank[1]:
            break
        moved = best_moves(evaluator, wants, chain)
        found = moves_rank(evaluator, wants, moved)
        if not found[0] and (best is None or found < rank):
            best, rank = moved, found
    return best


def _pairs(evaluator: Evaluator, wants: Wants) -> Iterator[tuple[float, Chain]]:
    """Chains of two stages that fit their devices, each with a bound on what it costs."""
    devices = [device for device in evaluator.profile.devices if device.name not in wants.forbidden]
    threads = {device.name: fastest_threads(evaluator, wants, device.name) for device in devices}
    firsts = [device for device in devices if wants.first_on in (None, device.name)]
    cuts = [cut.at for cut in evaluator.profile.cuts if cut.at >= wants.first_ops]
    for first, second in ((one, two) for one in firsts for two in devices if one is not two):
        ends = evaluator.profile.requester
        outer = [
            _least(evaluator, wants, ends, first.name, 0),
            _least(evaluator, wants, second.name, ends, evaluator.op_count),
        ]
        for at in cuts:
            stages = (
                StageChoice(0, at, (first.name,), threads[first.name]),
                StageChoice(at, evaluator.op_count, (second.name,), threads[second.name]),
            )
            placed = tuple(zip((first, second), stages, strict=True))
            sizes = [evaluator.stage_bytes(device, stage.start, stage.stop) for device, stage in placed]
            if sizes[0] > first.memory_bytes or sizes[1] > second.memory_bytes:
                continue
            times = [evaluator.stage_ms(device, s.start, s.stop, s.threads) for device, s in placed]
            moves = [*outer, _least(evaluator, wants, first.name, second.name, at)]
            joules = sum(ms * (device.watts or 0.0) for ms, (device, _) in zip(times, placed, strict=True))
            bounds: dict[Objective, float] = {
                "latency": sum(times) + sum(move.ms for move in moves),
                "throughput": max(*times, *(move.occupied_ms for move in moves)),
                "memory": float(max(sizes)),
                "energy": joules / 1000,
                "bytes": sum(move.metered for move in moves),
            }
            if math.isfinite(bounds["latency"]):
                yield bounds[wants.objective], Chain(stages, (Move(), Move(), Move()))


class _Least(NamedTuple):
    """The least of each figure that any allowed move has; infinite where there is none."""

    ms: float
    occupied_ms: float
    metered: float


def _least(
    evaluator: Evaluator, wants: Wants, source: NodeName | None, target: NodeName | None, at: int
) -> _Least:
    if source is None or target is None or source == target:
        return _Least(0.0, 0.0, 0.0)
    figures = []
    for move in options_between(evaluator, wants, [(source, target)], at):
        taken, occupied = evaluator.move_ms(source, target, at, move)
        taken += evaluator.codec_ms(source, at, move.codec)[0] + evaluator.codec_ms(target, at, move.codec)[1]
        link = evaluator.link(source, target, move.transport)
        sent = evaluator.raw_bytes(at) / _ratio(evaluator, at, move.codec)
        figures.append((taken, occupied, sent if link is not None and link.metered else 0.0))
    return _Least(*map(min, zip(*figures, strict=True))) if figures else _Least(*[math.inf] * 3)


def why_one_device(profile: Profile, wants: Wants, solution: Solution) -> str:
    """Why one device is best, compared with the best two; empty where the plan has several."""
    chain = solution.best.chain
    if not is_single(chain):
        return ""
    name = chain.stages[0].nodes[0]
    if len(profile.devices) == 1:
        return f"{name} is the only device in the profile"
    if wants.max_stages == 1 or wants.assign is not None:
        return f"one device was asked for: {name}"
    evaluator = Evaluator(profile)
    pair = best_pair(evaluator, wants)
    if pair is None:
        return f"{name} does it alone: no link, memory or rule lets two devices share the model"
    return _compare(evaluator, wants, chain, pair)


def _compare(evaluator: Evaluator, wants: Wants, chain: Chain, pair: Chain) -> str:
    """What moving a part to another device costs, and what it saves."""
    alone, shared = evaluator.evaluate(chain), evaluator.evaluate(pair)
    name, (first, second) = chain.stages[0].nodes[0], (stage.nodes[0] for stage in pair.stages)
    saves = _computing(alone) - _computing(shared)
    costs = shared.costs.latency_ms - alone.costs.latency_ms + saves
    moved = f"moving {size(evaluator.raw_bytes(pair.cuts[0]))}"
    to = f"from {first} to {second}" if name not in (first, second) else f"to {second}"
    if name == second:
        to = f"from {first}"
    if wants.objective == "latency" and costs > saves >= 0:
        saved = f"saves {duration(saves)}" if saves > 0 else "saves nothing"
        return f"one device is best: {moved} {to} costs {duration(costs)} and {saved}"
    if wants.objective == "latency" and saves < 0 <= costs:
        return (
            f"one device is best: {moved} {to} costs {duration(costs)}, and computing takes "
            f"{duration(-saves)} longer"
        )
    figures = [figure(wants.objective, each.costs.of(wants.objective)) for each in (shared, alone)]
    reason = ""
    if wants.objective == "throughput":
        reason = f" (limited by {limits(shared, 'throughput')[0].where})"
    return f"one device is best: {place(pair)} would give {figures[0]}{reason}, {name} alone {figures[1]}"


def _computing(evaluation: Evaluation) -> float:
    return sum(span.duration_ms for span in evaluation.spans if span.what == "compute")
