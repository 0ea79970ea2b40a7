"""A policy from parsed YAML or TOML, checked as a whole; what is unknown or out of range is named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from collab.errors import ConfigError
from collab.updates.policies.clauses import (
    MAX_CLAUSES,
    MAX_DEPTH,
    MAX_HOLD_S,
    MAX_HOURS,
    MAX_RULES,
    AllOf,
    AnyOf,
    Clause,
    Every,
    First,
    Level,
    Not,
    Policy,
    Window,
    Worse,
)
from collab.updates.policies.windows import minutes_of

MAX_POLICY_BYTES: Final = 256 << 10
_MAX_FACTOR: Final = 1_000.0


def policy_of(tree: Any) -> Policy:
    """A policy; raises `ConfigError` that names the field and the remedy."""
    try:
        policy = msgspec.convert(tree, Policy)
    except (msgspec.ValidationError, RecursionError) as error:
        what, mark, where = str(error).rpartition(" - at `")
        path = where.rstrip("`").removeprefix("$").removeprefix(".") if mark else ""
        raise ConfigError(f"{path or 'policy'}: {what if mark else error}") from error
    if not 1 <= len(policy.rules) <= MAX_RULES:
        raise ConfigError(f"rules: {len(policy.rules)} rules; give 1 to {MAX_RULES}")
    clauses = 0
    for number, rule in enumerate(policy.rules):
        if not 1 < rule.by <= _MAX_FACTOR:
            raise ConfigError(f"rules.{number}.by: {rule.by:g} is not above 1 and at most {_MAX_FACTOR:g}")
        for path, clause, depth in walk(rule.when, f"rules.{number}.when"):
            clauses += 1
            if depth > MAX_DEPTH:
                raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH}")
            if clauses > MAX_CLAUSES:
                raise ConfigError(f"{path}: over {MAX_CLAUSES} clauses")
            _check(clause, path)
    return policy


def children(clause: Clause, path: str) -> tuple[tuple[str, Clause], ...]:
    """The clauses within one, by their paths."""
    if isinstance(clause, Not):
        return ((f"{path}.of", clause.of),)
    if isinstance(clause, (AllOf, AnyOf, First)):
        return tuple((f"{path}.of.{at}", inner) for at, inner in enumerate(clause.of))
    return ()


def walk(clause: Clause, path: str, depth: int = 1) -> Iterator[tuple[str, Clause, int]]:
    """A clause and all within it, outermost first."""
    yield path, clause, depth
    for where, inner in children(clause, path):
        yield from walk(inner, where, depth + 1)


def _check(clause: Clause, path: str) -> None:
    if isinstance(clause, (AllOf, AnyOf, First)) and not clause.of:
        raise ConfigError(f"{path}.of: is empty; give one clause at least")
    if isinstance(clause, Every):
        _within(clause.hours, 1 / 60, MAX_HOURS, f"{path}.hours")
        _within(clause.jitter, 0, 0.9, f"{path}.jitter")
        _within(clause.fastest_hours, 1 / 60, MAX_HOURS, f"{path}.fastest_hours")
        _within(clause.slowest_hours, clause.fastest_hours, MAX_HOURS, f"{path}.slowest_hours")
    if isinstance(clause, Window):
        for field, text in (("from", clause.start), ("to", clause.to)):
            if minutes_of(text) is None:
                raise ConfigError(f"{path}.{field}: {text[:20]!r} is no time; write HH:MM, such as 01:30")
        _within(clause.spread, 0, 0.9, f"{path}.spread")
    if isinstance(clause, Level):
        _check_level(clause, path)
    if isinstance(clause, Worse):
        _within(clause.drop, 1e-3, 1, f"{path}.drop")
        _within(clause.alpha, 1e-9, 0.5, f"{path}.alpha")


def _check_level(clause: Level, path: str) -> None:
    if (clause.at_least is None) == (clause.at_most is None):
        raise ConfigError(f"{path}: give at_least or at_most, one of them")
    for value in (clause.at_least, clause.at_most, clause.until):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{path}: {value} is no bound; give a number")
    _within(clause.hold_s, 0, MAX_HOLD_S, f"{path}.hold_s")
    if clause.until is None:
        return
    if clause.at_least is not None and clause.until > clause.at_least:
        raise ConfigError(f"{path}.until: {clause.until:g} is over at_least {clause.at_least:g}")
    if clause.at_most is not None and clause.until < clause.at_most:
        raise ConfigError(f"{path}.until: {clause.until:g} is under at_most {clause.at_most:g}")


def _within(value: float, low: float, high: float, path: str) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{path}: {value:g} is not within {low:g} to {high:g}")
