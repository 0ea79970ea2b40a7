"""From what is wanted of a plan and a profile to the best placed plan, and what is known of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from collab.coordinator.alternatives import predicted, with_alternatives
from collab.coordinator.planning import build_solved, per_link, reference_blob, referring
from collab.core.codecs import NAMES, RAW, parse_codec
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.core.profile import DeviceProfile, Profile
from collab.errors import CutError, PlanError, UsageError
from collab.graph import Graph, reorder
from collab.planner.alternatives import Standbys, standbys
from collab.planner.chains import Chain, Costs, Move, Option, Solution, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.explain import used_by
from collab.planner.orders import dag_order_helps, in_order
from collab.planner.solve import solve

log = logging.getLogger("collab.coordinator")

_ALTERNATIVES: Final = 5
AUTO: Final = "auto"
"""Leaves a choice to the planner."""


@dataclass(frozen=True)
class MoveOptions:
    """What is said of codecs and transports: ``auto``, one for all links, or one for each."""

    codecs: str = RAW
    transports: str = AUTO
    codec_error: float | None = None

    def codec_names(self, links: int | None = None) -> list[str]:
        """Codecs in full spelling, for so many links or each one that is named; raises `UsageError`."""
        entries = self.codecs.split(",") if links is None else per_link(self.codecs, links, "--codecs")
        names = []
        for entry in entries:
            try:
                name = parse_codec(entry.strip())
            except PlanError as error:
                raise UsageError(f"--codecs: {error}") from None
            if not name.exact and self.codec_error is None:
                raise UsageError(
                    f"--codecs: {entry!r} loses digits; say with --codec-error how much of a tensor's range "
                    f"it may add, such as 0.01, or use {name.without_loss}"
                )
            names.append(str(name))
        return names

    @property
    def wanted_codecs(self) -> tuple[str, ...]:
        """What the planner may choose from."""
        if self.codecs == AUTO:
            return tuple(n for n in NAMES if parse_codec(n).exact or self.codec_error is not None)
        return tuple(dict.fromkeys((RAW, *self.codec_names())))

    @property
    def wanted_transports(self) -> tuple[str, ...]:
        """What the planner may choose from; empty for all."""
        return () if self.transports == AUTO else tuple(dict.fromkeys(self.transports.split(",")))

    def pinned(self, chain: Chain) -> Chain:
        """The chain with the moves that are given by hand; raises `UsageError` for a wrong number."""
        links = len(chain.moves)
        codecs = [move.codec for move in chain.moves]
        transports = [move.transport for move in chain.moves]
        if self.codecs != AUTO:
            codecs = self.codec_names(links)
        if self.transports != AUTO:
            transports = per_link(self.transports, links, "--transport")
        moves = tuple(Move(*pair) for pair in zip(transports, codecs, strict=True))
        return replace(chain, moves=moves)


CHOSEN: Final = MoveOptions(codecs=AUTO, transports=AUTO)
"""Moves as the planner chose them among what is wanted."""


@dataclass(frozen=True)
class Chosen:
    """The best chain for a profile, what it costs, and the alternatives."""

    profile: Profile
    wants: Wants
    solution: Solution
    basis: str
    """What the prediction rests on."""
    reordered: Graph | None = None
    """The model with its operators in another order, where the chain is one of that."""
    standbys: Standbys | None = None
    """What stands in when nodes are lost; None where that was not asked for."""

    def with_standbys(self, offline: Sequence[NodeName] = ()) -> Chosen:
        """The same with what stands in for each node that is lost, and whole models for nodes alone."""
        found = standbys(self.profile, self.wants, self.solution.best.chain, solve, offline)
        return replace(self, standbys=found)

    def to_json(self) -> dict[str, Any]:
        """As ``collab plan --json`` prints it."""
        best, single = self.solution.best, self.solution.best_single
        return {
            "stages": _stages(best.chain),
            "links": [{"transport": move.transport, "codec": move.codec} for move in best.chain.moves],
            "codec_error": self.wants.codec_error,
            "objective": self.wants.objective,
            "predicted": _figures(best.costs),
            "best_single": None
            if single is None
            else {"node": single.chain.stages[0].nodes[0], **_figures(single.costs)},
            "runners_up": [
                {"stages": _stages(option.chain), **_figures(option.costs)}
                for option in self.solution.runners_up
            ],
            "method": self.solution.method,
            "reordered_sha256": None if self.reordered is None else self.reordered.sha256,
            "gap": round(self.solution.gap(self.wants.objective), 6),
            "profile": self.profile.digest,
            "basis": self.basis,
            "alternatives": [
                {
                    "without": list(standby.without),
                    "nodes": list(standby.nodes),
                    "offline": standby.offline,
                    "stages": _stages(standby.option.chain),
                    "predicted": _figures(standby.option.costs),
                }
                for standby in (self.standbys.chosen if self.standbys is not None else ())
            ],
            "without_alternative": dict(self.standbys.missing) if self.standbys is not None else {},
        }


def _stages(chain: Chain) -> list[dict[str, Any]]:
    return [{"ops": [stage.start, stage.stop], "nodes": list(stage.nodes)} for stage in chain.stages]


def _figures(costs: Costs) -> dict[str, float]:
    """Costs in figures that people can read; ms to the nanosecond."""
    return {
        "latency_ms": round(costs.latency_ms, 6),
        "bottleneck_ms": round(costs.bottleneck_ms, 6),
        "memory_bytes": costs.memory_bytes,
        "energy_j": round(costs.energy_j, 9),
        "metered_bytes": round(costs.metered_bytes, 3),
    }


def choose(
    profile: Profile, wants: Wants, moves: MoveOptions, basis: str, graph: Graph | None = None
) -> Chosen:
    """The best chain, with the moves that are given by hand.

    With the model's graph its operators may run in another order where that makes a better
    cut.  Raises `PlanError` where nothing keeps the wants, `UsageError` for a wrong number
    of moves.
    """
    solution = solve(profile, wants)
    other = None if graph is None else _in_better_order(profile, wants, solution, graph)
    if other is not None:
        profile, solution, graph = other
    if wants.at is not None and wants.assign is not None:
        solution = replace(solution, runners_up=_free(profile, wants, solution.best))
    pinned = moves.pinned(solution.best.chain)
    if pinned != solution.best.chain:
        evaluator = Evaluator(profile)
        _check_moves(evaluator, pinned)
        best = Option(pinned, evaluator.evaluate(pinned).costs)
        method = f"{solution.method}; transports and codecs as given"
        solution = replace(solution, best=best, method=method)
    return Chosen(profile, wants, solution, basis, graph if other is not None else None)


def _free(profile: Profile, wants: Wants, told: Option) -> tuple[Option, ...]:
    """What would be best without cuts and nodes given by hand: a plan that is told has no runners-up."""
    try:
        found = solve(profile, replace(wants, at=None, assign=None), _ALTERNATIVES - 1)
    except PlanError:
        return ()
    return tuple(option for option in (found.best, *found.runners_up) if option.chain != told.chain)


def _in_better_order(
    profile: Profile, wants: Wants, solution: Solution, graph: Graph
) -> tuple[Profile, Solution, Graph] | None:
    """The model with its operators in another order, and the best chain of it, if that is clearly faster."""
    cut = dag_order_helps(profile, wants, solution.best)
    if cut is None:
        return None
    try:
        made = reorder(graph, cut.order)
    except CutError as error:  # an operator reads another's shape, which no tensor shows
        log.info("another order of operators would be faster, and cannot be written: %s", error)
        return None
    changed = in_order(profile, cut.order, model_sha256=made.sha256)
    found = solve(changed, wants)
    if found.best.costs.latency_ms >= solution.best.costs.latency_ms:
        return None
    method = f"{found.method}; operators in another order, by a minimum cut"
    return changed, replace(found, method=method), made


def _check_moves(evaluator: Evaluator, chain: Chain) -> None:
    """Say which link or codec the profile does not know; the evaluation would only be infinite."""
    requester = evaluator.profile.requester
    ends = [(requester,), *(stage.nodes for stage in chain.stages), (requester,)]
    places = [*(stage.start for stage in chain.stages), chain.stages[-1].stop]
    for index, (move, at) in enumerate(zip(chain.moves, places, strict=True)):
        for source in ends[index]:
            for target in ends[index + 1]:
                if source is None or target is None or source == target:
                    continue
                if evaluator.link(source, target, move.transport) is None:
                    raise PlanError(
                        f"--transport: the profile has no link {source} → {target} by {move.transport!r}; "
                        f"measure it with: collab profile --transports {move.transport}"
                    )
        if evaluator.codec_at(at, move.codec) is None:
            raise PlanError(
                f"--codecs: the profile does not know what {move.codec!r} does at cut {at}; "
                f"measure it with: collab profile --codecs {move.codec}"
            )


def with_threads(profile: Profile, threads: int) -> Profile:
    """The profile with the times of so many threads; raises `PlanError` where a device has none."""
    return msgspec.structs.replace(
        profile, devices=tuple(_threaded(device, threads) for device in profile.devices)
    )


def _threaded(device: DeviceProfile, threads: int) -> DeviceProfile:
    if device.threads == threads:
        return device
    for more in device.more_threads:
        if more.threads == threads:
            return msgspec.structs.replace(
                device, threads=threads, op_ms=more.op_ms, stage_ms=more.stage_ms, more_threads=()
            )
    raise PlanError(
        f"--threads {threads}: the profile has no times of {device.name!r} with so many; "
        f"measure them with: collab profile --threads {threads}"
    )


def among(profile: Profile, names: Sequence[NodeName]) -> tuple[frozenset[NodeName], list[NodeName]]:
    """Devices of the profile that are not there, and those there that it does not know.

    Raises `PlanError` if it knows none of them.
    """
    known = {device.name for device in profile.devices}
    if not known & set(names):
        raise PlanError(
            f"devices: the profile knows {', '.join(sorted(known))} and none of the peers, "
            f"{', '.join(names)}; measure them with: collab profile"
        )
    return frozenset(known - set(names)), [name for name in names if name not in known]


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is besides its chain."""

    name: PlanName
    credits: int = 64
    signature: str | None = None
    return_by_chain: bool = False


