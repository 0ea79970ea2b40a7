"""Reports of many answers, as shares of them."""

from __future__ import annotations

import numpy as np
import pytest

from collab.coordinator.ensemble_reports import Reports
from collab.core.plan import Plan, report_specs
from collab.core.validate import convert_plan
from tests.unit.core.trees import cascade, chain, edge, spec, stage


def ensemble(reports=("members", "agreement", "confidence"), combine="mean", outputs=("p",)) -> Plan:
    names = ("one", "two")
    told = [
        {"name": s.name, "shape": list(s.shape), "dtype": s.dtype}
        for s in report_specs(2).values()
        if s.name in reports
    ]
    made = [spec(name) if name == "p" else told[0] for name in outputs]
    answer = {"id": "answer", "nodes": ["a"], "combine": combine, "inputs": [spec("p")]}
    return convert_plan(
        {
            "name": "pair",
            "models": [{"id": f"m-{n}", "sha256": "0" * 64, "ops": 1} for n in names],
            "inputs": [spec("x")],
            "outputs": made,
            "stages": [
                *({**stage(n, "a", [0, 1], ["x"], ["p"]), "model": f"m-{n}"} for n in names),
                {**answer, "outputs": [spec("p"), *told], "fires": {"rule": "any"}},
            ],
            "edges": [
                *(edge("@requester", n, "x") for n in names),
                *(edge(n, "answer", "p") for n in names),
                edge("answer", "@requester", "p", *reports),
            ],
            "nodes": [{"name": "a"}],
        }
    )


def answer(members, agreement, confidence):
    return {
        "p": np.zeros((1, 4), np.float32),
        "members": np.array(members, np.int32),
        "agreement": np.array(agreement, np.float32),
        "confidence": np.array(confidence, np.float32),
    }


def test_shares_of_answers_by_member():
    reports = Reports(ensemble())
    for told in (
        answer([1, 1], [1, 0], 0.5),
        answer([1, -2], [1, 0.5], 0.75),
        answer([1, 0], [1, 0], 1),
        answer([0, -1], [0, 0], 0.75),
    ):
        reports.add(told)
    assert reports.to_json() == {
        "ensemble": {
            "answers": 4,
            "members": [
                {
                    "name": "m-one",
                    "took_part": 0.75,
                    "missing": 0.25,
                    "not_finite": 0.0,
                    "quarantined": 0.0,
                    "agreement": 1.0,
                },
                {
                    "name": "m-two",
                    "took_part": 0.25,
                    "missing": 0.25,
                    "not_finite": 0.25,
                    "quarantined": 0.25,
                    "agreement": 0.25,
                },
            ],
            "confidence": {"mean": 0.75, "p5": 0.5375},
        }
    }


def test_members_alone_are_told_alone():
    reports = Reports(ensemble(("members",)))
    reports.add(answer([1, 1], [0, 0], 0))
    told = reports.to_json()["ensemble"]
    assert "confidence" not in told
    assert "agreement" not in told["members"][0]


def test_agreement_of_a_member_that_never_came_is_unknown():
    reports = Reports(ensemble())
    reports.add(answer([1, 0], [1, 0], 0.5))
    assert [m["agreement"] for m in reports.to_json()["ensemble"]["members"]] == [1.0, None]


@pytest.mark.parametrize("plan", [convert_plan(chain()), convert_plan(cascade()), ensemble(())])
def test_plans_without_reports_have_nothing_to_tell(plan):
    reports = Reports(plan)
    reports.add(answer([1, 1], [1, 1], 1))
    assert reports.to_json() == {}


def test_an_output_of_the_model_by_a_reports_name_is_no_report():
    reports = Reports(ensemble(("members",), outputs=("p", "members")))
    reports.add(answer([1, 1], [1, 1], 1))
    assert reports.to_json() == {}


def test_an_answer_of_another_shape_is_left_out():
    reports = Reports(ensemble())
    reports.add(answer([1, 1, 1], [1, 1, 1], 1))
    reports.add({"p": np.zeros(4)})
    assert reports.to_json() == {}


def test_a_cascade_tells_who_answered():
    reports = Reports(ensemble(("members",), combine="first"))
    for members in ([1, 0], [1, 0], [0, 1]):
        reports.add(answer(members, [0, 0], 0))
    assert reports.to_json() == {"cascade": {"answers": 3, "answered": {"m-one": 0.6667, "m-two": 0.3333}}}
