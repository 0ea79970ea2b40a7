"""What cannot be planned, told before anything is searched for, and why nothing was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from collab.core.codecs import parse_codec
from collab.core.ids import NodeName
from collab.errors import PlanError
from collab.planner.chains import Wants
from collab.planner.evaluate import Evaluator
from collab.planner.layered import completions, relaxed
from collab.planner.options import Arcs, Limits
from collab.planner.subsets import Space, Step, sweep
from collab.planner.tables import Tables


def check(costs: Evaluator, wants: Wants) -> None:
    """Refuse what contradicts itself or the profile; raises `PlanError`."""
    _check_devices(costs, wants)
    _check_cuts(costs, wants)
    _check_numbers(costs, wants)
    _check_moves(costs, wants)


def allowed_devices(costs: Evaluator, wants: Wants) -> list[NodeName]:
    """Devices that may run something, in the profile's order."""
    return [name for name in costs.devices if name not in wants.forbidden]


def _check_devices(costs: Evaluator, wants: Wants) -> None:
    known = ", ".join(costs.devices)
    named: list[tuple[str, Iterable[NodeName]]] = [("forbidden", sorted(wants.forbidden))]
    if wants.first_on is not None:
        named.append(("first_on", (wants.first_on,)))
    named += [(f"assign[{i}]", nodes) for i, nodes in enumerate(wants.assign or ())]
    for field, names in named:
        for name in names:
            if name not in costs.devices:
                raise PlanError(f"{field}: the profile has no device {name!r}; it has {known}")
            if field != "forbidden" and name in wants.forbidden:
                raise PlanError(f"{field}: {name!r} is forbidden too; take it out of one of them")
    if not allowed_devices(costs, wants):
        raise PlanError("forbidden: no device is left; allow one of " + known)
    _check_assign(wants)


def _check_assign(wants: Wants) -> None:
    if wants.assign is None:
        return
    if not wants.assign or not all(wants.assign):
        raise PlanError("assign: a stage has no device; name one for each stage")
    seen: set[NodeName] = set()
    for i, nodes in enumerate(wants.assign):
        if len(set(nodes)) != len(nodes):
            raise PlanError(f"assign[{i}]: a device is named twice; replicas must differ")
        twice = sorted(seen & set(nodes))
        if twice and not wants.revisit:
            raise PlanError(f"assign[{i}]: {twice[0]!r} has an earlier stage; allow revisit or take another")
        seen |= set(nodes)
    if wants.first_on is not None and wants.assign[0] != (wants.first_on,):
        raise PlanError(f"assign[0]: first_on is {wants.first_on!r}; assign the first stage to it alone")


def _check_cuts(costs: Evaluator, wants: Wants) -> None:
    allowed = sorted(cut.at for cut in costs.profile.cuts)
    at = wants.at
    for place in at or ():
        if place not in allowed:
            nearest = sorted(sorted(allowed, key=lambda cut: abs(cut - place))[:2])
            hint = (
                f"the nearest are {' and '.join(map(str, nearest))}" if nearest else "the profile allows none"
            )
            raise PlanError(f"at: {place} is no cut that can be made; {hint}")
    if at is not None and len(set(at)) != len(at):
        raise PlanError("at: a cut is named twice; name each once")
    if at is not None and list(at) != sorted(at):
        raise PlanError(f"at: {', '.join(map(str, at))} do not ascend; list cuts in the order of operators")
    if at is not None and wants.assign is not None and len(at) + 1 != len(wants.assign):
        raise PlanError(
            f"assign: {len(wants.assign)} stages, but the cuts of at make {len(at) + 1}; give one for each"
        )
    if wants.assign is not None and len(wants.assign) > len(allowed) + 1:
        raise PlanError(
            f"assign: {len(wants.assign)} stages, but the model can be cut into {len(allowed) + 1} at most"
        )
    if wants.first_ops > costs.op_count:
        raise PlanError(
            f"first_ops: {wants.first_ops} operators, but the model has {costs.op_count}; ask for fewer"
        )
    if at and sorted(at)[0] < wants.first_ops:
        raise PlanError(f"at: the first cut is {min(at)}, before first_ops {wants.first_ops}; cut later")


def _check_numbers(costs: Evaluator, wants: Wants) -> None:
    if wants.max_replicas < 1:
        raise PlanError(f"max_replicas: {wants.max_replicas}; give 1 or more")
    if wants.deadline_ms is not None and not wants.deadline_ms > 0:
        raise PlanError(f"deadline_ms: {wants.deadline_ms} is no time; give more than 0")
    stages = max(len(wants.assign or ()), len(wants.at or ()) + 1)
    if wants.max_stages is not None and wants.max_stages < stages:
        given = (
            "max_stages: give 1 or more"
            if wants.max_stages < 1
            else (f"max_stages: {wants.max_stages}, but at or assign ask for {stages} stages; allow as many")
        )
        raise PlanError(given)
    devices = len(allowed_devices(costs, wants))
    if wants.at is not None and len(wants.at) + 1 > devices and not wants.revisit:
        raise PlanError(
            f"at: {len(wants.at) + 1} stages, but {devices} devices may be used; cut less or allow revisit"
        )


