"""Tokens to envelopes and back.

An envelope is a small protobuf header and the tensors' bytes behind it; see
``protos/collab/v1/envelope.proto``.  Everything that a peer sends is bounded here
before it is believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from collab.codec.pb import envelope_pb2 as pb
from collab.codec.tensors import EncodedTensor, Payload
from collab.codec.wire import Buffer, clean_text, frame, unframe
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, PlanName, RequestId
from collab.core.tensor import ITEMSIZE, MAX_NAME_BYTES, MAX_RANK, TensorSpec
from collab.core.token import Fault, Hop, Key, Kind, Priority, Token
from collab.errors import LimitExceeded, ProtocolError

REQUEST_ID_BYTES: Final = 16
MAX_TEXT: Final = 4096
"""Characters of a message or a reason."""
MAX_ID: Final = 80
"""Characters of a name; `collab.core.ids.check_name` allows 63, requesters add a suffix."""
MAX_TRACE_BYTES: Final = 512
MAX_BUDGET_US: Final = 24 * 3600 * 1_000_000
MAX_GRANTED: Final = 4096
"""Credits that a fault may speak of: a plan has no more."""

_TO_DTYPE: Final = {name: pb.DType.Value(name.upper()) for name in ITEMSIZE}
_PRIORITIES: Final[dict[int, Priority]] = {int(priority): priority for priority in Priority}
"""What is absent or not known yet is normal."""
_FROM_DTYPE: Final = {number: name for name, number in _TO_DTYPE.items()}


_CACHED: Final = 256
"""Contexts and tensor tables whose decoded form is kept."""
_MAX_CACHED_BYTES: Final = 4096


@dataclass(frozen=True, eq=False)
class EnvelopeLimits:
    """What a peer may send in one envelope."""

    tensor_bytes: int = 256 * 1024 * 1024
    """Of one tensor, encoded or decoded."""
    tensors: int = 1024
    route: int = 256
    hops: int = 256


class _Context(NamedTuple):
    plan: PlanName
    epoch: Epoch
    requester: NodeName
    route: tuple[NodeName, ...]


class _Entry(NamedTuple):
    """One row of a tensor table."""

    spec: TensorSpec
    codec: str
    size: int


_DEFAULT_LIMITS: Final = EnvelopeLimits()


def encode_envelope(token: Token, now_us: int) -> list[Buffer]:
    """Buffers of an envelope; payload buffers are passed through, not copied.

    The deadline becomes a budget: what is left of it at ``now_us``, a day at most.
    Raises `LimitExceeded` for a header that no peer would take.
    """
    key = token.key
    header = pb.Header(
        context=_encode_context(key.plan, key.epoch, token.requester, token.route),
        request=key.request,
        attempt=key.attempt,
        edge=token.edge,
        kind=int(token.kind),  # type: ignore[arg-type]
        budget_us=max(-MAX_BUDGET_US, min(token.deadline_us - now_us, MAX_BUDGET_US)),
        trace=token.trace,
        sequence=token.sequence,
        more=not token.last,
    )
    if token.priority is not Priority.NORMAL:
        header.priority = int(token.priority)  # type: ignore[assignment]
    for hop in token.hops:
        header.hops.add(
            stage=hop.stage,
            node=hop.node,
            queue_us=hop.queue_us,
            decode_us=hop.decode_us,
            compute_us=hop.compute_us,
            encode_us=hop.encode_us,
            raw_bytes=hop.raw_bytes,
            sent_bytes=hop.sent_bytes,
            codec_error=hop.codec_error,
            codec_fallbacks=hop.codec_fallbacks,
        )
    if token.reason:
        header.reason = clean_text(token.reason, MAX_TEXT)
    if token.fault is not None:
        fault = token.fault
        header.fault.code, header.fault.message = fault.code, clean_text(fault.message, MAX_TEXT)
        header.fault.node, header.fault.stage = fault.node, fault.stage
        if fault.granted is not None:
            header.fault.granted = fault.granted
    body: list[Buffer] = []
    if token.payload:
        header.tensors = _encode_table(tuple((t.spec, t.codec, len(t.data)) for t in token.payload))
        body = [t.data for t in token.payload if len(t.data)]
    return frame(header.SerializeToString(), body)


@lru_cache(_CACHED)
def _encode_context(plan: PlanName, epoch: Epoch, requester: NodeName, route: tuple[NodeName, ...]) -> bytes:
    return pb.Context(plan=plan, epoch=epoch, requester=requester, route=route).SerializeToString()


@lru_cache(_CACHED)
def _encode_table(entries: tuple[tuple[TensorSpec, str, int], ...]) -> bytes:
    table = pb.TensorTable()
    for spec, codec, size in entries:
        dtype = _TO_DTYPE[spec.dtype]
        table.tensors.add(name=spec.name, shape=spec.shape, dtype=dtype, bytes=size, codec=codec)
    return table.SerializeToString()


def decode_envelope(
    message: Buffer, now_us: int, half_rtt_us: int = 0, limits: EnvelopeLimits = _DEFAULT_LIMITS
) -> Token:
    """Token of an envelope; its payload refers to ``message``'s memory.

    Raises `ProtocolError` or `LimitExceeded`, and nothing else, whatever the bytes.
    Memory is never reserved for an announced size.
    """
    head, body = unframe(message)
    try:
        header = pb.Header.FromString(bytes(head))
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError("envelope: the header is not an envelope header") from error
    kind = _check_header(header, limits)
    context = _cached(_context, _cached_context, header.context, limits)
    payload = None
    if header.tensors:
        payload = _payload(_cached(_table, _cached_table, header.tensors, limits), body)
    elif len(body):
        raise ProtocolError("envelope.payload: bytes without a tensor")
    if (kind is Kind.VALUE) != (payload is not None):
        raise ProtocolError("envelope.tensors: a value has some, and only a value")
    return Token(
        Key(context.plan, context.epoch, RequestId(header.request), Attempt(header.attempt)),
        EdgeId(header.edge),
        kind,
        context.requester,
        context.route,
        now_us + header.budget_us - half_rtt_us,
        payload,
        _fault(header, kind),
        header.reason,
        tuple([_hop(hop) for hop in header.hops]),
        header.trace,
        header.sequence,
        not header.more,
        _PRIORITIES.get(header.priority, Priority.NORMAL),
    )


def _check_header(header: pb.Header, limits: EnvelopeLimits) -> Kind:
    if len(header.request) != REQUEST_ID_BYTES:
        raise ProtocolError(f"envelope.request: {len(header.request)} bytes, not {REQUEST_ID_BYTES}")
    try:
        kind = Kind(header.kind)
    except ValueError:
        raise ProtocolError(f"envelope.kind: {header.kind} is not known") from None
    if len(header.hops) > limits.hops:
        raise LimitExceeded(f"envelope.hops: {len(header.hops)} are over {limits.hops}")
    if abs(header.budget_us) > MAX_BUDGET_US:
        raise LimitExceeded(f"envelope.budget_us: {header.budget_us} is over a day")
    if len(header.trace) > MAX_TRACE_BYTES:
        raise LimitExceeded(f"envelope.trace: {len(header.trace)} bytes are over {MAX_TRACE_BYTES}")
    if len(header.reason) > MAX_TEXT:
        raise LimitExceeded(f"envelope.reason: {len(header.reason)} characters are over {MAX_TEXT}")
    if header.conversation or header.step:
        raise ProtocolError("envelope.conversation: models that keep state are not supported by this version")
    return kind


def _hop(hop: pb.Hop) -> Hop:
    if len(hop.node) > MAX_ID:
        raise LimitExceeded(f"envelope.hops: a name is over {MAX_ID} characters")
    error = hop.codec_error if hop.HasField("codec_error") else None
    if error is not None and not 0 <= error < math.inf:
        raise ProtocolError("envelope.hops: an error of a codec is not a finite number of at least 0")
    return Hop(
        hop.stage,
        NodeName(hop.node),
        hop.queue_us,
        hop.decode_us,
        hop.compute_us,
        hop.encode_us,
        hop.raw_bytes,
        hop.sent_bytes,
        error,
        hop.codec_fallbacks,
    )


def _fault(header: pb.Header, kind: Kind) -> Fault | None:
    wants = kind is Kind.ERROR or kind is Kind.FAILED
    if wants != header.HasField("fault"):
        raise ProtocolError("envelope.fault: an error or a failure has one, and nothing else")
    if not wants:
        return None
    fault = header.fault
    granted = min(fault.granted, MAX_GRANTED) if fault.HasField("granted") else None
    return Fault(
        fault.code[:MAX_ID],
        fault.message[:MAX_TEXT],
        fault.node[:MAX_ID],
        fault.stage[:MAX_ID],
        granted,
    )


T = TypeVar("T")
_Decoder = Callable[[bytes, EnvelopeLimits], T]


def _cached(decode: _Decoder[T], cached: _Decoder[T], data: bytes, limits: EnvelopeLimits) -> T:
    """Decode once what comes again and again; what is long is not kept."""
    return cached(data, limits) if len(data) <= _MAX_CACHED_BYTES else decode(data, limits)


def _context(data: bytes, limits: EnvelopeLimits) -> _Context:
    try:
        context = pb.Context.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError("envelope.context: it cannot be read") from error
    for field, value in (("plan", context.plan), ("requester", context.requester)):
        if len(value) > MAX_ID:
            raise LimitExceeded(f"envelope.{field}: {len(value)} characters are over {MAX_ID}")
    if len(context.route) > limits.route:
        raise LimitExceeded(f"envelope.route: {len(context.route)} nodes are over {limits.route}")
    if any(len(name) > MAX_ID for name in context.route):
        raise LimitExceeded(f"envelope.route: a name is over {MAX_ID} characters")
    route = tuple(map(NodeName, context.route))
    return _Context(PlanName(context.plan), Epoch(context.epoch), NodeName(context.requester), route)


def _table(data: bytes, limits: EnvelopeLimits) -> tuple[_Entry, ...]:
    try:
        table = pb.TensorTable.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError("envelope.tensors: the table cannot be read") from error
    if len(table.tensors) > limits.tensors:
        raise LimitExceeded(f"envelope.tensors: {len(table.tensors)} are over {limits.tensors}")
    return tuple(_entry(tensor, limits) for tensor in table.tensors)


_cached_context = lru_cache(_CACHED)(_context)
_cached_table = lru_cache(_CACHED)(_table)


def _entry(tensor: pb.Tensor, limits: EnvelopeLimits) -> _Entry:
    spec = _spec(tensor, limits)
    if not tensor.codec and tensor.bytes != spec.nbytes:
        raise ProtocolError(
            f"envelope.tensors: {spec.name!r} {spec.dtype}{list(spec.shape)} "
            f"takes {spec.nbytes} bytes, not {tensor.bytes}"
        )
    return _Entry(spec, tensor.codec, tensor.bytes)


def _payload(table: tuple[_Entry, ...], body: memoryview) -> Payload:
    at, tensors = 0, []
    for spec, codec, size in table:
        end = at + size
        if end > len(body):
            raise ProtocolError(f"envelope.tensors: {spec.name!r} is cut off")
        tensors.append(EncodedTensor(spec, codec, body[at:end]))
        at = end
    if at != len(body):
        raise ProtocolError(f"envelope.payload: {len(body) - at} bytes belong to no tensor")
    return tuple(tensors)


def _spec(tensor: pb.Tensor, limits: EnvelopeLimits) -> TensorSpec:
    if not tensor.name or len(tensor.name) > MAX_NAME_BYTES:
        raise ProtocolError("envelope.tensors: a name is empty or too long")
    if len(tensor.codec) > MAX_ID:
        raise ProtocolError(f"envelope.tensors: the codec of {tensor.name[:40]!r} is no name of a codec")
    dtype = _FROM_DTYPE.get(tensor.dtype)
    if dtype is None:
        raise ProtocolError(f"envelope.tensors: dtype {tensor.dtype} of {tensor.name[:40]!r} is not known")
    shape = tuple(tensor.shape)
    if len(shape) > MAX_RANK:
        raise LimitExceeded(f"envelope.tensors: rank {len(shape)} of {tensor.name[:40]!r} is over {MAX_RANK}")
    size = max(math.prod(shape) * ITEMSIZE[dtype], tensor.bytes)
    if size > limits.tensor_bytes:
        raise LimitExceeded(
            f"envelope.tensors: {tensor.name[:40]!r} of {size} bytes is over {limits.tensor_bytes}"
        )
    return TensorSpec(tensor.name, shape, dtype)
