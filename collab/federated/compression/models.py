"""The model that a round begins with as bytes: whole, or what changed since a version that a client has.

An exact difference is of bits; tensors that did not change take no bytes.  A lossy one is a change in
a form of `Compression`: then server and clients go on with what came out of it, and what was
lost is part of the next change, since that is taken from there.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from collab.codec.wire import Buffer
from collab.core.decoding import prepare
from collab.errors import Conflict, TensorError
from collab.federated.compression import message
from collab.federated.compression.message import DEFAULT_MOST_BYTES, SAME, XOR, Arrays, Header
from collab.federated.compression.settings import Compression
from collab.federated.update import Parameters


class _ModelHeader(Header, tag="model"):
    base: str
    """Fingerprint of what the reader must have; empty: nothing."""
    change: bool
    """Whether tensors are to be added to the base's."""


class EncodedModel(NamedTuple):
    """A model on its way."""

    data: bytes
    model: Parameters
    """What its reader will have, bit by bit."""


def fingerprint(parameters: Parameters) -> str:
    """SHA-256 of names, dtypes, shapes and bits, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in parameters.items():
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def encode_model(
    model: Parameters,
    how: Compression = Compression(),
    base: Parameters | None = None,
    random: np.random.Generator | None = None,
) -> EncodedModel:
    """A model's bytes for a reader that has ``base``, or nothing; raises `TensorError`.

    Without a base ``how.top`` does not count: all elements travel.
    """
    if how.rounding == "stochastic" and random is None:
        raise TensorError("model: stochastic rounding needs a random generator")
    if base is None:
        whole = Compression(elements=how.elements, rounding=how.rounding, pack=how.pack)
        entries, body = message.written(model, whole, random)
    elif _kinds(base) != _kinds(model):
        raise TensorError("model: the base has other tensors; send it whole")
    elif how.lossy:
        change = {name: np.asarray(array - base[name]) for name, array in model.items()}
        entries, body = message.written(change, how, random)
    else:
        entries, body = message.difference(model, base)
    header = _ModelHeader(
        tensors=entries,
        packed=how.pack,
        base="" if base is None else fingerprint(base),
        change=base is not None and how.lossy,
    )
    data = message.sealed(header, body)
    return EncodedModel(data, decode_model(data, base) if how.lossy else model)


def decode_model(
    data: Buffer, base: Parameters | None = None, most_bytes: int = DEFAULT_MOST_BYTES
) -> Arrays:
    """The model that a client gets.

    Raises `Conflict` when it needs a base that is not this one, `ProtocolError`, `TensorError` or
    `LimitExceeded` for bytes that are none.
    """
    header, parts = message.opened(data, _ModelHeader, most_bytes)
    if not header.base:
        return message.read(parts)
    if base is None or fingerprint(base) != header.base:
        raise Conflict("model: it is a change of a version that is not here; fetch the whole model")
    if {entry.name: (entry.shape, entry.dtype) for entry, _ in parts} != _kinds(base):
        raise TensorError("model: a change with other tensors than its base")
    if header.change:
        with np.errstate(over="ignore", invalid="ignore"):
            return {name: np.asarray(base[name] + array) for name, array in message.read(parts).items()}
    if any(entry.form not in (SAME, XOR) for entry, _ in parts):
        raise TensorError("model: a difference with a tensor that is none")
    return {entry.name: message.differing(entry, part, base[entry.name]) for entry, part in parts}


def _kinds(parameters: Parameters) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, array.dtype.name) for name, array in parameters.items()}


prepare(_ModelHeader)
