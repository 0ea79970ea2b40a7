"""What a policy does in a state, and why: pure, so a dry run is the same call."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from collab.updates.policies.clauses import (
    Action,
    AllOf,
    Always,
    AnyOf,
    Clause,
    Every,
    First,
    Is,
    Level,
    Not,
    Policy,
    Rule,
    Window,
    Worse,
)
from collab.updates.policies.evidence import log_evidence
from collab.updates.policies.measures import FLAGS, MEASURES
from collab.updates.policies.memory import Held, Memory, turned
from collab.updates.policies.parse import children
from collab.updates.policies.state import DeviceState
from collab.updates.policies.windows import minutes_of, openings, zone

Verdict = Literal["yes", "no", "unknown"]
_Judged = tuple[Verdict, str, float]
"""With the moment at which time alone may change it; infinity: never."""
_NEVER: Final = math.inf
_FREE: Final[Mapping[Action, str]] = MappingProxyType({})
_OPPOSITE: Final[Mapping[Verdict, Verdict]] = {"yes": "no", "no": "yes", "unknown": "unknown"}


class Line(NamedTuple):
    """One clause of a dry run."""

    path: str
    kind: str
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and what to remember for the next look.

    Attributes:
        action: ``wait`` when no rule holds.
        rule: number of the rule that decided, from 0; None when none did.
        pace: how many times shorter than usual intervals are.
        again_s: the earliest moment, seconds since 1970, at which time alone may change a verdict over a
            whole rule; None: never.
        lines: each clause of each rule, in the order of the file.
    """

    action: Action
    rule: int | None
    why: str
    pace: float
    again_s: float | None
    lines: tuple[Line, ...]
    memory: Memory


@dataclass
class _Look:
    """One evaluation under way."""

    state: DeviceState
    before: Mapping[str, Held]
    pace: float = 1.0
    after: dict[str, Held] = field(default_factory=dict)
    lines: dict[int, list[Line]] = field(default_factory=dict)
    """By rule, each clause before those within it."""
    measured: dict[str, float | None] = field(default_factory=dict)
    """Statistics cost more than all else, and several clauses ask for the same."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A clause with what never changes about it."""

    clause: Clause
    path: str
    kind: str
    judge: Callable[[Any, str, _Look], _Judged] | None
    """None of clauses over others."""
    within: tuple[_Node, ...] = ()
    places: tuple[int, ...] = ()
    """Lines from this clause's own to each of those within."""
    compose: Callable[[list[Verdict]], tuple[Verdict, list[int]]] | None = None
    settled: Verdict | None = None
    """By which one clause within decides, whatever the others say."""


def decide(
    policy: Policy, state: DeviceState, memory: Memory = Memory(), cannot: Mapping[Action, str] = _FREE
) -> Decision:
    """Judge every clause, then set the pace, then take the first other rule that holds.

    ``cannot`` says of actions why they cannot be done now: their rules are passed over.
    """
    memory = memory.of(policy)
    look = _Look(state, memory.held)
    verdicts: dict[int, Verdict] = {}
    # Rules of pace go first: intervals in the others depend on them.
    nodes = _nodes(policy)
    later: list[float] = []
    for pacing in (True, False):
        for number, rule in enumerate(policy.rules):
            if (rule.then in ("faster", "slower")) is pacing:
                look.lines[number] = []
                verdicts[number], again = _judge(nodes[number], look, look.lines[number])
                later.append(again)
        if pacing:
            look.pace = _pace(policy, verdicts)
    action, chosen, why = _chosen(policy, verdicts, look, cannot)
    lines = [line for number in range(len(policy.rules)) for line in look.lines[number]]
    again_s = min(later)
    held = Memory(policy=memory.policy, held=look.after)
    return Decision(
        action, chosen, why, look.pace, again_s if again_s < math.inf else None, tuple(lines), held
    )


def _pace(policy: Policy, verdicts: Mapping[int, Verdict]) -> float:
    pace = 1.0
    for number, verdict in verdicts.items():
        if verdict == "yes":
            rule = policy.rules[number]
            pace *= rule.by if rule.then == "faster" else 1 / rule.by
    return pace


def _chosen(
    policy: Policy, verdicts: Mapping[int, Verdict], look: _Look, cannot: Mapping[Action, str]
) -> tuple[Action, int | None, str]:
    passed = ""
    for number, rule in enumerate(policy.rules):
        action = rule.then
        if action == "faster" or action == "slower" or verdicts[number] != "yes":
            continue
        if lack := cannot.get(action) or _lacks(rule, look.state):
            passed += f"; rule {number} ({rule.then}) holds, but {lack}"
            continue
        return action, number, look.lines[number][0].why + passed
    return "wait", None, f"no rule holds{passed}"


