"""Plans as values: looking things up, writing and reading, and their digest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.plan import (
    FireAll,
    FireAny,
    FireQuorum,
    Guard,
    Plan,
    StageSpec,
    StatePair,
    Tolerance,
    from_json,
    to_json,
)
from collab.core.tensor import TensorSpec
from collab.core.validate import convert_plan
from collab.errors import PlanError
from tests.unit.core.trees import SHA, cascade, chain
from tests.unit.node.plans import plans


def test_stages_and_edges_are_found_by_name():
    plan = convert_plan(cascade())
    assert plan.stage("l").model == "large"
    assert plan.stage_index("merge") == 2
    assert plan.edges_into("merge") == (2, 3)
    assert plan.edges_from("s") == (1, 2)
    assert plan.edges_from("@requester") == (0,)
    assert plan.edges_into("@requester") == (4,)
    assert [s.id for s in plan.stages_on("a")] == ["s", "merge"]
    assert plan.stages_on("z") == ()
    assert convert_plan(chain()).endpoints() == {"a": ("grpc://127.0.0.1:1",), "b": ()}
    with pytest.raises(KeyError):
        plan.stage("z")


def test_plans_cannot_be_changed():
    plan = convert_plan(chain())
    for owner in (plan, plan.stages[0], plan.edges[0], plan.nodes[0], plan.models[0], plan.inputs[0]):
        for field in msgspec.structs.fields(type(owner)):
            with pytest.raises(AttributeError):
                setattr(owner, field.name, None)


def test_replace_leaves_the_original_alone():
    plan = convert_plan(chain())
    other = plan.replace(credits=1)
    assert (plan.credits, other.credits) == (64, 1)


@pytest.mark.parametrize("tree", [chain(), cascade()], ids=["chain", "cascade"])
def test_a_plan_survives_json_and_yaml(tree):
    plan = convert_plan(tree)
    assert from_json(to_json(plan)) == plan
    assert from_json(memoryview(to_json(plan))) == plan
    text = yaml.safe_dump(msgspec.to_builtins(plan), sort_keys=False)
    assert convert_plan(yaml.safe_load(text)) == plan


@settings(max_examples=50, deadline=None)
@given(plans())
def test_any_plan_survives_json_and_yaml_with_its_digest(plan):
    text = yaml.safe_dump(msgspec.to_builtins(plan))
    for back in (from_json(to_json(plan)), convert_plan(yaml.safe_load(text))):
        assert back == plan
        assert back.digest == plan.digest


@pytest.mark.parametrize(("name", "node"), [("on", "off"), ("1e3", "0x10"), ("null", "true"), ("12", "1.5")])
def test_names_that_yaml_might_take_for_something_else_survive(name, node):
    tree = chain()
    tree["name"] = tree["stages"][0]["id"] = tree["edges"][1]["source"] = tree["edges"][0]["target"] = name
    tree["nodes"][0]["name"] = node
    tree["stages"][0]["nodes"] = [node]
    plan = convert_plan(tree)
    assert convert_plan(yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(plan)))) == plan


def test_a_plan_that_travelled_is_checked():
    with pytest.raises(PlanError, match=r"^credits: 0"):
        from_json(to_json(convert_plan(chain()).replace(credits=0)))


def test_what_is_default_is_not_written():
    assert b"credits" not in to_json(convert_plan(chain()))
    assert to_json(convert_plan({**chain(), "credits": 64})) == to_json(convert_plan(chain()))


def test_a_prediction_is_kept_in_files_and_does_not_travel():
    predicted = {
        "latency_ms": 7.0,
        "bottleneck_ms": 3.0,
        "stages": [{"stage": "head", "nodes": ["a"], "ms": 3.0}],
        "edges": [{"source": "head", "target": "tail", "ms": 1.0, "occupied_ms": 0.5}],
        "profile": SHA,
        "basis": "a guess",
    }
    plan = convert_plan({**chain(), "predicted": predicted})
    assert plan.predicted is not None
    assert convert_plan(yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(plan)))) == plan
    assert to_json(plan) == to_json(convert_plan(chain()))
    assert plan.digest == convert_plan(chain()).digest


# --- the digest --------------------------------------------------------------

IGNORED = {("nodes", "endpoints"), ("models", "path"), ("predicted",)}


def rich() -> Plan:
    """Every field holds something; not valid, but a digest needs no validity."""
    plan, change = convert_plan(cascade()), msgspec.structs.replace
    state = (StatePair(output="p", input="x"),)
    return plan.replace(
        alternatives=(convert_plan(chain()).replace(primary=plan.name),),
        models=tuple(change(m, path="/tmp/m.tflite", signature="serve") for m in plan.models),
        nodes=tuple(change(n, endpoints=("grpc://h:1",)) for n in plan.nodes),
        stages=tuple(change(s, state=state, combine=s.combine or "c", ops=(0, 1)) for s in plan.stages),
    )


def different(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, tuple):
        return (*value, value[0]) if value else ("x",)
    if isinstance(value, msgspec.Struct):
        return (
            FireAny() if isinstance(value, FireAll) else FireAll() if isinstance(value, FireQuorum) else None
        )
    return "x"


def variants(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Everything that differs from a struct in one place, with the fields that lead there."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for field in msgspec.structs.fields(type(value)):
        here = (*path, field.name)
        if here == ("alternatives", "alternatives"):
            continue  # an alternative has none of its own
        content = getattr(value, field.name)
        found.append((here, msgspec.structs.replace(value, **{field.name: different(content)})))
        if isinstance(content, msgspec.Struct):
            for inner, other in variants(content, here):
                found.append((inner, msgspec.structs.replace(value, **{field.name: other})))
        elif isinstance(content, tuple):
            for i, item in enumerate(content):
                if isinstance(item, msgspec.Struct):
                    for inner, other in variants(item, here):
                        changed = (*content[:i], other, *content[i + 1 :])
                        found.append((inner, msgspec.structs.replace(value, **{field.name: changed})))
    return found


def test_the_digest_ignores_endpoints_and_paths_and_nothing_else():
    seen = set()
    base = rich()
    for path, plan in variants(base):
        assert plan != base
        own = path[1:] if path[0] == "alternatives" and len(path) > 1 else path
        assert (plan.digest == base.digest) == (own in IGNORED), path
        seen.add(own)
    fields = {
        name for cls in (Plan, StageSpec, TensorSpec, Guard, Tolerance) for name in cls.__struct_fields__
    }
    assert fields <= {path[-1] for path in seen}
    assert seen >= IGNORED


@pytest.mark.parametrize(
    ("tree", "digest"),
    [
        (chain(), "a58868f88381f7ec1a3dce3f085b8248f28b285a9005a8690f614155c71786ed"),
        (cascade(), "f9189d75326f4dda87abaecbe8061fcce2d15d7e4d661ebb317e9481e55120da"),
    ],
    ids=["chain", "cascade"],
)
def test_the_digest_is_that_of_this_release(tree, digest):
    """Nodes of different releases compare digests; a change here needs a new plan version."""
    assert convert_plan(tree).digest == digest


def test_a_default_given_by_hand_changes_no_digest():
    by_hand = chain()
    by_hand |= {"version": 1, "credits": 64, "tolerance": {"atol": 1e-4, "rtol": 1e-3}}
    by_hand["stages"][0] |= {
        "fires": {"rule": "all"},
        "threads": 1,
        "model": "model",
        "state": [],
        "bytes": 0,
    }
    by_hand["edges"][0] |= {"codec": "raw", "via": [], "guard": None}
    assert convert_plan(by_hand).digest == convert_plan(chain()).digest


@given(st.permutations(range(3)))
def test_the_digest_depends_on_the_order_of_edges(order):
    plan = convert_plan(chain())
    other = plan.replace(edges=tuple(plan.edges[i] for i in order))
    assert (other.digest == plan.digest) == (list(order) == [0, 1, 2])


def test_the_release_of_a_model_is_part_of_what_runs():
    release = {"family": "digits", "version": 3, "sha256": SHA}
    bare, named = chain(), chain()
    named["models"][0]["release"] = release
    plan = convert_plan(named)
    assert (plan.release, convert_plan(bare).release) == ("digits:3", "")
    assert plan.digest != convert_plan(bare).digest, "nodes must be told the new name"
    assert from_json(to_json(plan)) == plan
    for field, wrong in (("version", 0), ("family", "a b"), ("sha256", "x")):
        named["models"][0]["release"] = {**release, field: wrong}
        with pytest.raises(PlanError, match=f"release.{field}"):
            convert_plan(named)
