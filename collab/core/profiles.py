"""Reading, checking, merging and ageing profiles; pure.

Errors are `PlanError` and begin with the field's path, such as ``links[3].mbit_s``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from collab.core.codecs import parse_codec
from collab.core.ids import check_name
from collab.core.profile import (
    PROFILE_VERSION,
    CodecAt,
    CodecSpeed,
    CutProfile,
    DeviceProfile,
    LinkEntry,
    ModelTensor,
    Profile,
    ThreadedTimes,
)
from collab.errors import InputError, PlanError

MAX_PROFILE_BYTES: Final = 64 << 20
"""Of a profile file."""
_MAX_END: Final = 128
"""Characters of an end's name."""

T = TypeVar("T")
Dated = TypeVar("Dated", DeviceProfile, LinkEntry)


def decode_profile(data: bytes) -> Profile:
    """A checked profile from its JSON; raises `PlanError`."""
    if len(data) > MAX_PROFILE_BYTES:
        raise PlanError(f"{len(data)} bytes are over {MAX_PROFILE_BYTES}")
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlanError(_located(str(error))) from error
    check(profile)
    return profile


def _located(text: str) -> str:
    """A decoder's message with the field's path in front, as all of these messages are written."""
    what, mark, where = text.rpartition(" - at `")
    if not mark:
        return f"not a profile: {text}"
    return f"{where.rstrip('`').removeprefix('$').removeprefix('.') or 'profile'}: {what}"


def check_model(profile: Profile, sha256: str) -> None:
    """Raise `PlanError` if a profile is of another model."""
    if profile.model_sha256 != sha256:
        raise PlanError(
            f"model_sha256: the profile is of model {profile.model_sha256[:12]!r}, this one is "
            f"{sha256[:12]!r}; run: collab profile"
        )


# --- checking -----------------------------------------------------------------------


def check(profile: Profile) -> None:
    """Raise `PlanError` for the first thing that makes a profile unusable."""
    if profile.version != PROFILE_VERSION:
        raise PlanError(f"version: {profile.version}; this collab reads {PROFILE_VERSION}")
    if not profile.devices:
        raise PlanError("devices: there is none; add at least one")
    ops = len(profile.devices[0].op_ms)
    if not ops:
        raise PlanError("devices[0].op_ms: there is no operator; add the time of each")
    for where, device in _listed("devices", profile.devices):
        _check_device(where, device, ops)
    _once("devices", "name", [device.name for device in profile.devices])
    _check_model_part(profile, ops)
    _check_ends(profile)
    _moment("measured_at", profile.measured_at)


def _check_model_part(profile: Profile, ops: int) -> None:
    """What a profile says of the model alone."""
    _at_least("input_bytes", profile.input_bytes, 0)
    _at_least("output_bytes", profile.output_bytes, 0)
    _check_cuts(profile.cuts, ops)
    _check_codecs_at("input_codecs", profile.input_codecs)
    _check_codecs_at("output_codecs", profile.output_codecs)
    _check_speeds("requester_codecs", profile.requester_codecs)
    if profile.operators and len(profile.operators) != ops:
        raise PlanError(f"operators: {len(profile.operators)} names for {ops} operators; give one for each")
    for where, tensor in _listed("tensors", profile.tensors):
        _check_tensor(where, tensor, ops)
    _once("tensors", "name", [tensor.name for tensor in profile.tensors])