def plan_of(chosen: Chosen, path: Path, graph: Graph, refs: Sequence[NodeRef], options: PlanOptions) -> Plan:
    """The plan of the best chain with its alternatives, and what is predicted of each.

    ``path`` and ``graph`` are the model's, `Chosen.reordered` and its file where there is
    one; ``refs`` say where nodes are; those that they do not name have no endpoints.
    """
    known = {ref.name: ref for ref in refs}
    threads = {device.name: device.threads for device in chosen.profile.devices}

    def build(chain: Chain) -> Plan:
        plan, _ = build_solved(
            options.name,
            path,
            graph,
            chain,
            [known.get(name, NodeRef(name=name)) for name in used_by(chain)],
            threads,
            signature=options.signature,
            credits=options.credits,
            return_by_chain=options.return_by_chain,
            codec_error=chosen.wants.codec_error,
        )
        return referring(plan, reference)

    reference = next(iter(reference_blob(path)), None)
    predict = partial(predicted, chosen.profile, basis=chosen.basis)
    chain = chosen.solution.best.chain
    plan = build(chain).replace(predicted=predict(chain))
    if chosen.standbys is None:
        return plan
    spare = [(s, build(s.option.chain), predict(s.option.chain)) for s in chosen.standbys.chosen]
    return with_alternatives(plan, spare)
