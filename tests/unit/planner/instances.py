"""Random small profiles and wants for comparing planners."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import msgspec

from collab.core.profile import (
    CodecAt,
    CodecSpeed,
    CutProfile,
    DeviceProfile,
    LinkEntry,
    Profile,
    ThreadedTimes,
)
from collab.planner.chains import OBJECTIVES, Wants

LOSSY = ("int8", "int8+zstd", "raw+lz4")


@dataclass(frozen=True)
class Instance:
    """What a planner is asked."""

    seed: int
    profile: Profile
    wants: Wants


def instance(seed: int, kind: str = "any", limit: int = 400) -> Instance:
    """A random instance with about ``limit`` chains at most, or ten times as many for every tenth.

    ``kind`` is ``any``, ``revisit``, ``replicas``, ``assign`` or ``plain``.
    """
    draw = random.Random(seed)
    small = kind in ("revisit", "replicas", "assign")
    ops = draw.randint(2, 5 if small else 9)
    names = [f"d{i}" for i in range(draw.randint(1, 3 if small else 4))]
    codecs = tuple(draw.sample(LOSSY, draw.randint(0, 2))) if kind != "plain" else ()
    profile = _profile(draw, ops, names, codecs, kind)
    wants = _wants(draw, profile, codecs, kind)
    while _chains(profile, wants) > (limit if seed % 10 else 10 * limit) and len(profile.cuts) > 1:
        unused = [cut.at for cut in profile.cuts if cut.at not in (wants.at or ())]
        if not unused:
            break
        dropped = draw.choice(unused)
        profile = msgspec.structs.replace(
            profile, cuts=tuple(cut for cut in profile.cuts if cut.at != dropped)
        )
    return Instance(seed, profile, wants)


def _chains(profile: Profile, wants: Wants) -> float:
    """About how many chains there are."""
    devices, total = len(profile.devices) - len(wants.forbidden), 0.0
    cuts = len(profile.cuts)
    ways = len({link.transport for link in profile.links}) * len(wants.codecs)
    for stages in range(1, min(cuts + 1, wants.max_stages or cuts + 1) + 1):
        if wants.at is not None and len(wants.at) != stages - 1:
            continue
        placed = math.perm(devices, stages) if stages <= devices else 0
        if wants.revisit or wants.max_replicas > 1:
            groups = sum(math.comb(devices, size) for size in range(1, wants.max_replicas + 1))
            placed = groups**stages if wants.revisit else math.perm(groups, stages)
        if wants.assign is not None:
            placed = len(wants.assign) == stages
        threads = 2**stages if wants.choose_threads else 1
        sets = math.comb(cuts, stages - 1) if wants.at is None else 1
        total += sets * placed * threads * max(1, ways) ** (stages + (profile.requester is not None))
    return total


def _profile(draw: random.Random, ops: int, names: list[str], codecs: tuple[str, ...], kind: str) -> Profile:
    at = sorted(draw.sample(range(1, ops), draw.randint(1, ops - 1))) if ops > 1 else []
    requester = draw.choice([None, draw.choice(names), "outside"])
    ends = [*names, *(["outside"] if requester == "outside" else [])]
    transports = draw.choice([["grpc"], ["grpc", "mqtt"]])
    missing = draw.choice([0.0, 0.0, 0.15, 0.4])
    links = tuple(
        LinkEntry(
            source=a,
            target=b,
            transport=transport,
            latency_ms=draw.choice([0.0, draw.uniform(0, 2)]),
            mbit_s=draw.uniform(1, 100),
            metered=draw.random() < 0.3,
            joules_per_mb=draw.choice([None, draw.uniform(0, 2)]),
        )
        for a in ends
        for b in ends
        for transport in transports
        if a != b and draw.random() >= missing
    )
    tight = draw.random() < 0.4
    same = draw.random() < 0.25
    devices = [_device(draw, name, ops, codecs, tight) for name in names]
    if same:
        fields = {f: getattr(devices[0], f) for f in devices[0].__struct_fields__}
        devices = [DeviceProfile(**{**fields, "name": name}) for name in names]

    def effects() -> tuple[CodecAt, ...]:
        return tuple(
            CodecAt(
                codec=c, ratio=draw.uniform(1, 8), error=0.0 if c.startswith("raw") else draw.uniform(0, 0.02)
            )
            for c in codecs
            if draw.random() < 0.85
        )

    return Profile(
        model_sha256="0" * 64,
        input_bytes=draw.randint(0, 20_000),
        output_bytes=draw.randint(0, 5_000),
        cuts=tuple(CutProfile(at=k, bytes=draw.randint(0, 20_000), codecs=effects()) for k in at),
        devices=tuple(devices),
        links=links,
        requester=requester,
        input_codecs=effects(),
        output_codecs=effects(),
        requester_codecs=_speeds(draw, codecs) if requester == "outside" else (),
    )


def _device(draw: random.Random, name: str, ops: int, codecs: tuple[str, ...], tight: bool) -> DeviceProfile:
    speed = draw.uniform(0.3, 3)
    op_ms = tuple(draw.choice([0.0, draw.uniform(0, 4) * speed]) for _ in range(ops))
    op_bytes = tuple(draw.randint(0, 100) for _ in range(ops))
    more = tuple(
        ThreadedTimes(
            threads=threads,
            op_ms=tuple(t * draw.uniform(0.4, 1.3) for t in op_ms),
            stage_ms=draw.uniform(0, 0.5),
        )
        for threads in (2, 4)
        if draw.random() < 0.4
    )
    return DeviceProfile(
        name=name,
        memory_bytes=draw.randint(100, 80 * ops + 20) if tight else 10_000,
        op_ms=op_ms,
        op_bytes=op_bytes,
        stage_ms=draw.choice([0.0, draw.uniform(0, 0.5)]),
        stage_bytes=draw.choice([0, draw.randint(0, 50)]),
        more_threads=more,
        codecs=_speeds(draw, codecs),
        watts=draw.choice([None, draw.uniform(1, 15)]),
    )


def _speeds(draw: random.Random, codecs: tuple[str, ...]) -> tuple[CodecSpeed, ...]:
    return tuple(
        CodecSpeed(codec=c, encode_mb_s=draw.uniform(2, 100), decode_mb_s=draw.uniform(2, 100))
        for c in codecs
        if draw.random() < 0.9
    )


def _wants(draw: random.Random, profile: Profile, codecs: tuple[str, ...], kind: str) -> Wants:
    names = [device.name for device in profile.devices]
    raw = ("raw",) if draw.random() < 0.9 or not codecs else ()
    places = [cut.at for cut in profile.cuts]
    fields: dict[str, object] = {
        "objective": draw.choice(OBJECTIVES),
        "codecs": (*raw, *codecs),
        "codec_error": draw.choice([None, 0.01, 1.0]),
        "choose_threads": draw.random() < 0.3,
    }
    if kind == "plain":
        return Wants(**fields)
    if draw.random() < 0.2:
        fields["transports"] = (draw.choice(["grpc", "mqtt"]),)
    if draw.random() < 0.15 and len(names) > 1:
        fields["forbidden"] = frozenset([draw.choice(names)])
    if draw.random() < 0.2:
        fields["first_on"] = draw.choice(names)
    if draw.random() < 0.2:
        fields["first_ops"] = draw.randint(1, len(profile.devices[0].op_ms))
    if draw.random() < 0.2:
        fields["max_stages"] = draw.randint(1, 3)
    if draw.random() < 0.15:
        fields["at"] = tuple(sorted(draw.sample(places, draw.randint(0, min(len(places), 2)))))
    if draw.random() < 0.25:
        fields["deadline_ms"] = draw.uniform(1, 40)
    if kind == "revisit":
        fields["revisit"] = True
    if kind == "replicas":
        fields["max_replicas"] = draw.randint(2, 3)
        fields["objective"] = draw.choice(["throughput", "throughput", draw.choice(OBJECTIVES)])
    if kind == "assign" or (kind == "any" and draw.random() < 0.15):
        chosen = draw.sample(names, draw.randint(1, len(names)))
        stages = [(name,) for name in chosen]
        if kind == "assign" and len(chosen) > 1 and draw.random() < 0.6:
            stages = [tuple(chosen[:2]), *stages[2:]]
        fields["assign"] = tuple(stages)
        fields.pop("first_on", None)
    return Wants(**fields)
