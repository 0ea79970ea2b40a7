"""A profile and what is wanted as arrays: the input of every search over chains.

Axes: ``d`` devices, ``e`` ends (the devices and behind them the requester), ``p`` places
(the start of the model, its allowed cuts, its end), ``s`` codecs (the first is raw),
``r`` transports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from collab.core.codecs import RAW, parse_codec
from collab.core.ids import NodeName
from collab.core.profile import DeviceProfile
from collab.planner.chains import Move, Wants
from collab.planner.evaluate import Evaluator

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Tables:
    """Costs of stages and moves between all places; infinite where something is impossible."""

    costs: Evaluator
    wants: Wants
    devices: tuple[NodeName, ...]
    places: tuple[int, ...]
    codecs: tuple[str, ...]
    transports: tuple[str, ...]
    ms: Floats
    """(d, p, p): time of the operators between two places, with the best number of threads."""
    size: Floats
    """(d, p, p): memory of a stage in bytes."""
    limit: Floats
    """(d,): memory of the device in bytes."""
    watts: Floats
    """(d,)"""
    encode: Floats
    """(d, s, p): time to encode what crosses a place."""
    decode: Floats
    """(d, s, p)"""
    sent: Floats
    """(s, p): bytes that travel; infinite where the codec may not be used."""
    giver: tuple[Floats, Floats]
    """(s,) each: the requester's times to encode the input and to decode the output."""
    delay: Floats
    """(r, e, e): latency of the link; infinite where there is none."""
    rate: Floats
    """(r, e, e): time of a byte on the link."""
    joules: Floats
    """(r, e, e): energy of a byte."""
    metered: Floats
    """(r, e, e): 1 where bytes are counted."""
    free: Bools
    """(e, e): moves that cost nothing: within one node, or where there is no requester."""

    @property
    def last(self) -> int:
        """Index of the place behind the last operator."""
        return len(self.places) - 1

    @property
    def end(self) -> int:
        """Index of the requester among the ends."""
        return len(self.devices)

    @cached_property
    def stages(self) -> Bools:
        """(p, p): ranges that may be a stage at all."""
        count = len(self.places)
        allowed = np.triu(np.ones((count, count), bool), 1)
        return allowed & ~np.triu(allowed, 2) if self.wants.at is not None else allowed

    @cached_property
    def firsts(self) -> Bools:
        """(d, p): whether the first stage may be there and end there."""
        ends = np.array(self.places) >= max(1, self.wants.first_ops)
        first_on = self.wants.first_on
        names = np.array([first_on in (None, name) for name in self.devices], bool)
        return names[:, None] & ends[None, :]


def places_of(costs: Evaluator, wants: Wants) -> tuple[int, ...]:
    """Where a stage may start or end, in the order of execution."""
    allowed = (cut.at for cut in costs.profile.cuts) if wants.at is None else wants.at
    return (0, *sorted(allowed), costs.op_count)


def tables_for(
    costs: Evaluator,
    wants: Wants,
    devices: Sequence[NodeName],
    twins: Mapping[NodeName, NodeName] | None = None,
) -> Tables:
    """Arrays for some devices.

    ``twins`` names for a device another one like it; then it stands for all of them, and
    what it pays to itself is what it pays to its twin.
    """
    places = places_of(costs, wants)
    codecs = (RAW, *(c for c in dict.fromkeys(str(parse_codec(c)) for c in wants.codecs) if c != RAW))
    profiles = [costs.devices[name] for name in devices]
    encode, decode = _codec_times(costs, devices, places, codecs)
    requester = costs.profile.requester
    giver = (
        np.array([costs.codec_ms(requester, 0, codec)[0] for codec in codecs]),
        np.array([costs.codec_ms(requester, costs.op_count, codec)[1] for codec in codecs]),
    )
    transports, links = _links(costs, wants, devices, twins or {})
    free = np.zeros((len(devices) + 1,) * 2, bool)
    if wants.revisit:
        np.fill_diagonal(free, True)
    if requester is None:
        free[-1, :] = free[:, -1] = True
    elif requester in devices:
        free[-1, devices.index(requester)] = free[devices.index(requester), -1] = True
    sent = _sent(costs, wants, places, codecs)
    return _without_useless_codecs(
        Tables(
            costs=costs,
            wants=wants,
            devices=tuple(devices),
            places=places,
            codecs=codecs,
            transports=transports,
            ms=np.array([_times(device, places, wants.choose_threads) for device in profiles]),
            size=np.array([_sizes(device, places) for device in profiles]),
            limit=np.array([float(device.memory_bytes) for device in profiles]),
            watts=np.array([device.watts or 0.0 for device in profiles]),
            encode=encode,
            decode=decode,
            sent=sent,
            giver=giver,
            delay=links[0],
            rate=links[1],
            joules=links[2],
            metered=links[3],
            free=free,
        )
    )


def best_threads(costs: Evaluator, names: Sequence[NodeName], start: int, stop: int) -> int:
    """The number of threads with which the slowest of some nodes is fastest; 0 is their profiles' first."""
    counts = [{more.threads for more in costs.devices[name].more_threads} for name in names]
    shared = set.intersection(*counts) if counts else set()

    def slowest(threads: int) -> float:
        return max(costs.stage_ms(costs.devices[name], start, stop, threads) for name in names)

    return min((0, *sorted(shared)), key=slowest)


