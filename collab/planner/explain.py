"""Why a plan is as it is: what limits it, and what else there was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from collab.core.codecs import RAW
from collab.core.ids import NodeName
from collab.core.profile import Profile
from collab.planner.chains import Chain, Costs, Move, Objective, Option, Solution, StageChoice, Wants
from collab.planner.evaluate import Evaluation, Evaluator
from collab.planner.wording import duration, size

ARROW = " → "
"""Between the two ends in the name of a directed link."""


@dataclass(frozen=True)
class Limit:
    """What one node or directed link does for a chain."""

    where: str
    latency_ms: float
    """Of one request."""
    busy_ms: float
    """For each request in a pipeline."""
    of_latency: float
    """Share of a request's latency."""
    of_pipeline: float
    """Share of a full pipeline's time in which it is busy; 1 for the bottleneck."""

    @property
    def is_link(self) -> bool:
        """Whether it is a link and no node."""
        return ARROW in self.where


def limits(evaluation: Evaluation, objective: Objective = "latency") -> tuple[Limit, ...]:
    """Nodes and links of a chain, what limits the objective most first.

    Throughput is limited by who is busy for longest; for any other objective the order
    is by the parts of the latency.
    """
    spent = dict.fromkeys(evaluation.busy_ms, 0.0)
    for span in evaluation.spans:
        spent[span.where] = spent.get(span.where, 0.0) + span.duration_ms
    latency, bottleneck = sum(spent.values()), max(evaluation.busy_ms.values(), default=0.0)
    found = [
        Limit(
            where,
            ms,
            busy := evaluation.busy_ms.get(where, 0.0),
            ms / latency if latency else 0.0,
            busy / bottleneck if bottleneck else 0.0,
        )
        for where, ms in spent.items()
    ]
    if objective == "throughput":
        return tuple(sorted(found, key=lambda limit: (-limit.busy_ms, -limit.latency_ms, limit.where)))
    return tuple(sorted(found, key=lambda limit: (-limit.latency_ms, -limit.busy_ms, limit.where)))


def bottleneck(evaluator: Evaluator, chain: Chain) -> Limit:
    """The node or link that is busy for longest for each request."""
    return limits(evaluator.evaluate(chain), "throughput")[0]


# --- what else there was ---------------------------------------------------------------


@dataclass(frozen=True)
class Alternative:
    """A chain beside the plan."""

    name: str
    chain: Chain
    costs: Costs
    hindrance: str = ""
    """Why it cannot be, or may not be under the rules; empty where it may."""


def alternatives(profile: Profile, wants: Wants, solution: Solution) -> tuple[Alternative, ...]:
    """The plan, the runners-up, and the whole model on each device.

    The best device that is not the requester itself is marked as the full offload.
    Devices on which the model does not fit, or that the rules forbid, are listed with
    the reason.
    """
    evaluator = Evaluator(profile)
    singles = {
        option.chain.stages[0].nodes[0]: option.chain
        for option in (solution.best_single, *solution.runners_up, solution.best)
        if option is not None and is_single(option.chain)
    }
    rows = [Alternative("this plan", solution.best.chain, solution.best.costs)]
    rows += [
        Alternative(f"runner-up {index}", option.chain, option.costs, _broken(evaluator, wants, option.chain))
        for index, option in enumerate(solution.runners_up, 1)
        if not is_single(option.chain)
    ]
    whole = {
        device.name: singles.get(device.name) or whole_on(evaluator, wants, device.name)
        for device in profile.devices
    }
    remote = [name for name in whole if name != profile.requester]
    offload = min(remote, key=lambda name: _rank(evaluator, wants, whole[name]), default=None)
    for name, chain in whole.items():
        if chain == solution.best.chain:
            continue
        marked = profile.requester is not None and name == offload
        label = "full offload" if marked else "whole model"
        costs = evaluator.evaluate(chain).costs
        rows.append(Alternative(label, chain, costs, _broken(evaluator, wants, chain)))
    return tuple(rows)


def is_single(chain: Chain) -> bool:
    """Whether one device does all of it."""
    return len({name for stage in chain.stages for name in stage.nodes}) == 1


def best_moves(evaluator: Evaluator, wants: Wants, chain: Chain) -> Chain:
    """The same stages with the transports and codecs that suit the objective, move by move.

    Each move is chosen while the others stand, twice around: exact where costs add up,
    as they do for all objectives but throughput.  A move that no link can make stays.
    """
    for turn in range(2):
        for index in range(len(chain.moves)):
            options = tuple(_move_options(evaluator, wants, chain, index))
            if not options or (turn and len(options) == 1):
                continue
            tried = [_with_move(chain, index, move) for move in options]
            chain = min(tried, key=lambda each: moves_rank(evaluator, wants, each))
    return chain


def _with_move(chain: Chain, index: int, move: Move) -> Chain:
    return replace(chain, moves=(*chain.moves[:index], move, *chain.moves[index + 1 :]))


def ends_of(evaluator: Evaluator, chain: Chain, index: int) -> tuple[tuple[NodeName | None, ...], ...]:
    """Who sends and who receives move ``index``."""
    requester = (evaluator.profile.requester,)
    source = chain.stages[index - 1].nodes if index else requester
    target = chain.stages[index].nodes if index < len(chain.stages) else requester
    return source, target


def cut_of(chain: Chain, index: int) -> int:
    """The cut that move ``index`` crosses; 0 is the input."""
    return chain.stages[index].start if index < len(chain.stages) else chain.stages[-1].stop


def may_use(wants: Wants, codec: str, error: float) -> bool:
    """Whether the rules allow a codec with this error."""
    return codec in (*wants.codecs, RAW) and wants.allows(codec, error)


