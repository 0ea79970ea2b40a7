"""Updates as whole numbers in a ring, so that sums of them are exact, whatever the order.

A value is cut to a multiple of ``2^-fraction_bits``, towards zero, so that no vector
becomes longer; then it is multiplied by the client's samples.  What can be summed is
bounded so that no sum of honest vectors wraps around: ``Σ samples · x`` and ``Σ samples``
come out to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from collab.errors import ConfigError, ProtocolError, TensorError
from collab.federated.privacy.masks import Ring
from collab.federated.update import Parameters

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Of a model's parameters, in its order."""
MAX_SAMPLES: Final = 1 << 32


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How values become whole numbers.  The defaults have room for 512 clients of 32,768 samples each."""

    ring_bits: Literal[32, 64] = 64
    """Numbers are added modulo 2 to this; 32 halves the bytes, and leaves few bits for samples."""
    fraction_bits: Annotated[int, Meta(ge=0, le=52)] = 32
    """Values are multiples of 2 to minus this."""
    limit: Annotated[float, Meta(gt=0, le=2.0**30)] = 16.0
    """No value may be larger than this."""
    max_samples: Annotated[int, Meta(ge=1, le=MAX_SAMPLES)] = 1 << 15
    """Most that a client may count for; 1 makes every client count alike."""

    @property
    def step(self) -> float:
        """What the number 1 stands for."""
        return 2.0**-self.fraction_bits

    @property
    def type(self) -> np.dtype[np.unsignedinteger]:
        """Of the numbers of a vector."""
        return np.dtype(np.uint32 if self.ring_bits == 32 else np.uint64)

    @property
    def largest(self) -> int:
        """The number that the largest value becomes."""
        return math.floor(self.limit / self.step)

    def check(self, clients: int) -> None:
        """Raise `ConfigError` unless the vectors of so many clients add up without wrapping around."""
        if clients * self.max_samples * max(self.largest, 1) >= 1 << (self.ring_bits - 1):
            raise ConfigError(
                f"encoding: {clients} clients of {self.max_samples} samples with values up to {self.limit:g} "
                f"do not fit {self.ring_bits} bits at fraction_bits {self.fraction_bits}; "
                "lower fraction_bits, limit or max_samples, or take ring_bits 64"
            )


def shapes_of(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Shapes by name, in the model's order."""
    return {name: array.shape for name, array in parameters.items()}


def vector_length(shapes: Shapes) -> int:
    """Numbers of an encoded update: one for each weight, and the samples."""
    return sum(math.prod(shape) for shape in shapes.values()) + 1


def encode(encoding: Encoding, shapes: Shapes, delta: Parameters, samples: int) -> Ring:
    """A vector of `vector_length` numbers: the weights times the samples, then the samples.

    Args:
        encoding: Checked for the number of clients.
        shapes: Of the model.
        delta: Finite values up to the limit, of any floating type.
        samples: 1 to ``max_samples``.

    Raises `TensorError`, which names the parameter, for what cannot be encoded.
    """
    if not 1 <= samples <= encoding.max_samples:
        raise TensorError(
            f"samples: {samples} is not within 1 to {encoding.max_samples}, the encoding's most"
        )
    if delta.keys() != shapes.keys():
        odd = min(delta.keys() ^ shapes.keys())
        raise TensorError(f"update: parameter {odd!r} is missing or unknown; send those of the round's model")
    numbers = np.empty(vector_length(shapes), np.int64)
    at = 0
    for name, shape in shapes.items():
        array = delta[name]
        if array.shape != shape:
            raise TensorError(f"update: {name!r} has shape {array.shape}, the model's is {shape}")
        if not np.isfinite(array).all():
            raise TensorError(f"update: {name!r} is not finite; lower the learning rate")
        if array.size and np.abs(array).max() > encoding.limit:
            raise TensorError(
                f"update: {name!r} has a value of {np.abs(array).max():.6g}, over the encoding's limit of "
                f"{encoding.limit:g}; clip updates or raise the limit"
            )
        scaled = np.trunc(array.reshape(-1).astype(np.float64) * 2.0**encoding.fraction_bits)
        numbers[at : at + array.size] = scaled
        at += array.size
    numbers[:-1] *= samples
    numbers[-1] = samples
    return numbers.astype(encoding.type)


@dataclass(frozen=True, slots=True)
class Sum:
    """What many updates add up to, exactly."""

    shapes: Shapes
    step: float
    numbers: NDArray[np.int64]
    """Σ samples · x of every weight, in steps."""
    samples: int

    def divided(self, by: float) -> dict[str, NDArray[np.float64]]:
        """The sum over a number, by name; each value is rounded once to float64 or twice at most."""
        out, at = {}, 0
        for name, shape in self.shapes.items():
            end = at + math.prod(shape)
            out[name] = (self.numbers[at:end] / by * self.step).reshape(shape)
            at = end
        return out

    def mean(self) -> dict[str, NDArray[np.float64]]:
        """Weighted by samples."""
        return self.divided(self.samples)


def decode_sum(encoding: Encoding, shapes: Shapes, total: Ring, clients: int) -> Sum:
    """The sum of so many clients' vectors.

    Raises `ProtocolError` when it is none of vectors within the bounds: then somebody has sent
    something else, and under secure aggregation nobody can say who.
    """
    signed: np.dtype[np.signedinteger] = np.dtype(np.int32 if encoding.ring_bits == 32 else np.int64)
    numbers = total.view(signed).astype(np.int64, copy=False)
    samples = int(numbers[-1])
    if not clients <= samples <= clients * encoding.max_samples:
        raise ProtocolError(
            f"sum of {clients} updates: it counts {samples} samples, possible are "
            f"{clients} to {clients * encoding.max_samples}; a client has sent what is no update"
        )
    largest = samples * encoding.largest
    if numbers[:-1].size and (int(numbers[:-1].max()) > largest or int(numbers[:-1].min()) < -largest):
        raise ProtocolError(
            f"sum of {clients} updates: a value is over {encoding.limit:g} on average, "
            "the encoding's limit; a client has sent what is no update"
        )
    return Sum(shapes, encoding.step, numbers[:-1], samples)