def _times(device: DeviceProfile, places: Sequence[int], choose_threads: bool) -> Floats:
    ways = [(device.op_ms, device.stage_ms)]
    if choose_threads:
        # The evaluation takes the device's first entry for its own number of threads.
        more = (way for way in device.more_threads if way.threads != device.threads)
        ways += [(way.op_ms, way.stage_ms) for way in more]
    least: Floats = np.minimum.reduce([_between(op_ms, places) + fixed for op_ms, fixed in ways])
    return least


def _sizes(device: DeviceProfile, places: Sequence[int]) -> Floats:
    return _between(device.op_bytes, places) + device.stage_bytes


def _between(parts: Sequence[float], places: Sequence[int]) -> Floats:
    """Sums between all pairs of places."""
    totals = np.concatenate(([0.0], np.cumsum(np.array(parts, float))))[list(places)]
    sums: Floats = totals[None, :] - totals[:, None]
    return sums


def _codec_times(
    costs: Evaluator, devices: Sequence[NodeName], places: Sequence[int], codecs: Sequence[str]
) -> tuple[Floats, Floats]:
    size = np.array([costs.raw_bytes(at) for at in places]) / 1000
    found = np.zeros((2, len(devices), len(codecs), len(places)))
    for d, name in enumerate(devices):
        speeds = {speed.codec: speed for speed in costs.devices[name].codecs}
        for s, codec in enumerate(codecs[1:], 1):
            speed = speeds.get(codec)
            found[0, d, s] = size / speed.encode_mb_s if speed else math.inf
            found[1, d, s] = size / speed.decode_mb_s if speed else math.inf
    return found[0], found[1]


def _sent(costs: Evaluator, wants: Wants, places: Sequence[int], codecs: Sequence[str]) -> Floats:
    sent = np.full((len(codecs), len(places)), math.inf)
    wanted = {str(parse_codec(codec)) for codec in wants.codecs}
    for s, codec in enumerate(codecs):
        if codec not in wanted:
            continue
        for p, at in enumerate(places):
            entry = costs.codec_at(at, codec)
            if entry is not None and wants.allows(codec, entry.error):
                sent[s, p] = costs.raw_bytes(at) / entry.ratio
    return sent


def _links(
    costs: Evaluator, wants: Wants, devices: Sequence[NodeName], twins: Mapping[NodeName, NodeName]
) -> tuple[tuple[str, ...], Floats]:
    listed = dict.fromkeys(entry.transport for entry in costs.profile.links)
    transports = tuple(name for name in listed if not wants.transports or name in wants.transports)
    ends = len(devices) + 1
    tables = np.zeros((4, max(1, len(transports)), ends, ends))
    tables[0] = math.inf
    index = {name: i for i, name in enumerate(devices)}
    requester = costs.profile.requester
    back = {(name, twin): name for name, twin in twins.items()}
    for entry in costs.profile.links:
        if entry.transport not in transports or entry.source == entry.target:
            continue
        r = transports.index(entry.transport)
        row = (entry.latency_ms, 8 / (1000 * entry.mbit_s), (entry.joules_per_mb or 0.0) / 1e6, entry.metered)
        source, target = index.get(entry.source), index.get(entry.target)
        if (stands := back.get((entry.source, entry.target))) is not None:
            tables[:, r, index[stands], index[stands]] = row
        if source is not None and target is not None:
            tables[:, r, source, target] = row
        if entry.source == requester and target is not None:
            tables[:, r, -1, target] = row
        if entry.target == requester and source is not None:
            tables[:, r, source, -1] = row
    return transports or ("grpc",), tables


def _without_useless_codecs(tables: Tables) -> Tables:
    """Leave out codecs that may be used nowhere or that another one beats everywhere."""
    count = len(tables.codecs)
    figures = [
        np.concatenate(
            [
                part.ravel()
                for part in (
                    tables.encode[:, s],
                    tables.decode[:, s],
                    tables.sent[s],
                    tables.giver[0][s],
                    tables.giver[1][s],
                )
            ]
        )
        for s in range(count)
    ]
    kept = [0]
    for s in range(1, count):
        if not np.isfinite(tables.sent[s]).any():
            continue
        others = [o for o in range(count) if o != s and (figures[o] <= figures[s]).all()]
        # Of equals the first stays.
        if not any((figures[o] < figures[s]).any() or o < s for o in others):
            kept.append(s)
    if len(kept) == count:
        return tables
    parts = {field: getattr(tables, field) for field in tables.__dataclass_fields__}
    parts |= {
        "codecs": tuple(tables.codecs[s] for s in kept),
        "encode": tables.encode[:, kept],
        "decode": tables.decode[:, kept],
        "sent": tables.sent[kept],
        "giver": (tables.giver[0][kept], tables.giver[1][kept]),
    }
    return Tables(**parts)


def move_name(tables: Tables, transport: int, codec: int) -> Move:
    """The move that stands at an index of transports and codecs."""
    return Move(tables.transports[transport], tables.codecs[codec])
