"""What an alternative may be, field by field, and what it does to a plan's digest."""

from __future__ import annotations

import msgspec
import pytest

from collab.core.plan import Plan, to_json
from collab.core.validate import MAX_ALTERNATIVES, convert_plan, decode_plan, validate
from collab.errors import PlanError
from tests.unit.core.trees import chain

PRIMARY = convert_plan(chain())


def alternative(name: str = "other", **changes: object) -> Plan:
    """The same stages, all on the last node."""
    last = PRIMARY.placed[-1]
    stages = tuple(msgspec.structs.replace(stage, nodes=(last,)) for stage in PRIMARY.stages)
    return PRIMARY.replace(**({"name": name, "primary": PRIMARY.name, "stages": stages} | changes))


def test_a_plan_with_alternatives_travels_whole_and_has_another_digest():
    plan = validate(PRIMARY.replace(alternatives=(alternative(without=PRIMARY.placed[:1]),)))
    assert decode_plan(to_json(plan)) == plan
    assert plan.digest != PRIMARY.digest
    assert [one.name for one in plan.family] == [PRIMARY.name, "other"]
    moved = plan.replace(alternatives=(alternative(without=PRIMARY.placed[:1], offline=True),))
    assert moved.digest != plan.digest


def test_fields_that_are_as_they_always_were_change_no_digest():
    assert PRIMARY.replace(local=True, alternatives=(), without=()).digest == PRIMARY.digest
    assert PRIMARY.replace(local=False).digest != PRIMARY.digest


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (alternative(primary=None), "alternatives[0].primary: None; it stands in for"),
        (alternative(PRIMARY.name), "stands there twice"),
        (alternative(alternatives=(alternative("third"),)), "alternatives[0].alternatives: an alternative"),
        (alternative(inputs=()), "alternatives[0].inputs: differ"),
        (alternative(without=PRIMARY.placed), "alternatives[0].without:"),
        (alternative(without=("no name!",)), "alternatives[0].without[0]:"),
        (alternative(stages=PRIMARY.stages, offline=True), "alternatives[0].offline: the plan is on a, b"),
        (alternative(credits=0), "alternatives[0].credits: 0"),
    ],
)
def test_what_is_wrong_with_an_alternative_is_named(made, message):
    with pytest.raises(PlanError) as caught:
        validate(PRIMARY.replace(alternatives=(made,)))
    assert message in str(caught.value)


def test_names_must_differ_and_their_number_is_bounded():
    with pytest.raises(PlanError, match="stands there twice"):
        validate(PRIMARY.replace(alternatives=(alternative(), alternative())))
    many = tuple(alternative(f"p{i}") for i in range(MAX_ALTERNATIVES + 1))
    with pytest.raises(PlanError, match="at most 64"):
        validate(PRIMARY.replace(alternatives=many))


@pytest.mark.parametrize("changes", [{"without": ("c",)}, {"offline": True}])
def test_only_alternatives_say_what_they_are_for(changes):
    with pytest.raises(PlanError, match="only an alternative has it"):
        validate(PRIMARY.replace(**changes))


def test_another_model_is_no_alternative():
    tree = chain()
    tree["models"] = [dict(tree["models"][0], sha256="f" * 64)]
    other = convert_plan(tree).replace(name="other", primary=PRIMARY.name)
    with pytest.raises(PlanError, match="models: differ"):
        validate(PRIMARY.replace(alternatives=(other,)))
