"""Devices that are alike in everything that counts, so that it does not matter which one is taken."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from collab.core.ids import NodeName
from collab.planner.evaluate import Evaluator

Type = tuple[NodeName, ...]
"""Devices that may stand for each other, in the profile's order."""


def device_types(costs: Evaluator, devices: Sequence[NodeName], apart: Sequence[NodeName]) -> list[Type]:
    """Devices by type: alike themselves, and swapping two changes no link.

    Those in ``apart`` are types of their own: rules name them.
    """
    profile = costs.profile
    ends = [*devices, *([profile.requester] if profile.requester not in (None, *devices) else [])]
    links: dict[tuple[str, str], list[tuple[object, ...]]] = {}
    for entry in profile.links:
        figures = (entry.transport, entry.latency_ms, entry.mbit_s, entry.joules_per_mb, entry.metered)
        links.setdefault((entry.source, entry.target), []).append(figures)
    known = {pair: tuple(sorted(entries, key=str)) for pair, entries in links.items()}
    looks = {name: _looks(costs, name) for name in devices}
    own = {*apart, profile.requester}
    found: list[list[NodeName]] = []
    for name in devices:
        for group in found:
            first = group[0]
            if name in own or first in own or looks[name] != looks[first]:
                continue
            if _alike(known, first, name, [str(end) for end in ends]):
                group.append(name)
                break
        else:
            found.append([name])
    return [tuple(group) for group in found]


def _looks(costs: Evaluator, name: NodeName) -> bytes:
    """What a device's costs depend on."""
    device = costs.devices[name]
    fields = (
        device.memory_bytes,
        device.op_ms,
        device.op_bytes,
        device.threads,
        device.stage_ms,
        device.stage_bytes,
        device.more_threads,
        device.codecs,
        device.watts,
    )
    return msgspec.json.encode(fields)


def _alike(
    links: dict[tuple[str, str], tuple[tuple[object, ...], ...]], a: str, b: str, ends: Sequence[str]
) -> bool:
    if links.get((a, b)) != links.get((b, a)):
        return False
    return all(
        links.get((a, end)) == links.get((b, end)) and links.get((end, a)) == links.get((end, b))
        for end in ends
        if end not in (a, b)
    )