def _check_device(where: str, device: DeviceProfile, ops: int) -> None:
    _name(f"{where}.name", device.name)
    _at_least(f"{where}.memory_bytes", device.memory_bytes, 1)
    _at_least(f"{where}.threads", device.threads, 1)
    _at_least(f"{where}.stage_bytes", device.stage_bytes, 0)
    _times(where, device.op_ms, device.stage_ms, ops)
    _length(f"{where}.op_bytes", len(device.op_bytes), ops)
    for i, size in enumerate(device.op_bytes):
        _at_least(f"{where}.op_bytes[{i}]", size, 0)
    for at, more in _listed(f"{where}.more_threads", device.more_threads):
        _at_least(f"{at}.threads", more.threads, 1)
        _times(at, more.op_ms, more.stage_ms, ops)
    _once(
        f"{where}.more_threads",
        "threads",
        [device.threads, *(more.threads for more in device.more_threads)],
        1,
    )
    _check_speeds(f"{where}.codecs", device.codecs)
    for field in ("watts", "load", "fit_error"):
        value = getattr(device, field)
        if value is not None:
            _not_negative(f"{where}.{field}", value)
    _quantiles(f"{where}.run_quantiles", device.run_quantiles)
    _moment(f"{where}.measured_at", device.measured_at)


def _quantiles(where: str, known: Sequence[tuple[float, float]]) -> None:
    """Shares from 0 to 1 that ascend, and factors that do not fall."""
    shares, factors = [share for share, _ in known], [factor for _, factor in known]
    if known and (shares[0] != 0 or shares[-1] != 1 or any(a >= b for a, b in pairwise(shares))):
        raise PlanError(f"{where}: shares {shares}; begin with 0, end with 1, and let them ascend")
    for i, factor in enumerate(factors):
        _not_negative(f"{where}[{i}][1]", factor)
    if any(a > b for a, b in pairwise(factors)):
        raise PlanError(f"{where}: factors {factors}; let none be below the one before")


def _times(where: str, op_ms: Sequence[float], stage_ms: float, ops: int) -> None:
    _length(f"{where}.op_ms", len(op_ms), ops)
    for i, value in enumerate(op_ms):
        _not_negative(f"{where}.op_ms[{i}]", value)
    _not_negative(f"{where}.stage_ms", stage_ms)


def _check_cuts(cuts: Sequence[CutProfile], ops: int) -> None:
    before = 0
    for where, cut in _listed("cuts", cuts):
        if not 1 <= cut.at < ops:
            room = f"1 to {ops - 1}" if ops > 1 else "none, for a model of one operator"
            raise PlanError(f"{where}.at: {cut.at} is out of range; cuts of {ops} operators are {room}")
        if cut.at <= before:
            how = "stands there twice" if cut.at == before else f"comes after {before}"
            raise PlanError(f"{where}.at: {cut.at} {how}; list each cut once, in ascending order")
        _at_least(f"{where}.bytes", cut.bytes, 0)
        _check_codecs_at(f"{where}.codecs", cut.codecs)
        before = cut.at


def _check_codecs_at(where: str, codecs: Sequence[CodecAt]) -> None:
    for at, entry in _listed(where, codecs):
        _codec(at, entry.codec)
        _positive(f"{at}.ratio", entry.ratio)
        _not_negative(f"{at}.error", entry.error)
    _once(where, "codec", [str(parse_codec(entry.codec)) for entry in codecs])


def _check_speeds(where: str, speeds: Sequence[CodecSpeed]) -> None:
    for at, speed in _listed(where, speeds):
        _codec(at, speed.codec)
        _positive(f"{at}.encode_mb_s", speed.encode_mb_s)
        _positive(f"{at}.decode_mb_s", speed.decode_mb_s)
    _once(where, "codec", [str(parse_codec(speed.codec)) for speed in speeds])


def _check_tensor(where: str, tensor: ModelTensor, ops: int) -> None:
    _at_least(f"{where}.bytes", tensor.bytes, 0)
    if not -1 <= tensor.made < ops:
        raise PlanError(f"{where}.made: {tensor.made} is out of range; give an operator, or -1 for an input")
    for reader in tensor.readers:
        if not tensor.made < reader < ops:
            raise PlanError(f"{where}.readers: operator {reader} cannot read what {tensor.made} makes")


