"""Tokens to envelopes and back.

An envelope is a small protobuf header and the tensors' bytes behind it; see
``protos/collab/v1/envelope.proto``.  Everything that a peer sends is bounded here
before it is believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from collab.codec.pb import envelope_pb2 as pb
from collab.codec.tensors import EncodedTensor, Payload
from collab.codec.wire import Buffer, frame, unframe
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, PlanName, RequestId
from collab.core.tensor import ITEMSIZE, MAX_NAME_BYTES, MAX_RANK, TensorSpec
from collab.core.token import Fault, Hop, Key, Kind, Token
from collab.errors import LimitExceeded, ProtocolError

REQUEST_ID_BYTES: Final = 16
MAX_TEXT_BYTES: Final = 4096
MAX_TRACE_BYTES: Final = 512
MAX_BUDGET_US: Final = 24 * 3600 * 1_000_000

_TO_DTYPE: Final = {name: pb.DType.Value(name.upper()) for name in ITEMSIZE}
_FROM_DTYPE: Final = {number: name for name, number in _TO_DTYPE.items()}


@dataclass(frozen=True)
class EnvelopeLimits:
    """What a peer may send in one envelope."""

    tensor_bytes: int = 256 * 1024 * 1024
    """Of one tensor, encoded or decoded."""
    tensors: int = 1024
    route: int = 256
    hops: int = 256


def encode_envelope(token: Token, now_us: int) -> list[Buffer]:
    """Buffers of an envelope; payload buffers are passed through, not copied.

    The deadline becomes a budget: what is left of it at ``now_us``.
    """
    key = token.key
    header = pb.Header(
        plan=key.plan,
        epoch=key.epoch,
        request=key.request,
        attempt=key.attempt,
        edge=token.edge,
        kind=int(token.kind),  # type: ignore[arg-type]
        requester=token.requester,
        route=token.route,
        budget_us=token.deadline_us - now_us,
        reason=token.reason,
        trace=token.trace,
        sequence=token.sequence,
        more=not token.last,
    )
    for hop in token.hops:
        header.hops.add(
            stage=hop.stage,
            node=hop.node,
            queue_us=hop.queue_us,
            decode_us=hop.decode_us,
            compute_us=hop.compute_us,
            encode_us=hop.encode_us,
        )
    if token.fault is not None:
        fault = token.fault
        header.fault.code, header.fault.message = fault.code, fault.message[:MAX_TEXT_BYTES]
        header.fault.node, header.fault.stage = fault.node, fault.stage
    body: list[Buffer] = []
    for spec, codec, data in token.payload or ():
        header.tensors.add(
            name=spec.name, shape=spec.shape, dtype=_TO_DTYPE[spec.dtype], bytes=len(data), codec=codec
        )
        if len(data):
            body.append(data)
    return frame(header.SerializeToString(), body)


def decode_envelope(
    message: Buffer, now_us: int, half_rtt_us: int = 0, limits: EnvelopeLimits = EnvelopeLimits()
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
    _check_header(header, limits)
    payload = _tensors(header, body, limits)
    kind = Kind(header.kind)
    if (kind is Kind.VALUE) != (payload is not None):
        raise ProtocolError("envelope.tensors: a value has some, and only a value")
    return Token(
        key=Key(
            PlanName(header.plan), Epoch(header.epoch), RequestId(header.request), Attempt(header.attempt)
        ),
        edge=EdgeId(header.edge),
        kind=kind,
        requester=NodeName(header.requester),
        route=tuple(map(NodeName, header.route)),
        deadline_us=now_us + header.budget_us - half_rtt_us,
        payload=payload,
        fault=_fault(header),
        reason=header.reason,
        hops=tuple(
            Hop(h.stage, NodeName(h.node), h.queue_us, h.decode_us, h.compute_us, h.encode_us)
            for h in header.hops
        ),
        trace=header.trace,
        sequence=header.sequence,
        last=not header.more,
    )


def _check_header(header: pb.Header, limits: EnvelopeLimits) -> None:
    if len(header.request) != REQUEST_ID_BYTES:
        raise ProtocolError(f"envelope.request: {len(header.request)} bytes, not {REQUEST_ID_BYTES}")
    if header.kind not in Kind._value2member_map_:
        raise ProtocolError(f"envelope.kind: {header.kind} is not known")
    if len(header.route) > limits.route:
        raise LimitExceeded(f"envelope.route: {len(header.route)} nodes are over {limits.route}")
    if len(header.hops) > limits.hops:
        raise LimitExceeded(f"envelope.hops: {len(header.hops)} are over {limits.hops}")
    if len(header.tensors) > limits.tensors:
        raise LimitExceeded(f"envelope.tensors: {len(header.tensors)} are over {limits.tensors}")
    if abs(header.budget_us) > MAX_BUDGET_US:
        raise LimitExceeded(f"envelope.budget_us: {header.budget_us} is over a day")
    if len(header.trace) > MAX_TRACE_BYTES:
        raise LimitExceeded(f"envelope.trace: {len(header.trace)} bytes are over {MAX_TRACE_BYTES}")
    if header.conversation or header.step:
        raise ProtocolError("envelope.conversation: models that keep state are not supported by this version")


def _fault(header: pb.Header) -> Fault | None:
    wants = header.kind in (Kind.ERROR, Kind.FAILED)
    if wants != header.HasField("fault"):
        raise ProtocolError("envelope.fault: an error or a failure has one, and nothing else")
    if not wants:
        return None
    fault = header.fault
    return Fault(fault.code[:64], fault.message[:MAX_TEXT_BYTES], fault.node[:64], fault.stage[:64])


def _tensors(header: pb.Header, body: memoryview, limits: EnvelopeLimits) -> Payload | None:
    if not header.tensors:
        if len(body):
            raise ProtocolError("envelope.payload: bytes without a tensor")
        return None
    at, tensors = 0, []
    for tensor in header.tensors:
        spec = _spec(tensor, limits)
        end = at + tensor.bytes
        if end > len(body):
            raise ProtocolError(f"envelope.tensors: {spec.name!r} is cut off")
        if not tensor.codec and tensor.bytes != spec.nbytes:
            raise ProtocolError(
                f"envelope.tensors: {spec.name!r} {spec.dtype}{list(spec.shape)} "
                f"takes {spec.nbytes} bytes, not {tensor.bytes}"
            )
        tensors.append(EncodedTensor(spec, tensor.codec, body[at:end]))
        at = end
    if at != len(body):
        raise ProtocolError(f"envelope.payload: {len(body) - at} bytes belong to no tensor")
    return tuple(tensors)


def _spec(tensor: pb.Tensor, limits: EnvelopeLimits) -> TensorSpec:
    if not tensor.name or len(tensor.name) > MAX_NAME_BYTES:
        raise ProtocolError("envelope.tensors: a name is empty or too long")
    dtype = _FROM_DTYPE.get(tensor.dtype)
    if dtype is None:
        raise ProtocolError(f"envelope.tensors: dtype {tensor.dtype} of {tensor.name[:40]!r} is not known")
    shape = tuple(tensor.shape)
    if len(shape) > MAX_RANK:
        raise LimitExceeded(f"envelope.tensors: rank {len(shape)} of {tensor.name[:40]!r} is over {MAX_RANK}")
    size = max(math.prod(shape) * ITEMSIZE[dtype], tensor.bytes)
    if size > limits.tensor_bytes:
        raise LimitExceeded(
            f"envelope.tensors: {tensor.name[:40]!r} of {size} bytes is over the limit of {limits.tensor_bytes}"
        )
    return TensorSpec(tensor.name, shape, dtype)
