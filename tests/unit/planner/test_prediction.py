"""From chains to what their plans say of them, and from plans back to chains."""

from __future__ import annotations

import pytest

from collab.core.profile import LinkEntry
from collab.core.validate import convert_plan, validate
from collab.errors import PlanError
from collab.planner.chains import Chain, Move, StageChoice
from collab.planner.evaluate import Evaluator
from collab.planner.prediction import chain_of, predicted_of, stage_times, with_known_threads
from tests.unit.core.trees import SHA, cascade, chain, edge
from tests.unit.planner.small import FP16, RAW, profile, two_stages


def test_every_stage_and_edge_has_its_part_of_the_latency():
    evaluation = Evaluator(profile()).evaluate(two_stages())
    predicted = predicted_of(evaluation, two_stages(), SHA, "by hand")
    assert [(s.stage, s.nodes, s.ms) for s in predicted.stages] == [
        ("stage-0", ("a",), 2.0),
        ("stage-1", ("b",), 6.0),
    ]
    assert [(e.source, e.target, e.ms, e.occupied_ms) for e in predicted.edges] == [
        ("@requester", "stage-0", 2.0, 1.0),
        ("stage-0", "stage-1", 5.0, 4.0),
        ("stage-1", "@requester", 3.0, 2.0),
    ]
    parts = sum(s.ms for s in predicted.stages) + sum(e.ms for e in predicted.edges)
    assert predicted.latency_ms == parts == 18.0
    assert (predicted.bottleneck_ms, predicted.profile, predicted.basis) == (6.0, SHA, "by hand")


def test_codecs_count_for_the_stages_that_run_them():
    evaluator = Evaluator(profile())
    predicted = predicted_of(evaluator.evaluate(two_stages(FP16)), two_stages(FP16))
    assert [s.ms for s in predicted.stages] == [2.0 + 4.0, 6.0 + 2.0]
    assert predicted.edges[1].occupied_ms == 2.0
    assert stage_times(evaluator, two_stages(FP16)) == {(0, "a"): 6.0, (1, "b"): 8.0}


def test_moves_within_a_node_take_nothing_and_are_listed_all_the_same():
    one = Chain((StageChoice(0, 2, ("a",)), StageChoice(2, 5, ("a",))), (RAW, RAW, RAW))
    links = (*profile().links, LinkEntry(source="a", target="me", latency_ms=1.0, mbit_s=8.0))
    predicted = predicted_of(Evaluator(profile(links=links)).evaluate(one), one)
    assert [e.ms for e in predicted.edges] == [2.0, 0.0, 3.0]


def test_an_impossible_chain_has_no_prediction():
    back = Chain((StageChoice(0, 2, ("b",)), StageChoice(2, 5, ("a",))), (RAW, RAW, RAW))
    with pytest.raises(PlanError, match="impossible"):
        predicted_of(Evaluator(profile()).evaluate(back), back)


def test_a_deployed_chain_is_read_back():
    tree = chain()
    tree["edges"][1] |= {"transport": "mqtt", "codec": "lz4"}
    tree["stages"][0] |= {"threads": 2, "nodes": ["a", "b"]}
    middle = Move("mqtt", "raw+lz4")
    assert chain_of(convert_plan(tree)) == Chain(
        (StageChoice(0, 2, ("a", "b"), 2), StageChoice(2, 5, ("b",), 1)), (RAW, middle, RAW)
    )


def test_what_is_no_chain_is_refused():
    with pytest.raises(PlanError, match="no plain chain"):
        chain_of(convert_plan(cascade()))
    tree = chain()
    tree["edges"][2]["tensors"] = ["y"]
    tree["edges"].append(edge("@requester", "tail", "x"))
    with pytest.raises(PlanError, match="no plain chain"):
        chain_of(validate(convert_plan(tree)))


def test_threads_that_nobody_measured_are_left_to_the_profile():
    measured = Chain((StageChoice(0, 5, ("a",), 2),), (RAW, RAW))
    unknown = Chain((StageChoice(0, 5, ("a", "b"), 2),), (RAW, RAW))
    evaluator = Evaluator(profile())
    assert with_known_threads(measured, evaluator) == measured
    assert with_known_threads(unknown, evaluator).stages[0].threads == 0
