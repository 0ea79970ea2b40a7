"""Weighted sums in fixed point: the order in which terms come does not change a bit.

A sum is two 64-bit integers an element, worth ``high · 2^-16 + low · 2^-60``.  A term
is rounded once to that grid, by itself, and integers add up to the same in any
order and grouping.  So a sum of sums, made at gateways, has the bits of the sum of all.

Bounds: values up to `MAX_VALUE`, weights from ``2^-20`` that are at most `MAX_WEIGHT`
together; then no integer can overflow.  A term is wrong by 2^-61 at most, and by
the rounding of weight times value in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import LimitExceeded, TensorError
from collab.federated.update import Parameters

MAX_VALUE: Final = 2.0**15
"""Largest magnitude of an element."""
MAX_WEIGHT: Final = 2**31
"""All terms together."""
_WEIGHT_BITS: Final = 20
WEIGHT_UNIT: Final = 1 << _WEIGHT_BITS
"""Weights are whole multiples of one over this."""
_HIGH: Final = 2.0**16
_LOW_BITS: Final = 44
_LOW: Final = 2.0**_LOW_BITS
_CARRY_AFTER: Final = 1 << 17
"""Terms whose low parts cannot overflow 64 bits together: 2^17 · 2^44 < 2^63."""
_PIECE: Final = 1 << 15
"""Elements worked on at a time, so that scratch memory stays in the processor's cache."""

Shapes = Mapping[str, tuple[int, ...]]
Integers = NDArray[np.int64]