def _move_options(evaluator: Evaluator, wants: Wants, chain: Chain, index: int) -> Iterator[Move]:
    """Transports that join all of both ends, with the codecs that are known there and allowed."""
    sources, targets = ends_of(evaluator, chain, index)
    pairs = [(source, target) for source in sources for target in targets]
    return options_between(evaluator, wants, pairs, cut_of(chain, index))


def options_between(
    evaluator: Evaluator, wants: Wants, pairs: Sequence[tuple[NodeName | None, NodeName | None]], at: int
) -> Iterator[Move]:
    """Moves that can be made over a cut between all of these pairs; raw where nothing leaves its place."""
    apart = [(s, t) for s, t in pairs if s is not None and t is not None and s != t]
    if not apart:
        yield Move()
        return
    listed = {link.transport: None for link in evaluator.profile.links}
    known = [codec for codec, error in codecs_at(evaluator, at) if may_use(wants, codec, error)]
    for transport in wants.transports or listed:
        if all(evaluator.link(source, target, transport) for source, target in apart):
            yield from (Move(transport, codec) for codec in dict.fromkeys((RAW, *known)))


def codecs_at(evaluator: Evaluator, at: int) -> list[tuple[str, float]]:
    """Codecs that the profile knows at a cut, with their errors."""
    profile = evaluator.profile
    known = profile.input_codecs if at == 0 else profile.output_codecs
    if 0 < at < evaluator.op_count:
        known = next(cut.codecs for cut in profile.cuts if cut.at == at)
    return [(entry.codec, entry.error) for entry in known]


def moves_rank(evaluator: Evaluator, wants: Wants, chain: Chain) -> tuple[float, ...]:
    """How good the moves of a chain are, whether or not its stages fit."""
    found = evaluator.evaluate(chain)
    latency = sum(span.duration_ms for span in found.spans)
    busiest = max(found.busy_ms.values(), default=0.0)
    impossible = 0.0 if math.isfinite(latency) else 1.0
    costs = replace(found.costs, latency_ms=latency, bottleneck_ms=busiest)
    return impossible, costs.of(wants.objective), latency, busiest


def _rank(evaluator: Evaluator, wants: Wants, chain: Chain) -> tuple[float, ...]:
    costs = evaluator.evaluate(chain).costs
    impossible = 0.0 if math.isfinite(costs.latency_ms) else 1.0
    return bool(_broken(evaluator, wants, chain)), impossible, costs.of(wants.objective), costs.latency_ms


def whole_on(evaluator: Evaluator, wants: Wants, name: NodeName) -> Chain:
    """The whole model on one device, with the best moves."""
    stage = StageChoice(0, evaluator.op_count, (name,), fastest_threads(evaluator, wants, name))
    return best_moves(evaluator, wants, Chain((stage,), (Move(), Move())))


def fastest_threads(evaluator: Evaluator, wants: Wants, name: NodeName) -> int:
    """Threads with which a device runs the whole model fastest; 0, its own, where the rules fix them."""
    device = evaluator.devices[name]
    counts = (0, *(more.threads for more in device.more_threads)) if wants.choose_threads else (0,)
    return min(counts, key=lambda threads: evaluator.stage_ms(device, 0, evaluator.op_count, threads))


# --- rules -------------------------------------------------------------------------------


def _broken(evaluator: Evaluator, wants: Wants, chain: Chain) -> str:
    """The first thing that keeps a chain from being the plan, empty where nothing does."""
    return next(_hindrances(evaluator, wants, chain), "")


def _hindrances(evaluator: Evaluator, wants: Wants, chain: Chain) -> Iterator[str]:
    for name, taken in memory(evaluator, chain).items():
        room = evaluator.devices[name].memory_bytes
        if taken > room:
            yield f"{size(taken - room)} too large" + ("" if is_single(chain) else f" for {name}")
    found = evaluator.evaluate(chain)
    for span in found.spans:
        if not math.isfinite(span.duration_ms) and ARROW in span.where:
            yield f"no link {span.where}"
    if not math.isfinite(found.costs.latency_ms):
        yield "cannot run"
    yield from (f"{name} is forbidden" for name in used_by(chain) if name in wants.forbidden)
    first = chain.stages[0]
    if wants.first_on is not None and first.nodes != (wants.first_on,):
        yield f"{wants.first_on} must be first"
    if first.stop - first.start < wants.first_ops:
        yield f"the first stage needs {wants.first_ops} operators"
    if wants.deadline_ms is not None and found.costs.latency_ms > wants.deadline_ms:
        yield f"{duration(found.costs.latency_ms - wants.deadline_ms)} past the deadline"
    if wants.assign is not None and tuple(stage.nodes for stage in chain.stages) != wants.assign:
        yield "not the nodes asked for"
    if wants.at is not None and chain.cuts != wants.at:
        yield "not the cuts asked for"


def used_by(chain: Chain) -> dict[NodeName, None]:
    """Devices of a chain in their order."""
    return dict.fromkeys(name for stage in chain.stages for name in stage.nodes)


def memory(evaluator: Evaluator, chain: Chain) -> dict[NodeName, int]:
    """Bytes that a chain's stages take on each of its devices."""
    found = dict.fromkeys(used_by(chain), 0)
    for stage in chain.stages:
        for name in stage.nodes:
            found[name] += evaluator.stage_bytes(evaluator.devices[name], stage.start, stage.stop)
    return found


def speed_up(wants: Wants, solution: Solution) -> tuple[float, Option] | None:
    """How many times as good as the best single device a plan of several is; None where it is no such."""
    single = solution.best_single
    if single is None or is_single(solution.best.chain):
        return None
    before, now = (option.costs.of(wants.objective) for option in (single, solution.best))
    return (before / now, single) if now > 0 and math.isfinite(before) else None
