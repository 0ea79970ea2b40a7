"""What one edge's codec does to its tensors, and what that saves and costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from collab.codec.tensors import Array, EncodedTensor, Payload, codec, decode, encode
from collab.core.codecs import RAW, parse_codec
from collab.core.tensor import TensorSpec

MEASURED_EVERY: Final = 64
"""The error of the first and of every so many payloads is measured."""
_PIECE: Final = 1 << 16


class Coded(NamedTuple):
    """What a codec did to some tensors."""

    raw_bytes: int = 0
    sent_bytes: int = 0
    error: float | None = None
    """Largest measured error relative to its tensor's range; None if none was measured."""
    fallbacks: int = 0
    """Tensors sent without loss because they could not be kept within the error allowed."""

    def __add__(self, other: Coded) -> Coded:  # type: ignore[override]
        errors = [error for error in (self.error, other.error) if error is not None]
        return Coded(
            self.raw_bytes + other.raw_bytes,
            self.sent_bytes + other.sent_bytes,
            max(errors, default=None),
            self.fallbacks + other.fallbacks,
        )


class EdgeEncoder:
    """Encodes the tensors of one edge; may be used from several threads at a time."""

    def __init__(self, name: str, most_error: float | None = None) -> None:
        self._name = str(parse_codec(name))
        self._lossy = not parse_codec(name).exact
        self._codec = codec(name)
        self._most_error = most_error or 0.0
        self._numbers = itertools.count()

    @property
    def computes(self) -> bool:
        """Whether encoding takes more than handing over the array's own memory."""
        return self._name != RAW

    def encode(self, tensors: Iterable[tuple[TensorSpec, Array | EncodedTensor]]) -> tuple[Payload, Coded]:
        """One payload; what arrived in a codec goes on as it came, what arrived raw is encoded."""
        measure = self._lossy and next(self._numbers) % MEASURED_EVERY == 0
        payload, total = [], Coded()
        for spec, array in tensors:
            if isinstance(array, EncodedTensor) and self.computes and not array.codec:
                array = decode(array)  # a view
            if isinstance(array, EncodedTensor):
                tensor, coded = array, Coded(spec.nbytes, len(array.data))
            elif self._lossy:
                tensor, coded = self._encode(spec, array, measure)
            else:
                tensor = encode(spec, array, self._name)
                coded = Coded(spec.nbytes, len(tensor.data))
            payload.append(tensor)
            total = total + coded
        return tuple(payload), total

    def _encode(self, spec: TensorSpec, array: Array, measure: bool) -> tuple[EncodedTensor, Coded]:
        tensor, error = self._codec.encode(spec, array, self._most_error), None
        if measure and not parse_codec(tensor.codec).exact:
            error = relative_error(array, tensor)
            if error > self._most_error:
                tensor, error = encode(spec, array, str(parse_codec(self._name).without_loss)), None
        fell_back = self._codec.takes(spec) and parse_codec(tensor.codec).exact
        return tensor, Coded(spec.nbytes, len(tensor.data), error, int(fell_back))


def relative_error(array: Array, tensor: EncodedTensor) -> float:
    """Largest error of a finite tensor's elements as a share of its largest less its least element."""
    before, after = array.reshape(-1), decode(tensor).reshape(-1)
    worst = 0.0
    for at in range(0, before.size, _PIECE):
        piece = slice(at, at + _PIECE)
        worst = max(worst, float(np.abs(np.subtract(before[piece], after[piece], dtype=np.float64)).max()))
    if not worst:
        return 0.0
    extent = float(before.max()) - float(before.min())
    return worst / extent if extent else float("inf")