def shapes_of(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Shapes by name, in the model's order."""
    return {name: array.shape for name, array in parameters.items()}


def weight_units(weight: float) -> int:
    """A weight as a whole number of units, at least one; raises `LimitExceeded`."""
    if not 0 < weight <= MAX_WEIGHT:
        raise LimitExceeded(f"weight: {weight:g} is not over 0 and at most {MAX_WEIGHT}")
    return max(1, round(weight * WEIGHT_UNIT))


class FixedSum:
    """Σ weight · x of arrays by name, and Σ weight.  Its memory is 16 bytes an element, however many come."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = dict(shapes)
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self._high: Integers = np.zeros(size, np.int64)
        self._low: Integers = np.zeros(size, np.int64)
        self._since_carry = 0
        self.terms = 0
        """So many came, those of merged sums included."""
        self.weight = 0
        """Of all of them, in units."""

    @property
    def shapes(self) -> Shapes:
        """Of the arrays, by name."""
        return self._shapes

    def add(self, arrays: Parameters, weight: int) -> None:
        """Add arrays of the sum's names and shapes with a weight in units.

        Raises `TensorError` or `LimitExceeded`; then nothing has been added.
        """
        self.check(arrays)
        self._count(1, weight)
        scratch = np.empty(_PIECE), np.empty(_PIECE), np.empty(_PIECE, np.int64)
        factor = weight / WEIGHT_UNIT
        for name, (high, low) in self._parts():
            flat = np.ascontiguousarray(arrays[name]).reshape(-1)
            for piece in _pieces(flat.size):
                _add(flat[piece], factor, high[piece], low[piece], scratch)

    def check(self, arrays: Parameters) -> None:
        """Raise `TensorError` or `LimitExceeded` for what cannot be added."""
        if arrays.keys() != self._shapes.keys():
            odd = sorted(arrays.keys() ^ self._shapes.keys())[0]
            raise TensorError(f"tensor {odd!r}: of the update or of the model alone")
        for name, shape in self._shapes.items():
            array = arrays[name]
            if array.shape != shape:
                raise TensorError(f"tensor {name!r}: shape {list(array.shape)}, expected {list(shape)}")
            if array.size and not (array.min() >= -MAX_VALUE and array.max() <= MAX_VALUE):
                raise LimitExceeded(f"tensor {name!r}: an element is not finite, or over {MAX_VALUE:g}")

    def merge(self, other: FixedSum) -> None:
        """Add another sum over the same shapes; raises as `add` does."""
        if other._shapes != self._shapes:
            raise TensorError("partial sum: its tensors are not those of this model")
        self._count(other.terms, other.weight)
        other._carry()
        self._high += other._high
        self._low += other._low

    def mean(self, by: float | None = None) -> dict[str, NDArray[np.float64]]:
        """The sum divided by its weight, or by a number that is given."""
        divisor = self.weight / WEIGHT_UNIT if by is None else by
        if not divisor > 0:
            raise TensorError(
                "aggregate: no update came, so there is no mean; raise the quorum to 1 at least"
            )
        self._carry()
        out = {}
        for name, (high, low) in self._parts():
            whole: NDArray[np.float64] = np.multiply(high, 1 / _HIGH, dtype=np.float64)
            whole += low * (1 / _HIGH / _LOW)
            whole /= divisor
            out[name] = whole.reshape(self._shapes[name])
        return out

    def limbs(self) -> tuple[Integers, Integers]:
        """High and low integers of all arrays one after another; equal sums have equal ones."""
        self._carry()
        return self._high, self._low

    @classmethod
    def from_limbs(cls, shapes: Shapes, high: Integers, low: Integers, terms: int, weight: int) -> FixedSum:
        """The sum that `limbs` came from; raises `TensorError` or `LimitExceeded` for what cannot be one."""
        made = cls(shapes)
        if not len(high) == len(low) == len(made._high):
            raise TensorError(f"partial sum: {len(high)} elements where {len(made._high)} were expected")
        made._count(terms, weight)
        most = math.ceil(weight / WEIGHT_UNIT * MAX_VALUE * _HIGH) + terms
        if len(high) and not (-most <= high.min() and high.max() <= most):
            raise LimitExceeded("partial sum: larger than its weight and terms allow")
        if len(low) and not (low.min() >= 0 and low.max() < _LOW):
            raise TensorError("partial sum: low parts out of range")
        made._high[:], made._low[:] = high, low
        return made

    def _parts(self) -> Iterator[tuple[str, tuple[Integers, Integers]]]:
        at = 0
        for name, shape in self._shapes.items():
            end = at + math.prod(shape)
            yield name, (self._high[at:end], self._low[at:end])
            at = end

    def _count(self, terms: int, weight: int) -> None:
        if not 0 < weight + self.weight <= MAX_WEIGHT * WEIGHT_UNIT or min(terms, weight) < 1:
            raise LimitExceeded(f"weight: all updates together pass {MAX_WEIGHT}, or one has none")
        self.terms += terms
        self.weight += weight
        self._since_carry += 1
        if self._since_carry >= _CARRY_AFTER:
            self._carry()

    def _carry(self) -> None:
        """Bring low parts to ``[0, 2^44)``, which makes equal sums equal bits."""
        for piece in _pieces(len(self._low)):
            over = self._low[piece] >> _LOW_BITS
            self._high[piece] += over
            self._low[piece] -= over << _LOW_BITS
        self._since_carry = 0


def _pieces(count: int) -> Iterator[slice]:
    return (slice(at, min(at + _PIECE, count)) for at in range(0, count, _PIECE))


def _add(
    values: NDArray[np.floating],
    weight: float,
    high: Integers,
    low: Integers,
    scratch: tuple[NDArray[np.float64], NDArray[np.float64], Integers],
) -> None:
    product, whole = scratch[0][: values.size], scratch[1][: values.size]
    integer = scratch[2][: values.size]
    np.multiply(values, weight, out=product, dtype=np.float64)
    # Powers of two, whole parts and what is left of them are exact in float64.
    np.multiply(product, _HIGH, out=product)
    np.trunc(product, out=whole)
    np.subtract(product, whole, out=product)
    np.copyto(integer, whole, casting="unsafe")
    high += integer
    np.multiply(product, _LOW, out=product)
    np.rint(product, out=product)
    np.copyto(integer, product, casting="unsafe")
    low += integer
