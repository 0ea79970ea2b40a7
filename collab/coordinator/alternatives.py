"""From chains that stand in for a plan to the plan with its alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from collab.core.alternatives import alternative_name
from collab.core.ids import PlanName
from collab.core.plan import Plan, Predicted, Tolerance
from collab.core.profile import Profile
from collab.core.validate import validate
from collab.planner.alternatives import Standby
from collab.planner.chains import Chain
from collab.planner.evaluate import Evaluator
from collab.planner.prediction import predicted_of


def predicted(profile: Profile, chain: Chain, basis: str) -> Predicted:
    """What a profile says of a chain, as plans keep it; raises `PlanError` for an impossible one."""
    return predicted_of(Evaluator(profile).evaluate(chain), chain, profile.digest, basis)


def with_alternatives(plan: Plan, spare: Sequence[tuple[Standby, Plan, Predicted]]) -> Plan:
    """The plan with alternatives, in the order given, each named after the nodes that it is for.

    All allow what the loosest of them needs, for whoever compares answers does so by the plan.
    """
    plans = [plan, *(made for _, made, _ in spare)]
    tolerance = Tolerance(
        atol=max(p.tolerance.atol for p in plans), rtol=max(p.tolerance.rtol for p in plans)
    )
    made = tuple(
        alternative.replace(
            name=_name(plan.name, standby),
            tolerance=tolerance,
            primary=plan.name,
            without=standby.without,
            offline=standby.offline,
            local=plan.local,
            predicted=foreseen,
        )
        for standby, alternative, foreseen in spare
    )
    return validate(plan.replace(tolerance=tolerance, alternatives=made))


def _name(primary: PlanName, standby: Standby) -> PlanName:
    if standby.offline:
        return alternative_name(primary, standby.nodes, "alone")
    return alternative_name(primary, standby.without)
