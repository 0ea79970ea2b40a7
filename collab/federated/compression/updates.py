"""A client's update as bytes, and what was lost on the way kept for the next one (error feedback).

What a lossy form leaves out of an update is added to the client's next update (Karimireddy
et al., "Error Feedback Fixes SignSGD", ICML 2019; for sparse ones Stich et al., NeurIPS 2018), so that
nothing is lost for good.  That remainder is the client's: it is kept once the server has the update.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from collab.codec.wire import Buffer
from collab.core.decoding import prepare
from collab.errors import LimitExceeded, TensorError
from collab.federated.compression import message
from collab.federated.compression.message import DEFAULT_MOST_BYTES, Arrays, Entry, Header
from collab.federated.compression.settings import Compression
from collab.federated.update import Parameters, Update

MAX_METRICS: Final = 64
MAX_NAME: Final = 256
"""Characters of a client's or a metric's name."""


class _UpdateHeader(Header, tag="update"):
    round: int
    client: str
    samples: int
    staleness: int
    metrics: dict[str, float]
    control: int
    """So many of the tensors, the last ones, are changes of the control variate."""


class EncodedUpdate(NamedTuple):
    """An update on its way."""

    data: bytes
    feedback: Arrays
    """To be given with the next update; empty if nothing was lost."""


def encode_update(
    update: Update,
    how: Compression = Compression(),
    feedback: Parameters | None = None,
    random: np.random.Generator | None = None,
) -> EncodedUpdate:
    """An update's bytes; raises `TensorError`.

    Args:
        update: What to send.
        how: Its delta is written so; a control variate is written in half precision if that is lossy.
        feedback: What was lost of the last one.
        random: For stochastic rounding; the same generator gives the same bytes.
    """
    if how.rounding == "stochastic" and random is None:
        raise TensorError("update: stochastic rounding needs a random generator")
    target = _sum(update.delta, feedback or {})
    entries, body = message.written(target, how, random)
    rest = _lost(target, entries, body) if how.lossy else {}
    control = Compression(elements="fp16" if how.lossy else "raw")
    more, more_body = message.written(
        {f"control:{name}": array for name, array in update.control.items()}, control, None
    )
    header = _UpdateHeader(
        tensors=[*entries, *more],
        packed=how.pack,
        round=update.round,
        client=update.client,
        samples=update.samples,
        staleness=update.staleness,
        metrics=dict(update.metrics),
        control=len(more),
    )
    return EncodedUpdate(message.sealed(header, [*body, *more_body]), rest)


def decode_update(data: Buffer, most_bytes: int = DEFAULT_MOST_BYTES) -> Update:
    """The update that a server gets; the gate says whether it is any good.

    Raises `ProtocolError`, `TensorError` or `LimitExceeded`; reserves a few times ``most_bytes`` at most.
    """
    header, parts = message.opened(data, _UpdateHeader, most_bytes)
    if len(header.metrics) > MAX_METRICS or max(map(len, [header.client, *header.metrics])) > MAX_NAME:
        raise LimitExceeded(f"update: over {MAX_METRICS} metrics, or a name over {MAX_NAME} characters")
    if not 0 <= header.control <= len(parts):
        raise TensorError(f"update: {header.control} control variates of {len(parts)} tensors")
    split = len(parts) - header.control
    control = message.read(parts[split:])
    if not all(name.startswith("control:") for name in control):
        raise TensorError("update: a control variate without its prefix")
    return Update(
        round=header.round,
        client=header.client,
        samples=header.samples,
        delta=message.read(parts[:split]),
        control={name.removeprefix("control:"): array for name, array in control.items()},
        metrics=header.metrics,
        staleness=header.staleness,
    )


def _sum(delta: Parameters, feedback: Parameters) -> Arrays:
    out: Arrays = {}
    for name, array in delta.items():
        lost = feedback.get(name)
        if lost is not None and lost.shape != array.shape:
            raise TensorError(f"tensor {name!r}: feedback of another model; drop it")
        out[name] = array if lost is None else np.asarray((array + lost).astype(array.dtype))
    return out


def _lost(target: Arrays, entries: list[Entry], body: list[bytes]) -> Arrays:
    """What the receiver will lack of a target, where that is finite."""
    plain, at, parts = memoryview(b"".join(body)), 0, []
    for entry in entries:
        parts.append((entry, plain[at : at + entry.body_bytes]))
        at += entry.body_bytes
    out: Arrays = {}
    for name, array in message.read(parts).items():
        with np.errstate(invalid="ignore"):
            rest = np.asarray(target[name] - array)
        out[name] = rest if np.isfinite(rest).all() else np.zeros_like(rest)
    return out


prepare(_UpdateHeader)
