"""Trials and counts as they travel (``protos/collab/v1/control.proto``)."""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import PlanName, check_name
from collab.core.plan import from_json, to_json
from collab.errors import LimitExceeded, ProtocolError
from collab.updates.health.gate import Bounds
from collab.updates.health.trial import FIGURES, MAX_REASON, Counts, Trial, TrialPhase

MAX_CANDIDATE_BYTES: Final = 1 << 20
"""Of a candidate's plan as JSON."""
MAX_BOUNDS_BYTES: Final = 4096


def trial_message(trial: Trial) -> pb.Trial:
    """A trial as nodes and requesters get it."""
    return pb.Trial(
        plan=trial.plan,
        number=trial.number,
        phase=trial.phase,
        candidate=b"" if trial.candidate is None else to_json(trial.candidate),
        bounds=msgspec.json.encode(trial.bounds),
    )


def trial_of(message: pb.Trial) -> Trial | None:
    """A trial that came, None for none; raises `ProtocolError`, `LimitExceeded` or `PlanError`."""
    if not message.number:
        return None
    if len(message.candidate) > MAX_CANDIDATE_BYTES or len(message.bounds) > MAX_BOUNDS_BYTES:
        raise LimitExceeded(
            f"trial: {len(message.candidate)} bytes of a plan and {len(message.bounds)} of bounds; "
            f"{MAX_CANDIDATE_BYTES} and {MAX_BOUNDS_BYTES} are taken"
        )
    return Trial(
        plan=PlanName(check_name(message.plan, "trial.plan:")),
        number=message.number,
        phase=phase_of(message.phase),
        candidate=from_json(message.candidate) if message.candidate else None,
        bounds=_bounds_of(message.bounds) if message.bounds else Bounds(),
    )


def counts_message(counts: Counts) -> pb.TrialCounts:
    """Counts as nodes and coordinators get them."""
    figures = {name: getattr(counts, name) for name in FIGURES}
    return pb.TrialCounts(number=counts.number, phase=counts.phase, reason=counts.reason, **figures)


def counts_of(message: pb.TrialCounts) -> Counts:
    """Counts that came; raises `ProtocolError`."""
    figures = {name: int(getattr(message, name)) for name in FIGURES}
    phase, reason = phase_of(message.phase), message.reason[:MAX_REASON]
    return Counts(number=message.number, phase=phase, reason=reason, **figures)


def phase_of(text: str) -> TrialPhase:
    """A phase that came; raises `ProtocolError`."""
    for phase in get_args(TrialPhase):
        if text == phase:
            known: TrialPhase = phase
            return known
    raise ProtocolError(f"trial.phase: {text[:40]!r} is not known here; upgrade the older end")


def _bounds_of(data: bytes) -> Bounds:
    """Bounds of a newer release may have fields that are not known here."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, object])
        known = {name: value for name, value in fields.items() if name in Bounds.__struct_fields__}
        return msgspec.convert(known, Bounds)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"trial.bounds: {error}") from error
