"""Combiners: members' tensors by name, merged into one answer, and what is told beside it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.plan import Plan, report_specs
from collab.core.validate import convert_plan
from collab.errors import PlanError, StageFailed
from collab.runtime import combiners
from collab.runtime.combiners import (
    COMBINERS,
    Merge,
    combiner,
    first,
    maximum,
    mean,
    median,
    probabilities,
    vote,
    weighted,
)
from tests.unit.core.trees import edge, spec, stage


def members(*values, dtype="float32"):
    return [{"p": np.array(value, dtype)} for value in values]


def ones(given_members):
    return [1.0] * len(given_members)


def made(combine, *values, weights=None, dtype="float32"):
    given_members = members(*values, dtype=dtype)
    return combine(given_members, weights or ones(given_members))["p"]


def test_first_takes_the_first_members_tensors():
    one, other = {"p": np.ones(2), "q": np.zeros(1)}, {"p": np.zeros(2)}
    assert first([one, other], [1, 1]) == one
    assert first([one, other], [1, 1]) is not one


def test_mean_is_taken_element_by_element_for_every_tensor():
    merged = mean(
        [{"p": np.array([1.0, 2]), "q": np.array([5.0])}, {"p": np.array([3.0, 6]), "q": np.array([6.0])}],
        [1, 1],
    )
    assert merged["p"].tolist() == [2, 4]
    assert merged["q"].tolist() == [5.5]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float32", ([1], [2], [4]), [7 / 3]),
        ("float16", ([60000], [60000]), [60000]),
        ("int8", ([127], [127], [126]), [127]),
        ("int8", ([-128], [-127]), [-128]),
        ("uint8", ([255], [254], [255]), [255]),
        ("int32", ([0], [1]), [0]),
        ("int32", ([1], [2]), [2]),
        ("bool", ([True], [False], [False]), [False]),
        ("bool", ([True], [True], [False]), [True]),
        ("complex64", ([1 + 2j], [3 - 4j]), [2 - 1j]),
    ],
)
def test_mean_keeps_the_dtype_and_rounds_what_has_no_fractions(dtype, values, expected):
    for combine in (mean, weighted):
        merged = made(combine, *values, dtype=dtype)
        assert merged.dtype == np.dtype(dtype)
        np.testing.assert_allclose(merged, np.array(expected, dtype), rtol=1e-6)


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=5), st.integers(1, 5))
def test_what_all_members_say_is_the_answer(values, count):
    for dtype in ("int8", "float32", "int32"):
        for combine in (mean, median, maximum):
            assert made(combine, *[values] * count, dtype=dtype).tolist() == values


def test_members_are_left_alone():
    given_members = members([1], [3])
    for combine in COMBINERS.values():
        if combine is not first:
            combine(given_members, [1, 1])["p"][:] = 9
    assert [m["p"].tolist() for m in given_members] == [[1], [3]]


def test_a_weighted_mean_counts_members_by_their_weights_whatever_these_sum_up_to():
    for scale in (1, 10):
        assert made(weighted, [0.0], [4.0], weights=[3 * scale, 1 * scale]).tolist() == [1.0]
    assert made(weighted, [0.0], [4.0], weights=[0, 0]).tolist() == [2.0], "none counts, so all do"


def test_the_median_is_not_moved_by_one_member_far_off():
    assert made(median, [0.1, 0.9], [0.2, 0.8], [1e9, -1e9]).tolist() == pytest.approx([0.2, 0.8])
    assert made(median, [1], [2], dtype="int8").tolist() == [2]


def test_the_maximum_is_taken_element_by_element():
    assert made(maximum, [1, 5, -3], [2, 4, -7], dtype="int8").tolist() == [2, 5, -3]


def test_a_vote_goes_to_the_class_of_most_members_not_to_the_largest_sum():
    assert made(vote, [[0.4, 0.6]], [[0.4, 0.6]], [[1, 0]]).tolist() == [[0, 1]]
    assert made(mean, [[0.4, 0.6]], [[0.4, 0.6]], [[1, 0]]).argmax() == 0, "or the test shows nothing"


def test_a_tie_goes_to_the_larger_sum_of_scores_among_those_that_lead():
    merged = made(vote, [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.6, 0.3, 0.1], [0.0, 0.7, 0.3])
    assert merged.tolist() == [0, 1, 0]
    # The third class has the largest sum, and no vote.
    assert made(vote, [0.5, 0.0, 0.49], [0.0, 0.51, 0.49]).tolist() == [0, 1, 0]


def test_a_weighted_vote_may_follow_the_one_that_is_right_more_often():
    values = ([1.0, 0.0], [0.0, 1.0], [0.0, 1.0])
    assert made(vote, *values, weights=[0.6, 0.2, 0.2]).tolist() == [1, 0]
    assert made(vote, *values, weights=[0.4, 0.3, 0.3]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("float32", 0, 1), ("bool", 0, 1)]
)
def test_a_vote_is_written_in_the_ends_of_the_members_dtype(dtype, low, high):
    merged = made(vote, [[0, 1, 0], [1, 0, 0]], [[0, 1, 0], [1, 0, 0]], dtype=dtype)
    assert merged.dtype == np.dtype(dtype)
    assert merged.tolist() == [[low, high, low], [high, low, low]]


def test_an_unknown_combiner_is_a_plan_error_that_lists_those_known():
    with pytest.raises(PlanError, match=r"combine: 'veto' is not known; use one of first, mean, weighted, "):
        combiner("veto")
    assert combiner("mean") is COMBINERS["mean"]


def offer(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    def found(*, group: str) -> Any:
        assert group == "collab.combiners"
        return points

    monkeypatch.setattr(combiners, "entry_points", found)


def smallest(given_members, weights):
    return {"p": np.min([m["p"] for m in given_members], axis=0)}


def test_a_users_function_is_found_by_its_entry_point_and_never_replaces_ours(monkeypatch):
    offer(
        monkeypatch,
        EntryPoint("smallest", "json:loads", "collab.combiners"),
        EntryPoint("mean", "json:loads", "collab.combiners"),
    )
    assert combiner("smallest").__name__ == "loads"
    assert combiner("mean") is mean
    with pytest.raises(PlanError, match="median, smallest, mean"):
        combiner("other")


def test_an_entry_point_that_cannot_be_loaded_is_said_in_one_line(monkeypatch):
    offer(monkeypatch, EntryPoint("gone", "no_such_module_here:f", "collab.combiners"))
    with pytest.raises(PlanError, match="combine: 'gone' cannot be loaded: ModuleNotFoundError"):
        combiner("gone")


# --- merging as a stage -----------------------------------------------------------------

CLASSES = [1, 3]


def plan(
    combine="mean", count=3, reports=("members", "agreement", "confidence"), shape=CLASSES, **more
) -> Plan:
    """Members that each give p, and a combiner; p travels in float32."""
    known = report_specs(count)
    told = [
        {"name": known[name].name, "shape": list(known[name].shape), "dtype": known[name].dtype}
        for name in reports
    ]
    names = [f"m{i}" for i in range(count)]
    tree = {
        "name": "many",
        "models": [{"id": name, "sha256": "0" * 64, "ops": 1} for name in names],
        "inputs": [spec("x")],
        "outputs": [spec("p", shape)],
        "stages": [
            *({**stage(n, "a", [0, 1], ["x"], []), "outputs": [spec("p", shape)], "model": n} for n in names),
            {
                "id": "answer",
                "nodes": ["a"],
                "combine": combine,
                "inputs": [spec("p", shape)],
                "outputs": [spec("p", shape), *told],
                **more,
            },
        ],
        "edges": [
            *(edge("@requester", n, "x") for n in names),
            *(edge(n, "answer", "p") for n in names),
            edge("answer", "@requester", "p", *reports),
        ],
        "nodes": [{"name": "a"}],
    }
    return convert_plan(tree)


def merge(made_plan: Plan) -> Merge:
    return Merge(made_plan, made_plan.stage("answer"))


def test_who_took_part_and_who_agreed_is_told_beside_the_answer():
    given_members = members([[0.8, 0.1, 0.1]], [[0.7, 0.2, 0.1]], [[0.1, 0.6, 0.3]])
    told = merge(plan())([*given_members])
    assert told["p"].tolist() == mean(given_members, [1, 1, 1])["p"].tolist()
    assert (told["members"].dtype.name, told["members"].tolist()) == ("int32", [1, 1, 1])
    assert (told["agreement"].dtype.name, told["agreement"].tolist()) == ("float32", [1, 1, 0])
    assert (told["confidence"].dtype.name, told["confidence"].shape) == ("float32", ())
    assert float(told["confidence"]) == pytest.approx((0.8 + 0.7 + 0.1) / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("combine", ["mean", "weighted", "vote", "max", "median"])
def test_a_member_that_is_not_finite_is_left_out_and_counted(combine, bad):
    good = members([[0.8, 0.1, 0.1]], [[0.7, 0.2, 0.1]])
    broken = {"p": np.array([[bad, 0.5, 0.5]], np.float32)}
    weights = {"weights": [1, 1, 98]} if combine in ("weighted", "vote") else {}
    told = merge(plan(combine, **weights))([*good, broken])
    assert told["p"].tolist() == COMBINERS[combine](good, [1, 1])["p"].tolist()
    assert told["members"].tolist() == [1, 1, -1]
    assert told["agreement"].tolist() == [1, 1, 0]
    assert float(told["confidence"]) == pytest.approx(0.75)


def test_a_member_that_did_not_come_is_told_and_weights_stay_with_their_edges():
    one, three = members([[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    fires = {"rule": "quorum", "k": 2}
    ready = merge(plan("weighted", weights=[1, 50, 3], fires=fires))
    assert ready([one, {}, three])["members"].tolist() == [1, -1, 1], "its guard kept it back"
    told = ready([one, None, three])
    assert told["p"].tolist() == [[0.75, 0.25, 0.0]]
    assert told["members"].tolist() == [1, 0, 1]
    assert told["agreement"].tolist() == [0, 0, 1]
    assert float(told["confidence"]) == pytest.approx(0.75)


def test_fewer_finite_members_than_the_quorum_are_no_answer():
    good, broken = members([[0.0, 1.0, 0.0]], [[np.nan, 0.0, 0.0]])
    ready = merge(plan(fires={"rule": "quorum", "k": 2}))
    with pytest.raises(StageFailed, match=r"1 of 3 members gave finite numbers and 2 are needed; .* 1"):
        ready([good, broken, None])
    with pytest.raises(StageFailed, match=r"0 of 3 .* 1 are needed; look at member 0, 1, 2"):
        merge(plan())([broken, broken, broken])


def test_the_first_hands_on_whatever_came():
    (broken,) = members([[np.nan, 0.0, 0.0]])
    told = merge(plan("first", reports=("members",), fires={"rule": "any"}))([None, broken, None])
    assert np.isnan(told["p"][0, 0])
    assert told["members"].tolist() == [0, 1, 0]


def test_agreement_is_the_share_of_rows():
    rows = members([[0.9, 0.1], [0.9, 0.1]], [[0.8, 0.2], [0.4, 0.6]])
    told = merge(plan(count=2, shape=[2, 2]))(rows)
    assert told["agreement"].tolist() == [1, 0.5]
    assert float(told["confidence"]) == pytest.approx((0.9 + 0.9 + 0.8 + 0.4) / 4)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.array([[0.2, 0.8]], np.float32), [[0.2, 0.8]]),
        (np.array([[0.0, np.log(3)]], np.float32), [[0.25, 0.75]]),
        (np.array([[-128, 127]], np.int8), [[0, 1]]),
        (np.array([[-64, 64]], np.int8), [[0.25, 0.75]]),
        (np.array([[0, 0]], np.uint8), [[0.5, 0.5]]),
        (np.array([[1000.0, 0.0]], np.float32), [[1, 0]]),
    ],
    ids=["probabilities", "logits", "int8", "int8 between", "nothing", "large logits"],
)
def test_scores_are_read_as_probabilities(scores, expected):
    np.testing.assert_allclose(probabilities(scores), expected, atol=1e-6)


def test_a_users_combiner_may_give_reports_of_its_own_and_must_give_the_answer(monkeypatch):
    monkeypatch.setitem(COMBINERS, "smallest", smallest)
    given_members = members([[0.8, 0.1, 0.1]], [[0.7, 0.2, 0.1]], [[0.1, 0.6, 0.3]])
    assert merge(plan("smallest"))(given_members)["p"].tolist() == pytest.approx(
        np.array([[0.1, 0.1, 0.1]], "f4")
    )
    monkeypatch.setitem(COMBINERS, "smallest", lambda m, w: {})
    with pytest.raises(StageFailed, match="combiner 'smallest' gave no tensor 'p'"):
        merge(plan("smallest"))(given_members)


@pytest.mark.parametrize("combine", ["vote", "mean"])
def test_a_single_score_has_no_classes_to_vote_or_agree_on(combine):
    with pytest.raises(PlanError, match="no classes along its last axis"):
        merge(plan(combine, shape=[3, 1]))
    merge(plan("mean", shape=[3, 1], reports=("members",)))
    merge(plan("median", shape=[], reports=()))


def test_an_output_that_nobody_gives_is_a_plan_error():
    made_plan = plan()
    answer = made_plan.stage("answer")
    other = msgspec.structs.replace(answer.outputs[0], name="q")
    with pytest.raises(PlanError, match=r"stages \(answer\).outputs: no member gives 'q'"):
        Merge(made_plan, msgspec.structs.replace(answer, outputs=(*answer.outputs, other)))
    short = msgspec.structs.replace(answer.outputs[1], shape=(2,))
    with pytest.raises(PlanError, match=r"'members' is int32\[2\], the report of 3 members is int32\[3\]"):
        Merge(made_plan, msgspec.structs.replace(answer, outputs=(answer.outputs[0], short)))


# --- quarantine ---------------------------------------------------------------------------

RULE = {"quarantine": {"least": [2, 2, 2], "window": 3}}
A, B = [[0.6, 0.3, 0.1]], [[0.0, 0.0, 1.0]]


def test_a_member_that_disagrees_too_often_is_left_out_reported_and_logged(caplog):
    ready = merge(plan("mean", **RULE))
    honest, told = members(A)[0], []
    for _ in range(4):
        told.append(ready([honest, honest, *members(B)]))
    assert [t["members"].tolist() for t in told] == [[1, 1, 1], [1, 1, -2], [1, 1, -2], [1, 1, -2]]
    assert told[0]["p"].tolist() == mean([honest, honest, *members(B)], [1, 1, 1])["p"].tolist()
    assert told[1]["p"].tolist() == honest["p"].tolist()
    assert told[1]["agreement"].tolist() == [1, 1, 0], "it is still looked at"
    assert float(told[1]["confidence"]) == pytest.approx(0.6)
    assert ready.left_out == {"m0": 0, "m1": 0, "m2": 3}
    said = "many/answer: m2 agrees with the majority in 1 of 3 requests and is left out"
    assert caplog.messages == [said], "it is said once"
    back = [ready([honest, honest, honest])["members"].tolist() for _ in range(2)]
    assert back == [[1, 1, -2], [1, 1, 1]]
    assert caplog.messages[1:] == [
        "many/answer: m2 agrees with the majority in 2 of 3 requests and is taken in again"
    ]


def test_a_member_in_quarantine_counts_for_the_quorum_but_not_in_the_answer():
    ready = merge(plan("mean", **RULE, fires={"rule": "quorum", "k": 2}))
    (honest,), (wrong,) = members(A), members(B)
    for _ in range(2):
        ready([honest, honest, wrong])
    told = ready([honest, None, wrong])
    assert told["members"].tolist() == [1, 0, -2]
    assert told["p"].tolist() == honest["p"].tolist()


def test_where_only_members_in_quarantine_have_numbers_there_is_no_answer():
    ready = merge(plan("mean", **RULE))
    (honest,), (wrong,), (broken,) = members(A), members(B), members([[np.nan, 0, 0]])
    for _ in range(2):
        ready([honest, honest, wrong])
    with pytest.raises(StageFailed, match="only members in quarantine gave finite numbers: m2"):
        ready([broken, broken, wrong])


def test_without_a_quarantine_answers_do_not_depend_on_those_before():
    ready = merge(plan("mean"))
    (honest,), (wrong,) = members(A), members(B)
    answers = [ready([honest, honest, wrong]) for _ in range(60)]
    assert {a["members"].tobytes() for a in answers} == {answers[0]["members"].tobytes()}
    assert {a["p"].tobytes() for a in answers} == {answers[0]["p"].tobytes()}


def test_quarantine_needs_classes():
    with pytest.raises(PlanError, match="no classes along its last axis"):
        merge(plan("mean", shape=[3, 1], reports=("members",), **RULE))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quarantine": {"least": [1, 1]}}, "2 for 3 in-edges"),
        ({"quarantine": {"least": [1, 1, 51]}}, r"least\[2\]: 51; give 0 to 50"),
        ({"quarantine": {"least": [1, 1, 1], "window": 1001}}, "window: 1001; give 1 to 1000"),
        ({"quarantine": {"least": [1, 1, 1], "window": 0}}, "window: 0; give 1 to 1000"),
        ({**RULE, "fires": {"rule": "any"}}, "fires with 1 of 3 members, of which 1 may be in quarantine"),
        ({**RULE, "fires": {"rule": "quorum", "k": 1}}, "let it wait for 2"),
        ({**RULE, "combine": "first"}, "only a combiner that merges"),
        ({"quarantine": {"least": [1, 1]}, "count": 2}, "2 members; agreement tells who is wrong among 3"),
    ],
)
def test_a_quarantine_that_cannot_work_is_a_plan_error(change, words):
    with pytest.raises(PlanError, match=words):
        plan(**change)