def _check_ends(profile: Profile) -> None:
    """Links lead between devices and the requester."""
    ends = {device.name for device in profile.devices}
    requester = profile.requester
    if requester is not None:
        if not 0 < len(requester) <= _MAX_END:
            raise PlanError(f"requester: give null, or a name of 1 to {_MAX_END} characters")
        linked = {end for link in profile.links for end in (link.source, link.target)}
        if requester not in ends | linked:
            raise PlanError(
                f"requester: {requester[:80]!r} is no device, and no link names it; add links or give null"
            )
        ends.add(requester)
    for where, link in _listed("links", profile.links):
        for field, end in (("from", link.source), ("to", link.target)):
            if end not in ends:
                raise PlanError(f"{where}.{field}: {end[:80]!r} is neither a device nor the requester")
        if link.source == link.target:
            raise PlanError(f"{where}.to: {link.target[:80]!r} is the link's other end, too")
        _check_link(where, link)
    _once("links", "link", [_key(link) for link in profile.links])


def _check_link(where: str, link: LinkEntry) -> None:
    _not_negative(f"{where}.latency_ms", link.latency_ms)
    _positive(f"{where}.mbit_s", link.mbit_s)
    if not 0 < len(link.transport) <= _MAX_END:
        raise PlanError(f"{where}.transport: give a transport's name, such as grpc")
    _not_negative(f"{where}.jitter_ms", link.jitter_ms)
    if not 0 <= link.loss <= 1:
        raise PlanError(f"{where}.loss: {link.loss:g}; give a share from 0 to 1")
    if link.joules_per_mb is not None:
        _not_negative(f"{where}.joules_per_mb", link.joules_per_mb)
    _moment(f"{where}.measured_at", link.measured_at)


def _listed(where: str, entries: Iterable[T]) -> Iterator[tuple[str, T]]:
    return ((f"{where}[{i}]", entry) for i, entry in enumerate(entries))


def _once(where: str, what: str, values: Sequence[object], offset: int = 0) -> None:
    """``offset`` of the values stand before the list that is named."""
    seen: set[object] = set()
    for i, value in enumerate(values):
        if value in seen:
            text = " ".join(value) if isinstance(value, tuple) else str(value)
            raise PlanError(f"{where}[{i - offset}]: {what} {text[:200]!r} stands there twice; keep one")
        seen.add(value)


def _length(where: str, count: int, ops: int) -> None:
    if count != ops:
        raise PlanError(f"{where}: {count} values where devices[0].op_ms has {ops}; give one an operator")


def _name(where: str, value: str) -> None:
    try:
        check_name(value, f"{where}:")
    except InputError as error:
        raise PlanError(str(error)) from None


def _codec(where: str, value: str) -> None:
    try:
        parse_codec(value)
    except PlanError as error:
        raise PlanError(f"{where}.codec: {error}") from None


def _at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise PlanError(f"{where}: {value}; give {least} or more")


