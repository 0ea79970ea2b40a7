"""Alternatives of a plan: what each is called, and the rules that it has to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from collab.core.ids import NodeName, PlanName
from collab.core.plan import Plan
from collab.errors import InputError, PlanError

_LONGEST = 63
_MARK = 8
"""Hexadecimal digits that tell apart names which had to be cut."""


def alternative_name(primary: PlanName, nodes: Iterable[NodeName], word: str = "without") -> PlanName:
    """``digits.without.b``, or with ``alone`` for one node; cut where it gets too long for a name."""
    full = ".".join((primary, word, *nodes))
    if len(full) <= _LONGEST:
        return PlanName(full)
    mark = hashlib.sha256(full.encode()).hexdigest()[:_MARK]
    return PlanName(f"{full[: _LONGEST - _MARK - 1]}-{mark}")


def check_alternatives(plan: Plan, validate: Callable[[Plan], Plan]) -> tuple[Plan, ...]:
    """The alternatives as `validate` returns them; raises `PlanError` naming the field."""
    names = {plan.name}
    checked = []
    for i, alternative in enumerate(plan.alternatives):
        where = f"alternatives[{i}]"
        if alternative.alternatives:
            raise PlanError(f"{where}.alternatives: an alternative has none of its own; leave it out")
        if alternative.primary != plan.name:
            raise PlanError(f"{where}.primary: {alternative.primary!r}; it stands in for {plan.name!r}")
        if alternative.name in names:
            raise PlanError(f"{where}.name: {alternative.name!r} stands there twice; names must differ")
        names.add(alternative.name)
        for field in ("inputs", "outputs"):
            if getattr(alternative, field) != getattr(plan, field):
                raise PlanError(f"{where}.{field}: differ from the primary's; make the plan anew")
        models = [(model.id, model.sha256, model.signature) for model in alternative.models]
        if models != [(model.id, model.sha256, model.signature) for model in plan.models]:
            raise PlanError(f"{where}.models: differ from the primary's; make the plan anew")
        try:
            checked.append(validate(alternative))
        except InputError as error:
            raise PlanError(f"{where}.{error}") from error
    return tuple(checked)
