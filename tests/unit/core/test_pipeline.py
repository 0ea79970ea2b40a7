"""A pipeline's file: what it may say, and what is wrong with it."""

from __future__ import annotations

import pytest

from collab.core.pipeline import convert_pipeline, pick, reference
from collab.errors import PlanError

SOFTMAX = {"kind": "softmax"}


def tree(*steps, outputs=("s",), **more):
    given = steps or ({"id": "s", "of": "input.x", "transform": SOFTMAX},)
    return {"steps": list(given), "outputs": list(outputs), **more}


def test_references_split_at_the_first_dot():
    assert reference("detect.a.b") == ("detect", "a.b")
    assert reference("detect") == ("detect", None)


def test_a_reference_means_a_tensor_by_name_by_number_or_the_only_one():
    made = {"input": ("x",), "d": ("boxes", "scores:0")}
    assert pick("input.x", made, "here") == "x"
    assert pick("input", made, "here") == "x"
    assert pick("d.scores:0", made, "here") == "d.scores:0"
    assert pick("d.1", made, "here") == "d.scores:0"
    with pytest.raises(PlanError, match=r"here: 'd' makes boxes, scores:0; say which, as d\.boxes"):
        pick("d", made, "here")
    with pytest.raises(PlanError, match="'d' has no 'size'; it has boxes, scores:0"):
        pick("d.size", made, "here")


def test_a_step_reads_one_tensor_several_or_those_of_a_model_by_name():
    pipeline = convert_pipeline(
        tree(
            {"id": "a", "of": ["input.x", "input.y"], "transform": {"kind": "concat"}},
            {"id": "m", "of": {"left": "a", "right": "input.x"}, "model": "m.tflite", "each": "input.n"},
            outputs=["m"],
        )
    )
    assert pipeline.steps[0].references == ("input.x", "input.y")
    assert pipeline.steps[1].references == ("a", "input.x", "input.n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outputs": ["s"]}, "missing required field `steps`"),
        (tree(extra=1), "extra"),
        (tree(outputs=()), "outputs: empty"),
        (tree({"id": "s", "of": "input.x"}), "give a model or a transform"),
        (
            tree({"id": "s", "of": "input.x", "transform": SOFTMAX, "model": "m"}),
            "give a model or a transform",
        ),
        (tree({"id": "s", "of": [], "transform": SOFTMAX}), "of: empty"),
        (tree({"id": "s", "of": "t", "transform": SOFTMAX}), "'t' is of no step before it; there are input"),
        (tree({"id": "input", "of": "input.x", "transform": SOFTMAX}), "is taken"),
        (tree({"id": "answer", "of": "input.x", "transform": SOFTMAX}), "is taken"),
        (tree({"id": "a b", "of": "input.x", "transform": SOFTMAX}), "steps"),
        (tree({"id": "s", "of": "input.x", "transform": SOFTMAX, "each": True}), "each: only models"),
        (tree({"id": "s", "of": "input.x", "transform": SOFTMAX, "at": [3]}), "at: only models"),
        (tree({"id": "s", "of": {"x": "input.x"}, "transform": SOFTMAX}), "in order"),
        (tree({"id": "s", "of": "input.x", "model": "m", "threads": 0}), "threads: 0"),
        (tree(outputs=("t",)), r"outputs\[0\]: 't' is of no step"),
        (tree(outputs=("input.x",)), "is of no step"),
        (tree(name="a/b"), "name"),
        (
            tree(
                {"id": "u", "of": "input.x", "transform": SOFTMAX},
                {"id": "s", "of": "input.x", "transform": SOFTMAX},
            ),
            r"steps \(u\): nothing of it reaches an output",
        ),
        (
            tree(
                *({"id": f"s{i}", "of": "input.x", "transform": SOFTMAX} for i in range(65)), outputs=["s0"]
            ),
            "steps: 65",
        ),
        ("text", "pipeline"),
        (tree({"id": "s", "of": "input.x", "model": "\ud800"}), "not valid Unicode"),
    ],
)
def test_a_file_that_is_wrong_says_where(given, message):
    with pytest.raises(PlanError, match=message):
        convert_pipeline(given)
