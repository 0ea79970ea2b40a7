"""Streams: frames of a node's source through a plan, and the answers to sinks.

A plan names what a node's own settings declare, never a path, a device or an address.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from collab.core.frozen import Frozen
from collab.core.ids import NodeName, check_name
from collab.core.preprocessing import Preprocessing, Quantisation
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, InputError, Refused

MAX_STREAMS: Final = 16
"""Of one plan."""
MAX_SINKS: Final = 8
"""Of one stream."""
MAX_WAITING: Final = 1024
"""Frames that may wait, and requests of one stream under way at a time."""
MAX_FPS: Final = 1000.0
MAX_DEADLINE_MS: Final = 3_600_000.0
MAX_LABELS: Final = 10_000
MAX_LABEL: Final = 256
"""Characters."""


class FramePolicy(NamedTuple):
    """What happens to frames that come while others are under way.

    ``latest``: one waits, and a newer one takes its place.  ``queue:N``: N wait; with one
    more its source waits, or with ``queue:N:drop-oldest`` the oldest goes.
    """

    waiting: int
    """How many may wait."""
    drops: bool
    """Whether the oldest makes room; else the source waits."""

    def __str__(self) -> str:
        full = ":drop-oldest" if self.drops else ""
        return "latest" if self == LATEST else f"queue:{self.waiting}{full}"


LATEST: Final = FramePolicy(1, True)


def parse_policy(text: str, where: str) -> FramePolicy:
    """Read a policy; raises `InputError`."""
    if text == "latest":
        return LATEST
    kind, _, rest = text.partition(":")
    number, _, full = rest.partition(":")
    if (
        kind != "queue"
        or not number.isascii()
        or not number.isdigit()
        or full not in ("", "wait", "drop-oldest")
    ):
        raise InputError(f"{where}: {text[:60]!r}; give latest, queue:N or queue:N:drop-oldest")
    if not 1 <= len(number) <= 6 or not 1 <= int(number) <= MAX_WAITING:
        raise InputError(f"{where}: {text[:60]!r}; a queue holds 1 to {MAX_WAITING} frames")
    return FramePolicy(int(number), full == "drop-oldest")


class SourceRef(Frozen, frozen=True, kw_only=True):
    """A source that a node's settings declare under ``[sources.NAME]``."""

    node: NodeName
    name: str


class SinkRef(Frozen, frozen=True, kw_only=True):
    """A sink that the settings of the source's node declare under ``[sinks.NAME]``."""

    name: str
    node: NodeName | None = None
    """The source's, which may be left out."""


class Reading(Frozen, frozen=True, kw_only=True):
    """How frames become the plan's input, and its answers words; of the packaged model."""

    preprocessing: Preprocessing
    quantisation: Quantisation | None = None
    """Of the plan's input."""
    labels: tuple[str, ...] = ()
    scores: str = ""
    """The output that has one number for each label."""
    score_quantisation: Quantisation | None = None


class StreamSpec(Frozen, frozen=True, kw_only=True):
    """One source, what is done with its frames, and where the answers go."""

    id: str
    source: SourceRef
    sinks: tuple[SinkRef, ...]
    policy: str = "latest"
    """As `FramePolicy`."""
    fps: float | None = None
    """Most frames a second."""
    deadline_ms: float = 10_000.0
    """Of each request."""
    concurrency: int = 1
    """Frames under way at a time."""
    top: int = 3
    """Labels of an answer; 0 gives the outputs themselves."""
    reading: Reading | None = None
    """None where the source gives the plan's own tensors."""


def check_streams(
    streams: Sequence[StreamSpec],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    nodes: Collection[NodeName] | None,
) -> None:
    """Raise `InputError` that names the field of the first rule that a plan's streams break.

    Args:
        nodes: those of the plan, which have to have the sources; None for an alternative, whose
            streams are its primary's.
    """
    if len(streams) > MAX_STREAMS:
        raise InputError(f"streams: {len(streams)} of them; a plan has at most {MAX_STREAMS}")
    ids = [stream.id for stream in streams]
    for i, stream in enumerate(streams):
        where = f"streams[{i}]"
        check_name(stream.id, f"{where}.id:")
        if ids.count(stream.id) > 1:
            raise InputError(f"{where}.id: {stream.id!r} stands there twice; names must differ")
        check_name(stream.source.node, f"{where}.source.node:")
        check_name(stream.source.name, f"{where}.source.name:")
        if nodes is not None and stream.source.node not in nodes:
            raise InputError(f"{where}.source.node: {stream.source.node!r} is not listed under nodes")
        _check_sinks(stream, where)
        _check_pace(stream, where)
        if stream.reading is not None:
            _check_reading(stream.reading, inputs, outputs, f"{where}.reading")