def _check_moves(costs: Evaluator, wants: Wants) -> None:
    if not wants.codecs:
        raise PlanError("codecs: none may be chosen; allow raw")
    for codec in wants.codecs:
        parse_codec(codec)
    listed = {entry.transport for entry in costs.profile.links}
    if costs.profile.requester is None or costs.profile.requester in costs.devices:
        return
    for name in wants.transports:
        if listed and not listed & set(wants.transports):
            raise PlanError(
                f"transports: no link of the profile is by {name!r}; allow one of {', '.join(sorted(listed))}"
            )


def check_memory(tables: Tables) -> None:
    """Refuse a model that has a piece which fits no device; raises `PlanError`."""
    smallest = np.array([np.diagonal(size, 1) for size in tables.size])
    missing = smallest - tables.limit[:, None]
    worst = int(missing.min(axis=0).argmax())
    nearest = int(missing[:, worst].argmin())
    short = missing[nearest, worst]
    if short > 0:
        start, stop = tables.places[worst], tables.places[worst + 1]
        raise PlanError(
            f"memory_bytes: operators [{start}, {stop}) cannot be cut and fit no device; "
            f"{tables.devices[nearest]!r} comes nearest and lacks {short:,.0f} bytes"
        )


def check_reach(tables: Tables) -> None:
    """Refuse where the requester can reach nobody, or nobody it; raises `PlanError`."""
    requester = tables.costs.profile.requester
    end = tables.end
    linked = np.isfinite(tables.delay).any(axis=0) | tables.free
    names = ", ".join(tables.devices)
    first = tables.firsts.any(axis=1)
    if not linked[end, :end][first].any():
        starters = ", ".join(np.array(tables.devices)[first])
        raise PlanError(f"links: requester {requester!r} cannot reach {starters}; measure or allow a link")
    if not linked[:end, end].any():
        raise PlanError(f"links: none of {names} can reach requester {requester!r}; measure or allow a link")
    if not np.isfinite(tables.sent).any() and not linked.all():
        _refuse_codecs(tables)


def _refuse_codecs(tables: Tables) -> None:
    if tables.free[tables.end, : tables.end].any():
        return
    raise PlanError(
        f"codecs: {', '.join(tables.wants.codecs)} may be used nowhere with codec_error "
        f"{tables.wants.codec_error}; allow raw"
    )


def explain(tables: Tables, space: Space, max_stages: int, small: bool = True) -> PlanError:
    """Why no chain is possible: memory, by how much, or links, between whom.

    Where the search would not be ``small``, memory is judged as if devices could be used again.
    """
    arcs = Arcs(tables, "memory", Limits(ignore_memory=True))
    path = _least_short(arcs, space, max_stages) if small else _relaxed_path(arcs)
    if not small and path and all(_short(tables, step) <= 0 for step in path):
        return PlanError("memory_bytes: no plan was found that fits all devices; add memory or devices")
    tightest = max(path, key=lambda step: _short(tables, step), default=None)
    if tightest is not None and _short(tables, tightest) > 0:
        return PlanError(
            f"memory_bytes: the model fits nowhere, even split; {tables.devices[tightest.device]!r} comes "
            f"nearest and lacks {_short(tables, tightest):,.0f} bytes; add memory or a device"
        )
    return _explain_links(tables)


def _least_short(arcs: Arcs, space: Space, max_stages: int) -> list[Step]:
    found = sweep(arcs, space, max_stages)
    best = found.best()
    return [] if best is None else found.path(best) or []


def _relaxed_path(arcs: Arcs) -> list[Step]:
    _, steps = relaxed(arcs, completions(arcs))
    starts = [0, *(stop for _, stop, _ in steps)]
    return [Step(d, start, stop, s) for (d, stop, s), start in zip(steps, starts, strict=False)]


def _short(tables: Tables, step: Step) -> float:
    needed = tables.size[step.device, step.start, step.stop] - tables.limit[step.device]
    return float(needed)


def _explain_links(tables: Tables) -> PlanError:
    """Name two ends between which a link is missing."""
    linked = np.isfinite(tables.delay).any(axis=0) | tables.free
    usable = np.isfinite(tables.sent)
    ends = [*tables.devices, tables.costs.profile.requester]
    if not usable.any() or not usable[:, 0].any() or not usable[:, -1].any():
        return PlanError(
            f"codecs: {', '.join(tables.wants.codecs)} cannot carry the input, a cut or the output; allow raw"
        )
    missing = [
        (ends[a], ends[b])
        for a, b in np.argwhere(~linked)
        if a != b and ends[a] is not None and ends[b] is not None
    ]
    if not missing:
        return PlanError("at: no chain keeps all rules at once; relax at, assign, codecs or max_stages")
    return PlanError(
        "links: the devices that are needed cannot reach each other: " + _some(missing) + "; measure or "
        "allow those links"
    )


def _some(pairs: Sequence[tuple[object, object]]) -> str:
    shown = ", ".join(f"no link from {a!r} to {b!r}" for a, b in pairs[:3])
    return shown + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