def _lacks(rule: Rule, state: DeviceState) -> str:
    """What an action needs that the device does not have."""
    if rule.then == "rollback" and state.previous is None:
        return "there is no version to go back to"
    if rule.then == "install" and (state.offered is None or state.offered <= state.running):
        return "no newer version is offered"
    return ""


# --- clauses ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _nodes(policy: Policy) -> tuple[_Node, ...]:
    return tuple(_node(rule.when, f"rules.{number}.when") for number, rule in enumerate(policy.rules))


def _node(clause: Clause, path: str) -> _Node:
    kind = type(clause)
    within = tuple(_node(each, where) for where, each in children(clause, path))
    before = itertools.accumulate((_lines(each) for each in within), initial=1)
    return _Node(
        clause,
        path,
        str(kind.__struct_config__.tag),
        _LEAVES.get(kind),
        within,
        tuple(before)[: len(within)],
        _COMPOSED.get(kind),
        _SETTLED.get(kind),
    )


def _lines(node: _Node) -> int:
    return 1 + sum(map(_lines, node.within))


def _judge(node: _Node, look: _Look, lines: list[Line]) -> tuple[Verdict, float]:
    """A verdict, and when time alone may change it; infinity where it never does."""
    if node.judge is not None:
        verdict, why, again = node.judge(node.clause, node.path, look)
        lines.append(Line(node.path, node.kind, verdict, why))
        return verdict, again
    at = len(lines)
    # It takes its place before the clauses within, which it rests on.
    lines.append(Line(node.path, node.kind, "unknown", ""))
    verdicts: list[Verdict] = []
    moments: list[float] = []
    for each in node.within:
        verdict, again = _judge(each, look, lines)
        verdicts.append(verdict)
        moments.append(again)
    assert node.compose is not None
    verdict, because = node.compose(verdicts)
    why = "; ".join([lines[at + node.places[i]].why for i in because])
    lines[at] = Line(node.path, node.kind, verdict, why)
    if verdict == node.settled:
        # Each of those that settle it has to change.
        return verdict, max(again for one, again in zip(verdicts, moments, strict=True) if one == verdict)
    return verdict, min(moments)


# Clauses over others: the verdict, and which of them it rests on (Kleene's logic).


def _all(verdicts: list[Verdict]) -> tuple[Verdict, list[int]]:
    if "no" in verdicts:
        return "no", [at for at, one in enumerate(verdicts) if one == "no"]
    return _open(verdicts, "yes")


def _any(verdicts: list[Verdict]) -> tuple[Verdict, list[int]]:
    return ("yes", [verdicts.index("yes")]) if "yes" in verdicts else _open(verdicts, "no")


def _open(verdicts: list[Verdict], otherwise: Verdict) -> tuple[Verdict, list[int]]:
    """Where none settles it."""
    if "unknown" in verdicts:
        return "unknown", [at for at, one in enumerate(verdicts) if one == "unknown"]
    return otherwise, list(range(len(verdicts)))


def _not(verdicts: list[Verdict]) -> tuple[Verdict, list[int]]:
    return _OPPOSITE[verdicts[0]], [0]


def _first(verdicts: list[Verdict]) -> tuple[Verdict, list[int]]:
    at = next((at for at, one in enumerate(verdicts) if one != "unknown"), None)
    return (verdicts[at], [at]) if at is not None else ("unknown", list(range(len(verdicts))))


_COMPOSED: Final[Mapping[type, Callable[[list[Verdict]], tuple[Verdict, list[int]]]]] = {
    AllOf: _all,
    AnyOf: _any,
    Not: _not,
    First: _first,
}
_SETTLED: Final[Mapping[type, Verdict]] = {AllOf: "no", AnyOf: "yes"}


def _always(clause: Always, path: str, look: _Look) -> _Judged:
    return "yes", "always", _NEVER


