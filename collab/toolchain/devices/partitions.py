"""Which operators a delegate takes, and where that cuts the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collab.toolchain.devices.catalogue import Delegate, OperatorRule
from collab.toolchain.devices.facts import OpFacts

CPU: Final = "cpu"
_PLAIN: Final = frozenset({"int32", "int64", "bool"})
"""Dtypes of indices and shapes, which a delegate may read beside its own."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """An operator that a delegate does not take, and why."""

    at: int
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partition:
    """Operators ``[start, stop)`` that run on one thing: a delegate's name, or ``cpu``."""

    start: int
    stop: int
    on: str


def refusal(op: OpFacts, delegate: Delegate) -> str | None:
    """Why a delegate does not take an operator, if it does not."""
    rule = delegate.operators.get(op.name)
    if rule is None:
        kind = "a custom operator" if op.custom else "not among its operators"
        return kind
    wrong = _wrong_dtype(op, rule, delegate)
    if wrong is not None:
        return wrong
    most = rule.max_rank or delegate.max_rank
    if most is not None and op.rank > most:
        return f"rank {op.rank}, it takes up to {most}"
    return _wrong_options(op, rule)


def _wrong_dtype(op: OpFacts, rule: OperatorRule, delegate: Delegate) -> str | None:
    takes = rule.dtypes or delegate.dtypes
    wrong = sorted(op.activations.difference(takes) - _PLAIN)
    if not wrong and not op.activations & set(takes):
        wrong = sorted(op.activations)
    return f"{', '.join(wrong)}, it takes {', '.join(takes)}" if wrong else None


def _wrong_options(op: OpFacts, rule: OperatorRule) -> str | None:
    for position in rule.constant:
        if position in op.variable:
            return f"its input {position} is no constant"
    if rule.fused and op.fused not in ("NONE", *rule.fused):
        return f"fused {op.fused}"
    if rule.keep_dims is not None and op.keep_dims not in (None, rule.keep_dims):
        return f"keep_dims is {op.keep_dims}"
    if rule.inputs is not None and len(op.variable) > rule.inputs:
        return f"{len(op.variable)} inputs, it takes {rule.inputs}"
    return None


def fallbacks(ops: Sequence[OpFacts], delegate: Delegate) -> list[Fallback]:
    """Operators that a delegate leaves to others."""
    found = []
    first: int | None = None
    for op in ops:
        reason = refusal(op, delegate)
        if reason is None and delegate.first_only and first is not None:
            reason = f"stands behind operator {first}, from which on nothing is delegated"
        if reason is not None:
            first = op.at if first is None else first
            found.append(Fallback(op.at, op.name, reason))
    return found


def partitions(count: int, left: Sequence[Fallback], name: str) -> list[Partition]:
    """Runs of operators on a delegate and on the CPU, in turn."""
    fallen = {fallback.at for fallback in left}
    found: list[Partition] = []
    for at in range(count):
        on = CPU if at in fallen else name
        if found and found[-1].on == on:
            found[-1] = Partition(found[-1].start, at + 1, on)
        else:
            found.append(Partition(at, at + 1, on))
    return found
