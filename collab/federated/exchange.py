"""What server and clients of a round give each other as blobs: weights one way, updates the other."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from collab.codec.wire import Buffer, frame, unframe
from collab.errors import LimitExceeded, ProtocolError
from collab.federated.update import Parameters, Update
from collab.federated.weights import decode_weights, encode_weights

MAX_METRICS: Final = 64


class _Header(msgspec.Struct, frozen=True):
    round: int
    client: str
    samples: int
    metrics: dict[str, float]
    delta_bytes: int
    """Before those of the control variate's change."""


def pack_update(update: Update, encoding: bytes, residual: Parameters) -> tuple[bytes, Parameters]:
    """An update as bytes, and what its encoding left out, for the next one."""
    delta = encode_weights(update.delta)
    control = encode_weights(update.control) if update.control else b""
    header = _Header(update.round, update.client, update.samples, dict(update.metrics), len(delta))
    return b"".join(frame(msgspec.msgpack.encode(header), (delta, control))), residual


def unpack_update(data: Buffer) -> Update:
    """The update in bytes that a client made; raises `ProtocolError` or `LimitExceeded`."""
    head, body = unframe(data)
    try:
        header = msgspec.msgpack.decode(head, type=_Header)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError("update: the header cannot be read") from error
    if len(header.metrics) > MAX_METRICS or not all(map(math.isfinite, header.metrics.values())):
        raise LimitExceeded("update: too many metrics, or one that is not finite")
    if not 0 <= header.delta_bytes <= len(body):
        raise ProtocolError("update: cut off")
    delta, control = body[: header.delta_bytes], body[header.delta_bytes :]
    return Update(
        round=header.round,
        client=header.client,
        samples=header.samples,
        delta=decode_weights(delta),
        control=decode_weights(control) if len(control) else {},
        metrics=header.metrics,
    )


def pack_weights(weights: Buffer, base: Buffer | None, encoding: bytes) -> bytes:
    """Weights in their exact form as what travels, perhaps as a difference to others that a client has."""
    return bytes(weights)


def unpack_weights(data: Buffer, base: Buffer | None) -> bytes:
    """The exact form again; raises `ProtocolError` or `LimitExceeded`."""
    return bytes(data)
