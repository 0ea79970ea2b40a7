"""When another order of a model's operators makes a faster plan, and its profile then."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from collab.core.ids import NodeName
from collab.core.profile import CutProfile, DeviceProfile, Profile
from collab.planner.chains import Option, Wants
from collab.planner.mincut import DagCut, Together, dag_cut, kept_together, live_bytes

GAIN: Final = 0.01
"""Another order is worth a second model file from this share of latency on."""


def dag_order_helps(
    profile: Profile, wants: Wants, best: Option | None, *, together: Together | None = None
) -> DagCut | None:
    """The fastest partition of all pairs of devices if it is over 1 % faster than a chain.

    Args:
        profile: what things cost.
        wants: what the chain was planned for.
        best: the best chain in the order of execution, None where there is none.
        together: as for `dag_cut`.

    Returns:
        None where another order does not help, or what is wanted is not latency alone.  Where
        the first stage's device is wanted, no model input crosses.
    """
    fixed = wants.at is not None or wants.assign is not None or wants.first_ops > 1
    if wants.objective != "latency" or fixed or wants.max_stages == 1 or not profile.tensors:
        return None
    inputs = {t.name for t in profile.tensors if t.made < 0}
    limit = best.costs.latency_ms * (1 - GAIN) if best else math.inf
    found: DagCut | None = None
    for near, far in _pairs(profile, wants):
        if _least_ms(near, far) >= limit:
            continue
        cut = dag_cut(profile, near.name, far.name, transports=wants.transports, together=together)
        if cut is None or cut.latency_ms >= limit or cut.order == tuple(range(len(cut.order))):
            continue
        # Where the first stage is pinned to a device, the raw input must not leave it.
        if wants.first_on is None or inputs.isdisjoint(cut.crossing):
            found, limit = cut, cut.latency_ms
    return found


def _pairs(profile: Profile, wants: Wants) -> Iterator[tuple[DeviceProfile, DeviceProfile]]:
    """Linked devices that may be near and far, one pair of those that are alike."""
    figures = [(d.op_ms, d.op_bytes, d.stage_ms, d.stage_bytes, d.memory_bytes) for d in profile.devices]
    kinds = {d.name: figures.index(own) for d, own in zip(profile.devices, figures, strict=True)}
    links: dict[tuple[NodeName | None, NodeName | None], tuple[tuple[str, float, float], ...]] = {}
    for e in profile.links:
        pair = (e.source, e.target)
        links[pair] = (*links.get(pair, ()), (e.transport, e.latency_ms, e.mbit_s))
    usable = [d for d in profile.devices if d.name not in wants.forbidden]
    seen = set()
    for near, far in itertools.permutations(usable, 2):
        ways = [(profile.requester, near.name), (near.name, far.name), (far.name, profile.requester)]
        alike = (kinds[near.name], kinds[far.name], *(links.get(way, way[0] == way[1]) for way in ways))
        if wants.first_on in (None, near.name) and ways[1] in links and alike not in seen:
            seen.add(alike)
            yield near, far


def _least_ms(near: DeviceProfile, far: DeviceProfile) -> float:
    """What both devices compute in any partition, at least."""
    return near.stage_ms + far.stage_ms + sum(map(min, near.op_ms, far.op_ms))


def in_order(
    profile: Profile, order: Sequence[int], *, model_sha256: str, together: Together | None = None
) -> Profile:
    """The profile of the model whose operators run in another order.

    Args:
        profile: with its ``tensors``; codecs at cuts are not known in another order.
        order: old numbers of the operators in the new order.
        model_sha256: of the reordered model.
        together: as for `dag_cut`; cuts that part them are not listed.
    """
    place = {old: new for new, old in enumerate(order)}
    tensors = tuple(
        msgspec.structs.replace(
            t, made=place.get(t.made, -1), readers=tuple(sorted(place[r] for r in t.readers))
        )
        for t in profile.tensors
    )
    groups = [[place[k] for k in range(a, b + 1)] for a, b in kept_together(profile, together)]
    barred = {k for group in groups for k in range(min(group) + 1, max(group) + 1)}
    sizes = live_bytes(tensors, len(order))
    devices = tuple(
        msgspec.structs.replace(
            d,
            op_ms=tuple(d.op_ms[k] for k in order),
            op_bytes=tuple(d.op_bytes[k] for k in order),
            more_threads=tuple(
                msgspec.structs.replace(m, op_ms=tuple(m.op_ms[k] for k in order)) for m in d.more_threads
            ),
        )
        for d in profile.devices
    )
    return msgspec.structs.replace(
        profile,
        model_sha256=model_sha256,
        cuts=tuple(CutProfile(at=k, bytes=sizes[k]) for k in range(1, len(order)) if k not in barred),
        devices=devices,
        operators=tuple(profile.operators[k] for k in order) if profile.operators else (),
        tensors=tensors,
    )
