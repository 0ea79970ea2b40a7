"""A profile: what a model, devices and links cost, measured or assumed; the planner's only input.

A profile is a JSON file.  The fields without a default are what anybody may write by
hand; a measured profile fills in the others too.  Times are in ms, sizes in bytes,
rates in Mbit/s (10⁶ bit/s) and speeds of codecs in MB/s (10⁶ bytes of raw tensors a
second).  Operators are counted as cuts are: without foldable ones.
"""

from __future__ import annotations

import hashlib

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import NodeName
from collab.core.plan import Frozen

PROFILE_VERSION = 1


class CodecAt(Frozen, frozen=True, kw_only=True):
    """What a codec does to the tensors of one cut."""

    codec: str
    ratio: float
    """Raw bytes by sent bytes."""
    error: float = 0.0
    """Largest difference as a share of a tensor's range."""


class CutProfile(Frozen, frozen=True, kw_only=True):
    """A cut that can be made; cuts that are not listed are forbidden."""

    at: int
    bytes: int
    codecs: tuple[CodecAt, ...] = ()
    """How codecs do here; a codec that is not listed is not chosen, raw always may be."""


class ModelTensor(Frozen, frozen=True, kw_only=True):
    """A tensor that may travel: made by operator ``made`` (-1: a model input), read by ``readers``."""

    name: str
    bytes: int
    made: int
    readers: tuple[int, ...] = ()
    output: bool = False
    """Whether it is an output of the model."""


class CodecSpeed(Frozen, frozen=True, kw_only=True):
    """How fast a device encodes and decodes, in MB/s of raw tensor."""

    codec: str
    encode_mb_s: float
    decode_mb_s: float


class ThreadedTimes(Frozen, frozen=True, kw_only=True):
    """Times of operators with another number of threads."""

    threads: int
    op_ms: tuple[float, ...]
    stage_ms: float = 0.0


class DeviceProfile(Frozen, frozen=True, kw_only=True):
    """One device."""

    name: NodeName
    memory_bytes: int
    op_ms: tuple[float, ...]
    """Time of each operator with ``threads`` threads; a stage costs their sum and ``stage_ms``."""
    op_bytes: tuple[int, ...]
    """Memory of each operator; a stage's must fit, with ``stage_bytes`` beside."""
    threads: int = 1
    stage_ms: float = 0.0
    """What every stage costs beside its operators: hand-overs between threads, invocation."""
    stage_bytes: int = 0
    """What every loaded stage takes beside its operators' memory."""
    more_threads: tuple[ThreadedTimes, ...] = ()
    codecs: tuple[CodecSpeed, ...] = ()
    watts: float | None = None
    """Power while it computes, above idle; declared by hand, or measured where the device can."""
    runtime_class: str = ""
    load: float | None = None
    """Load average by cores when it was measured, its own work left out."""
    measured_at: str = ""
    """ISO 8601 with a time zone."""
    fit_error: float | None = None
    """Median relative error of predicted times of stages that the fit had not seen."""
    run_quantiles: tuple[tuple[float, float], ...] = ()
    """How runs of a stage spread: shares from 0 to 1, and times as multiples of the median."""


class LinkEntry(Frozen, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """One direction between two ends by one transport.

    Moving ``b`` bytes takes ``latency_ms + 8 b / (1000 mbit_s)`` ms and occupies the link
    for the second term of it.
    """

    source: NodeName
    target: NodeName
    latency_ms: float
    mbit_s: float
    transport: str = "grpc"
    jitter_ms: float = 0.0
    """Standard deviation of the one-way time of a small message."""
    loss: float = 0.0
    """Share of probes that got no answer in time."""
    metered: bool = False
    joules_per_mb: float | None = None
    """Energy of both ends for 10⁶ bytes."""
    measured_at: str = ""


class Profile(Frozen, frozen=True, kw_only=True):
    """A profile file."""

    model_sha256: str
    input_bytes: int
    output_bytes: int
    cuts: tuple[CutProfile, ...]
    devices: tuple[DeviceProfile, ...]
    links: tuple[LinkEntry, ...]
    requester: NodeName | None = None
    """Who gives the input and takes the answer; None where moving them costs nothing.

    It may be one of the devices, or another end that links name."""
    version: int = PROFILE_VERSION
    model: str = ""
    """Where the model's file was."""
    operators: tuple[str, ...] = ()
    """Names of the operators, for people."""
    tensors: tuple[ModelTensor, ...] = ()
    """What flows between operators; needed for cuts that are no place in the order of execution."""
    input_codecs: tuple[CodecAt, ...] = ()
    output_codecs: tuple[CodecAt, ...] = ()
    requester_codecs: tuple[CodecSpeed, ...] = ()
    """How fast the requester encodes and decodes, where it is none of the devices."""
    measured_at: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the content, whatever the file looked like."""
        return hashlib.sha256(to_json(self)).hexdigest()


def to_json(profile: Profile) -> bytes:
    """The profile as it is kept; ``requester`` is written even where there is none."""
    fields = {"requester": None} | msgspec.to_builtins(profile)
    return msgspec.json.encode(fields, order="deterministic")


prepare(Profile)
