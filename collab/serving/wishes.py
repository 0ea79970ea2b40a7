"""Request parameters: what a client wants of one request beside its answer.  No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Union

from collab.client.ladder import PATHS
from collab.core.token import Priority
from collab.errors import InputError

Value = Union[str, float, int, bool]
"""What a parameter can be in JSON, and in gRPC."""

MAX_DEADLINE_S: Final = 600.0
MAX_PARAMETERS: Final = 64
_SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class Wishes:
    """Parameters of one request.

    Attributes:
        path: who shall answer: one of `PATHS`, or empty for whoever is first.
        binary: whether outputs that do not say otherwise come as binary data.
        hops: whether the answer shall say how long it took in each node.
        final: whether the answer shall say that it is the last of its request.
    """

    deadline_s: float
    priority: Priority = Priority.NORMAL
    path: str = ""
    binary: bool = False
    hops: bool = False
    final: bool = False


def read_wishes(parameters: Mapping[str, Value], default_s: float) -> Wishes:
    """Parameters as they were given; those that are not known here are left alone.

    ``timeout`` is in microseconds and ``priority`` 1 for the highest, as Triton has them;
    ``deadline_ms`` and the names low, normal and high are ours.  Raises `InputError`.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise InputError(f"parameters: {len(parameters)} are over {MAX_PARAMETERS}")
    for name in _SEQUENCE:
        if parameters.get(name) not in (None, 0, False, ""):
            raise InputError(
                f"parameter {name!r}: sequences keep state, and requests here do not; leave it out"
            )
    return Wishes(
        _deadline_s(parameters, default_s),
        _priority(parameters.get("priority", 0)),
        _path(parameters.get("path", "")),
        _flag(parameters, "binary_data_output"),
        _flag(parameters, "hops"),
        _flag(parameters, "triton_enable_empty_final_response"),
    )


def _deadline_s(parameters: Mapping[str, Value], default_s: float) -> float:
    for name, unit_s in (("deadline_ms", 1e-3), ("timeout", 1e-6)):
        value = parameters.get(name)
        if value is None or (name == "timeout" and value == 0):
            continue
        if isinstance(value, (bool, str)) or not (
            math.isfinite(value) and 0 < value * unit_s <= MAX_DEADLINE_S
        ):
            raise InputError(
                f"parameter {name!r}: give a number of {MAX_DEADLINE_S:g} s at most, not {str(value)[:40]!r}"
            )
        return value * unit_s
    return default_s


def _priority(value: Value) -> Priority:
    if isinstance(value, str) and value.upper() in Priority.__members__:
        return Priority[value.upper()]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL}.get(value, Priority.LOW)
    raise InputError(
        f"parameter 'priority': give low, normal, high, or 1 for the highest, not {str(value)[:40]!r}"
    )


def _path(value: Value) -> str:
    if value == "" or value in PATHS:
        return str(value)
    raise InputError(f"parameter 'path': give one of {', '.join(PATHS)}, not {str(value)[:40]!r}")


def _flag(parameters: Mapping[str, Value], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name!r}: give true or false, not {str(value)[:40]!r}")
    return value