def _every(clause: Every, path: str, look: _Look) -> _Judged:
    state = look.state
    if state.checked_s is None:
        return "yes", "never looked for a release", _NEVER
    hours = min(max(clause.hours / look.pace, clause.fastest_hours), clause.slowest_hours)
    shift = clause.jitter * (2 * drawn(f"{state.device}/{state.checked_s:.0f}/{path}") - 1)
    due = state.checked_s + hours * (1 + shift) * 3600
    # A last look in the future is of a clock that was put back: it says nothing.
    if state.checked_s > state.time_s:
        return "yes", "the last look is in the future, so the clock was put back", _NEVER
    if due <= state.time_s:
        return "yes", f"{(state.time_s - state.checked_s) / 3600:.1f} h since the last look", _NEVER
    return "no", f"due in {(due - state.time_s) / 3600:.1f} h", due


def _window(clause: Window, path: str, look: _Look) -> _Judged:
    state = look.state
    place = zone(state.time_zone)
    if place is None:
        why = f"time zone {state.time_zone[:40]!r} is not known here; install tzdata or correct it"
        return "unknown", why, _NEVER
    start, stop = minutes_of(clause.start), minutes_of(clause.to)
    if start is None or stop is None:
        return "unknown", "the window has no times", _NEVER
    own = drawn(f"{state.device}/{path}") * clause.spread if clause.spread else 0.0
    name = f"the window {clause.start} to {clause.to} {state.time_zone}"
    for opens, closes in openings(state.time_s, place, clause.days, start, stop):
        begins = opens + own * (closes - opens)
        if begins <= state.time_s < closes:
            return "yes", f"in {name}", closes
        if begins > state.time_s:
            return "no", f"{name} opens in {(begins - state.time_s) / 3600:.1f} h", begins
    return "no", f"{name} does not open within a week", _NEVER


def _level(clause: Level, path: str, look: _Look) -> _Judged:
    if clause.measure not in look.measured:
        look.measured[clause.measure] = MEASURES[clause.measure](look.state)
    value = look.measured[clause.measure]
    before = look.before.get(path)
    if value is None or math.isnan(value):
        # Kept over a gap in what is reported, but the wait for a change is over.
        if before is not None:
            look.after[path] = Held(on=before.on)
        return "unknown", f"{clause.measure} is not known", _NEVER
    low = clause.at_least is not None
    bound = clause.at_least if clause.at_least is not None else clause.at_most or 0.0
    until = bound if clause.until is None else clause.until
    begins, stays = (value >= bound, value >= until) if low else (value <= bound, value <= until)
    held = turned(before, begins, stays, look.state.time_s, clause.hold_s)
    look.after[path] = held
    again = _NEVER if held.turning_s is None else held.turning_s + clause.hold_s
    sign = ("≥" if held.on else "<") if low else ("≤" if held.on else ">")
    why = f"{clause.measure} {value:.3g} {sign} {until if held.on else bound:g}"
    if held.on != (stays if held.on else begins):
        since = look.state.time_s - (held.turning_s or 0.0)
        why = (
            f"{clause.measure} {value:.3g}, held {'true' if held.on else 'false'}: changed for {since:.0f} s"
        )
        why += f" of {clause.hold_s:g} s"
    return ("yes" if held.on else "no"), why, again


def _is(clause: Is, path: str, look: _Look) -> _Judged:
    value = FLAGS[clause.flag](look.state)
    if value is None:
        return "unknown", f"{clause.flag} is not known", _NEVER
    return ("yes", clause.flag, _NEVER) if value else ("no", f"not {clause.flag}", _NEVER)


def _worse(clause: Worse, path: str, look: _Look) -> _Judged:
    labelled = look.state.labelled
    found = None if labelled is None else log_evidence(labelled.tallies, labelled.baseline, clause.drop)
    if labelled is None or found is None:
        return "unknown", "no labelled feedback", _NEVER
    needed = -math.log(clause.alpha)
    held = turned(look.before.get(path), found >= needed, found > 0, look.state.time_s, 0.0)
    look.after[path] = held
    right = sum(tally.correct for tally in labelled.tallies)
    count = sum(tally.labelled for tally in labelled.tallies)
    why = f"{right} of {count} labelled answers right, {labelled.baseline:g} promised: "
    why += f"log evidence {found:.1f} of {needed:.1f}"
    return ("yes" if held.on else "no"), why, _NEVER


_LEAVES: Final[Mapping[type, Callable[[Any, str, _Look], _Judged]]] = {
    Always: _always,
    Every: _every,
    Window: _window,
    Level: _level,
    Is: _is,
    Worse: _worse,
}


@functools.lru_cache(maxsize=65_536)
def drawn(seed: str) -> float:
    """A number within [0, 1) that is always the same for a seed."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big") / 2**56
