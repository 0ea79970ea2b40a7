"""Requests with a batch axis become single ones, and their answers one again.  No I/O.

Batching happens inside a worker, never on the wire; splitting here is all that a batch needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

import numpy as np

from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.core.tensor import TensorSpec
from collab.errors import LimitExceeded, TensorError

MAX_BATCH: Final = 256


class Axis(Enum):
    """Where requests of one call are beside each other."""

    NONE = "none"
    """One request in the model's own shape."""
    OWN = "own"
    """Along the model's own leading axis, which is 1."""
    LEADING = "leading"
    """Along one more axis before the model's."""


class Layout(NamedTuple):
    """How many requests a call is, and along which axis."""

    axis: Axis
    requests: int


def batchable(plan: Plan) -> bool:
    """Whether all tensors of a plan have a leading axis of 1."""
    return all(spec.shape[:1] == (1,) for spec in (*plan.inputs, *plan.outputs))


def layout(plan: Plan, shapes: Mapping[str, Sequence[int]]) -> Layout:
    """How a call's inputs are batched, from their shapes alone.

    Raises `TensorError` for shapes that fit in no way, and `LimitExceeded` for too many requests.
    """
    found: Layout | None = None
    own = batchable(plan)
    for spec in plan.inputs:
        if spec.name not in shapes:
            raise TensorError(f"input {spec.name!r} {spec.dtype}{list(spec.shape)} is missing")
        one = _of(spec, tuple(shapes[spec.name]), own)
        if found not in (None, one):
            raise TensorError(f"input {spec.name!r}: has another batch than {plan.inputs[0].name!r}")
        found = one
    assert found is not None, "a plan has inputs"
    if found.requests > MAX_BATCH:
        raise LimitExceeded(f"a batch of {found.requests} is over {MAX_BATCH}; send several requests")
    return found


def _of(spec: TensorSpec, shape: tuple[int, ...], own: bool) -> Layout:
    if shape == spec.shape:
        return Layout(Axis.NONE, 1)
    if shape and shape[0] > 0:
        if own and shape[1:] == spec.shape[1:]:
            return Layout(Axis.OWN, shape[0])
        if shape[1:] == spec.shape:
            return Layout(Axis.LEADING, shape[0])
    batched = list(spec.shape) if not own else ["N", *spec.shape[1:]]
    text = str(batched).replace("'", "")
    raise TensorError(f"input {spec.name!r}: shape {list(shape)} does not fit; the model takes {text}")


def split(inputs: Mapping[str, Array], how: Layout) -> list[dict[str, Array]]:
    """The single requests of a call; views of its arrays."""
    if how.axis is Axis.NONE:
        return [dict(inputs)]
    if how.axis is Axis.OWN:
        return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(how.requests)]
    return [{name: array[i] for name, array in inputs.items()} for i in range(how.requests)]


def join(answers: Sequence[Mapping[str, Array]], how: Layout, names: Sequence[str]) -> dict[str, Array]:
    """The answers to a call's requests as one, of the outputs named."""
    if how.axis is Axis.NONE:
        return {name: answers[0][name] for name in names}
    put = np.concatenate if how.axis is Axis.OWN else np.stack
    return {name: put([answer[name] for answer in answers]) for name in names}
