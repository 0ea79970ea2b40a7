"""Profiles, chains and a planner that tries everything, for tests of what is said of plans."""

from __future__ import annotations

import itertools

from collab.core.profile import CutProfile, DeviceProfile, LinkEntry, Profile
from collab.planner.chains import Chain, Move, Option, Solution, StageChoice
from collab.planner.evaluate import Evaluator
from collab.planner.explain import best_moves


def device(name, op_ms, memory=10**9, op_bytes=1000, **fields):
    return DeviceProfile(
        name=name, memory_bytes=memory, op_ms=tuple(op_ms), op_bytes=(op_bytes,) * len(op_ms), **fields
    )


def link(source, target, latency_ms=1.0, mbit_s=100.0, **fields):
    return LinkEntry(source=source, target=target, latency_ms=latency_ms, mbit_s=mbit_s, **fields)


def profile(devices, links, cuts=(250_000, 125_000, 25_000), requester=None, **fields):
    return Profile(
        model_sha256="0" * 64,
        input_bytes=150_000,
        output_bytes=1000,
        cuts=tuple(CutProfile(at=at, bytes=size) for at, size in enumerate(cuts, 1)),
        devices=tuple(devices),
        links=tuple(links),
        requester=requester,
        **fields,
    )


def meshed(*names, **fields):
    return [link(a, b, **fields) for a, b in itertools.permutations(names, 2)]


def chain(*stages, moves=None):
    """Stages as ``(stop, "a+b")``."""
    starts = (0, *(stop for stop, _ in stages))
    chosen = tuple(
        StageChoice(start, stop, tuple(names.split("+")))
        for start, (stop, names) in zip(starts, stages, strict=False)
    )
    return Chain(chosen, moves or (Move(),) * (len(chosen) + 1))


def solve(given, wants):
    """Every chain of at most three stages on different devices, looked at one by one."""
    evaluator = Evaluator(given)
    names = [d.name for d in given.devices if d.name not in wants.forbidden]
    options = []
    for count in range(1, min(3, wants.max_stages or 3) + 1):
        for cuts in itertools.combinations([cut.at for cut in given.cuts], count - 1):
            for nodes in itertools.permutations(names, count):
                found = chain(*zip((*cuts, evaluator.op_count), nodes, strict=True))
                found = best_moves(evaluator, wants, found)
                options.append(Option(found, evaluator.evaluate(found).costs))
    options.sort(key=lambda option: option.costs.of(wants.objective))
    singles = [option for option in options if len(option.chain.stages) == 1]
    best = options[0]
    return Solution(best, tuple(options[1:4]), singles[0], "every chain", best.costs.of(wants.objective))