def _not_negative(where: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise PlanError(f"{where}: {value:g}; give 0 or more")


def _positive(where: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PlanError(f"{where}: {value:g}; give more than 0")


def _moment(where: str, text: str) -> datetime | None:
    """The time that a date names; None for an empty one."""
    if not text:
        return None
    try:
        # Python 3.10 does not know the Z of RFC 3339.
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1] in "zZ" else text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise PlanError(
            f"{where}: {text[:80]!r} is no ISO 8601 time with a zone, such as 2030-01-31T12:00:00+00:00"
        )
    return moment


# --- merging and ageing ----------------------------------------------------------------


def merge(old: Profile, new: Profile) -> Profile:
    """Both measurements in one profile, checked; of each device and link the newer entry.

    What only one of them has is kept: devices, links, codecs, numbers of threads, and what
    was declared by hand.  Facts of the model and the requester are those of ``new``; links
    of another requester are left out.  Raises `PlanError` for profiles of different models.
    """
    if old.model_sha256 != new.model_sha256:
        raise PlanError(
            f"model_sha256: the profiles are of two models, {old.model_sha256[:12]!r} and "
            f"{new.model_sha256[:12]!r}; keep a file for each"
        )
    devices = _newest(old.devices, new.devices, lambda d: d.name, _merged_device)
    ends = {device.name for device in devices} | ({new.requester} if new.requester is not None else set())
    links = _newest(old.links, new.links, _key, _merged_link)
    codecs_before = {cut.at: cut.codecs for cut in old.cuts}
    merged = replace(
        new,
        model=new.model or old.model,
        operators=new.operators or old.operators,
        tensors=new.tensors or old.tensors,
        cuts=tuple(
            replace(cut, codecs=_joined(codecs_before.get(cut.at, ()), cut.codecs, _codec_of))
            for cut in new.cuts
        ),
        input_codecs=_joined(old.input_codecs, new.input_codecs, _codec_of),
        output_codecs=_joined(old.output_codecs, new.output_codecs, _codec_of),
        requester_codecs=_joined(
            old.requester_codecs if old.requester == new.requester else (), new.requester_codecs, _codec_of
        ),
        devices=devices,
        links=tuple(link for link in links if {link.source, link.target} <= ends),
    )
    check(merged)
    return merged


def aged(profile: Profile, now: datetime, max_age: timedelta) -> tuple[str, ...]:
    """Lines naming the devices and links that were measured longer than ``max_age`` before ``now``.

    Entries without a date were written by hand and do not age.  ``now`` has a zone.
    """
    entries: Sequence[tuple[str, str]] = (
        *((f"device {device.name}", device.measured_at) for device in profile.devices),
        *(
            (f"link {' → '.join(_key(link)[:2])} ({link.transport})", link.measured_at)
            for link in profile.links
        ),
    )
    stale = []
    for what, text in entries:
        moment = _moment(what, text)
        if moment is not None and now - moment > max_age:
            stale.append(f"{what}: measured {(now - moment).total_seconds() / 86_400:.1f} days ago")
    return tuple(stale)


def _key(link: LinkEntry) -> tuple[str, str, str]:
    return (link.source, link.target, link.transport)


def _codec_of(entry: CodecAt | CodecSpeed) -> str:
    return str(parse_codec(entry.codec))


def _joined(old: Sequence[T], new: Sequence[T], key: Callable[[T], object]) -> tuple[T, ...]:
    """New entries, and old ones that have no newer."""
    return tuple(({key(entry): entry for entry in old} | {key(entry): entry for entry in new}).values())


def _newest(
    old: Sequence[Dated],
    new: Sequence[Dated],
    key: Callable[[Dated], object],
    merged: Callable[[Dated, Dated], Dated],
) -> tuple[Dated, ...]:
    """Entries by key; of two the newer, with what only the older says."""
    found = {key(entry): entry for entry in old}
    for entry in new:
        before = found.get(key(entry))
        if before is not None:
            entry = merged(entry, before) if _is_older(before, entry) else merged(before, entry)
        found[key(entry)] = entry
    return tuple(found.values())


def _is_older(first: DeviceProfile | LinkEntry, second: DeviceProfile | LinkEntry) -> bool:
    """Whether the first is not newer; an entry without a date is older than any with one."""
    before, after = (_moment("measured_at", entry.measured_at) for entry in (first, second))
    return before is None or (after is not None and before <= after)


def _merged_device(newer: DeviceProfile, older: DeviceProfile) -> DeviceProfile:
    known = {newer.threads, *(more.threads for more in newer.more_threads)}
    main = ThreadedTimes(threads=older.threads, op_ms=older.op_ms, stage_ms=older.stage_ms)
    kept = tuple(more for more in (main, *older.more_threads) if more.threads not in known)
    return replace(
        newer,
        more_threads=(*newer.more_threads, *kept),
        codecs=_joined(older.codecs, newer.codecs, _codec_of),
        watts=older.watts if newer.watts is None else newer.watts,
    )


def _merged_link(newer: LinkEntry, older: LinkEntry) -> LinkEntry:
    return replace(
        newer,
        metered=newer.metered or older.metered,
        joules_per_mb=older.joules_per_mb if newer.joules_per_mb is None else newer.joules_per_mb,
    )