def _check_sinks(stream: StreamSpec, where: str) -> None:
    if not 1 <= len(stream.sinks) <= MAX_SINKS:
        raise InputError(f"{where}.sinks: {len(stream.sinks)} of them; give 1 to {MAX_SINKS}")
    for j, sink in enumerate(stream.sinks):
        check_name(sink.name, f"{where}.sinks[{j}].name:")
        if sink.node not in (None, stream.source.node):
            raise InputError(
                f"{where}.sinks[{j}].node: {str(sink.node)[:63]!r} is not the source's; "
                "reach another place by a sink of kind mqtt or webhook"
            )


def _check_pace(stream: StreamSpec, where: str) -> None:
    parse_policy(stream.policy, f"{where}.policy")
    if stream.fps is not None and not (math.isfinite(stream.fps) and 0 < stream.fps <= MAX_FPS):
        raise InputError(f"{where}.fps: {stream.fps}; give a number above 0, {MAX_FPS:g} at most")
    if not (math.isfinite(stream.deadline_ms) and 0 < stream.deadline_ms <= MAX_DEADLINE_MS):
        raise InputError(
            f"{where}.deadline_ms: {stream.deadline_ms}; give a time above 0, {MAX_DEADLINE_MS:g} at most"
        )
    if not 1 <= stream.concurrency <= MAX_WAITING:
        raise InputError(f"{where}.concurrency: {stream.concurrency}; give 1 to {MAX_WAITING}")
    if not 0 <= stream.top <= MAX_LABELS:
        raise InputError(f"{where}.top: {stream.top}; give 0 to {MAX_LABELS}")


def _check_reading(
    reading: Reading, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], where: str
) -> None:
    shape = reading.preprocessing.check().input_shape
    if len(inputs) != 1:
        raise InputError(f"{where}: the plan has {len(inputs)} inputs; a preprocessing makes one")
    given = inputs[0]
    if given.shape not in (shape, (1, *shape)):
        raise InputError(f"{where}.preprocessing: makes {list(shape)}, the plan takes {list(given.shape)}")
    if given.dtype != "float32" and reading.quantisation is None:
        raise InputError(f"{where}.quantisation: the plan takes {given.dtype}; give its scale and zero_point")
    for name in ("quantisation", "score_quantisation"):
        known = getattr(reading, name)
        if known is not None and not (math.isfinite(known.scale) and known.scale > 0):
            raise InputError(f"{where}.{name}.scale: {known.scale}; give a number above 0")
    if len(reading.labels) > MAX_LABELS:
        raise InputError(f"{where}.labels: {len(reading.labels)} of them; at most {MAX_LABELS}")
    if any(len(label) > MAX_LABEL for label in reading.labels):
        raise InputError(f"{where}.labels: a label has over {MAX_LABEL} characters")
    if reading.labels:
        scores = next((spec for spec in outputs if spec.name == reading.scores), None)
        if scores is None:
            raise InputError(f"{where}.scores: the plan has no output {reading.scores[:80]!r}")
        if math.prod(scores.shape) != len(reading.labels):
            raise InputError(
                f"{where}.labels: {len(reading.labels)} of them for {list(scores.shape)} of "
                f"{reading.scores!r}; give one for each"
            )


def check_declared(
    streams: Sequence[StreamSpec], node: NodeName, sources: Mapping[str, str], sinks: Mapping[str, str]
) -> None:
    """Make sure that a node has what streams of its sources name.

    Args:
        sources: by name, what is missing on the node to use each; the same for sinks.

    Raises:
        Refused: its settings do not declare it.
        BackendError: it lacks what that needs.
    """
    for i, stream in enumerate(streams):
        if stream.source.node != node:
            continue
        wanted = [("source", "sources", stream.source.name, sources)]
        wanted += [(f"sinks[{j}]", "sinks", sink.name, sinks) for j, sink in enumerate(stream.sinks)]
        for field, table, name, declared in wanted:
            where = f"streams[{i}].{field}.name"
            if name not in declared:
                known = ", ".join(sorted(declared)[:20]) or "none"
                raise Refused(
                    f"{where}: node {node!r} declares no {table[:-1]} {name!r} (it has {known}); "
                    f"its owner may write [{table}.{name}] in its settings"
                )
            if declared[name]:
                raise BackendError(f"{where}: node {node!r}: {declared[name]}")
