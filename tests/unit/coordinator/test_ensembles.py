"""What a validation file says: weights that help, thresholds that keep what was asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.coordinator.ensembles import (
    calibrate,
    combined,
    drop_bound,
    examples,
    hits_of,
    scores_of,
    standing,
    weigh,
    wilson,
)
from collab.core.tensor import TensorSpec
from collab.errors import InputError, PlanError, TensorError
from collab.graph import Graph, read_model
from collab.planner.ensemble import Doubt
from collab.runtime.guards import passes
from tests.tflite_builder import ModelBuilder

COUNT, CLASSES = 4000, 4
X = TensorSpec("x", (1, 2), "float32")


def voters(*rates: float, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Members that are right at these rates, independently, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=COUNT)
    scores = []
    for rate in rates:
        wrong = (labels + random.integers(1, CLASSES, size=COUNT)) % CLASSES
        picks = np.where(random.random(COUNT) < rate, labels, wrong)
        scores.append((np.eye(CLASSES)[picks] * 0.8 + 0.05).astype(np.float32)[:, None])
    return scores, labels


# --- reading ----------------------------------------------------------------------------


def test_a_validation_file_is_inputs_and_a_label_for_each():
    found = examples(
        [X], {"x": np.zeros((3, 1, 2), np.float32), "labels": np.array([2, 0, 1], np.uint8)}, "v"
    )
    assert len(found) == 3
    assert found.labels.tolist() == [2, 0, 1]
    assert found.requests[0]["x"].shape == (1, 2)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": np.zeros((3, 1, 2), np.float32)}, InputError, "v: no array 'labels'"),
        ({"x": np.zeros((3, 1, 2), np.float32), "labels": np.zeros(2, int)}, InputError, "2 labels for 3 in"),
        ({"x": np.zeros((3, 1, 2), np.float32), "labels": np.zeros(3)}, InputError, "give whole numbers"),
        ({"x": np.zeros((3, 1, 2), np.float32), "labels": np.zeros((3, 4), int)}, InputError, "one for each"),
        ({"x": np.zeros((0, 1, 2), np.float32), "labels": np.zeros(0, int)}, InputError, "one for each"),
        ({"x": np.zeros((3, 1, 2)), "labels": np.zeros(3, int)}, TensorError, "float64, expected float32"),
        ({"z": np.zeros((3, 1, 2)), "labels": np.zeros(3, int)}, TensorError, "no such tensor"),
    ],
)
def test_a_validation_file_that_cannot_be_used_says_why(arrays, error, message):
    with pytest.raises(error, match=message):
        examples([X], arrays, "v")


def linear(weights: np.ndarray, x: str = "x", y: str = "y") -> Graph:
    model = ModelBuilder()
    main = model.main
    made = main.dense(main.input(x, [1, weights.shape[1]]), weights.astype(np.float32))
    main.table.tensors[made].name = y.encode()
    main.output(made)
    return read_bytes(model.build())


def read_bytes(data: bytes) -> Graph:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(data)
        file.flush()
        return read_model(file.name)


def test_models_answer_the_examples_whatever_they_call_their_tensors():
    inputs = np.random.default_rng(1).normal(size=(5, 1, 2)).astype(np.float32)
    weights = np.array([[1, 0], [0, 1], [1, 1]])
    like = linear(weights)
    given_ = examples(like.inputs, {"x": inputs, "labels": np.zeros(5, int)}, "v")
    for graph in (like, linear(weights, "serving_default", "Identity")):
        made = scores_of("m", graph, like, given_)
        np.testing.assert_allclose(made, inputs @ weights.T, rtol=1e-5)
    with pytest.raises(PlanError, match=r"m2: output 'y' is float32\[1, 2\]"):
        scores_of("m2", linear(weights[:2]), like, given_)
    given_ = examples(like.inputs, {"x": inputs, "labels": np.full(5, 3)}, "v")
    with pytest.raises(InputError, match="from 3 to 3, the model has classes 0 to 2"):
        scores_of("m", like, like, given_)


# --- weights ----------------------------------------------------------------------------


def test_log_odds_weigh_a_member_by_how_often_it_is_right():
    scores, labels = voters(0.9, 0.7, 0.2)
    weights = weigh(scores, labels, "log-odds")
    rates = [standing(one, labels).accuracy for one in scores]
    odds = [math.log(3 * r / (1 - r)) for r in rates[:2]]
    assert sum(weights) == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(odds[0] / odds[1], rel=0.01)
    assert weights[2] == 0, "it is worse than chance"


@pytest.mark.parametrize("how", ["log-odds", "stacked"])
def test_a_member_that_is_always_right_has_a_finite_weight_and_the_largest(how):
    scores, labels = voters(1.0, 0.6)
    weights = weigh(scores, labels, how)
    assert all(math.isfinite(weight) for weight in weights)
    assert weights[0] > weights[1] >= 0


def test_members_that_are_no_use_count_the_same():
    scores, labels = voters(0.0, 0.0)
    assert weigh(scores, labels, "log-odds") == (0.5, 0.5)


def test_stacked_weights_make_the_labels_likeliest():
    scores, labels = voters(0.85, 0.75, 0.5)

    def likelihood(weights) -> float:
        pool = sum(w * s[:, 0] for w, s in zip(weights, scores, strict=True))
        return float(np.log(pool[np.arange(COUNT), labels]).mean())

    best = weigh(scores, labels, "stacked")
    assert sum(best) == pytest.approx(1)
    for other in ((1 / 3,) * 3, (1, 0, 0), weigh(scores, labels, "log-odds"), (0.5, 0.3, 0.2), (0.7, 0.3, 0)):
        assert likelihood(best) >= likelihood(other) - 1e-9


def test_a_weighted_vote_of_independent_members_beats_the_best_of_them():
    scores, labels = voters(0.8, 0.78, 0.76, 0.5)
    weights = weigh(scores, labels, "log-odds")
    alone = max(standing(one, labels).accuracy for one in scores)
    assert standing(combined(scores, "vote", weights), labels).accuracy > alone + 0.03


def test_a_member_that_is_not_finite_is_never_right_and_is_left_out():
    scores, labels = voters(0.9, 0.9)
    scores[1][:100] = np.nan
    assert not hits_of(scores[1], labels)[:100].any()
    merged = combined(scores, "mean", ())
    np.testing.assert_array_equal(merged[:100], scores[0][:100])
    for how in ("log-odds", "stacked"):
        weights = weigh(scores, labels, how)
        assert weights[0] > weights[1] > 0
    scores[0][0] = np.inf
    assert np.isnan(combined(scores, "mean", ())[0]).all()


# --- intervals and cascades -------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(hits, count, low, high):
    assert wilson(hits, count, 1.959964) == pytest.approx((low, high), abs=5e-5)


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    whole = np.repeat([True, True, False, False], [both, lost, won, neither])
    cascade = np.repeat([True, False, True, False], [both, lost, won, neither])
    return whole, cascade


def test_the_bound_of_a_drop_is_the_published_interval_of_paired_shares():
    # Newcombe 1998, Statistics in Medicine 17, 2635-2650: 0.0569 to 0.3404 at 95 % for these.
    assert drop_bound(*pairs(36, 12, 2, 0), 0.975) == pytest.approx(0.3404, abs=5e-5)


@given(st.integers(50, 400), st.integers(0, 20), st.integers(0, 20), st.integers(0, 30))
def test_the_bound_is_above_the_drop_and_grows_with_the_confidence(both, lost, won, neither):
    whole, cascade = pairs(both, lost, won, neither)
    bounds = [drop_bound(whole, cascade, confidence) for confidence in (0.6, 0.9, 0.99)]
    assert (lost - won) / len(whole) < bounds[0] < bounds[1] < bounds[2]


def two_models(seed: int, count: int = COUNT) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A small model that knows when it is unsure, a large one, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    sure = random.uniform(0.3, 1.0, size=count)
    rivals = (labels + random.integers(1, CLASSES, size=count)) % CLASSES
    small = np.full((count, 1, CLASSES), 0.0, np.float32)
    picks = np.where(random.random(count) < sure, labels, rivals)
    small[np.arange(count), 0, picks] = sure
    small += ((1 - small.sum(axis=-1, keepdims=True)) / CLASSES).astype(np.float32)
    large = np.where((random.random(count) < 0.95)[:, None], np.eye(CLASSES)[labels], np.eye(CLASSES)[rivals])
    return small, large[:, None].astype(np.float32), labels


def test_the_accuracy_asked_for_is_kept_on_examples_not_seen_as_often_as_said():
    small, large, labels = two_models(999, 50_000)
    sureness, right, whole = small.max(axis=(1, 2)), hits_of(small, labels), hits_of(large, labels)

    def broken(confidence: float) -> int:
        """Of 40 calibrations, how many lose more than was allowed."""
        count = 0
        for seed in range(40):
            found = calibrate(*two_models(seed, 500), "max", 0.05, confidence)
            assert found.drop_bound <= 0.05
            kept = sureness >= found.doubt.threshold
            assert 0.2 < 1 - kept.mean() < 0.95
            count += whole.mean() - np.where(kept, right, whole).mean() > 0.05
        return count

    assert whole.mean() - right.mean() > 0.1, "or there is nothing to keep"
    assert broken(0.9) <= 4
    assert broken(0.5) > 4, "or the confidence does nothing"


@pytest.mark.parametrize("kind", ["max", "margin", "entropy"])
def test_the_guards_escalate_as_many_examples_as_the_calibration_says(kind):
    small, large, labels = two_models(3, 700)
    small[5] = np.nan
    found = calibrate(small, large, labels, kind, 0.03)
    unsure, sure = found.doubt.guards("p")
    assert sum(passes(unsure, answer) for answer in small) == found.escalated
    assert sum(passes(sure, answer) for answer in small) == 700 - found.escalated
    assert passes(unsure, small[5])


def test_the_search_ends_at_the_first_threshold_that_may_lose_too_much():
    # From sure to unsure: both right, then the small one wrong, then only the small one right, then unsure.
    counts = (2000, 200, 600, 1200)
    small_right = np.repeat([True, False, True, True], counts)
    large_right = np.repeat([True, True, False, True], counts)
    labels, sureness = np.zeros(COUNT, np.int64), np.linspace(1.0, 0.6, COUNT)

    def answers(right: np.ndarray) -> np.ndarray:
        picked = np.where(right, 0, 1)
        made = np.repeat((1 - sureness)[:, None] / 3, CLASSES, axis=1)
        made[np.arange(COUNT), picked] = sureness
        return made.astype(np.float32)[:, None]

    small, large = answers(small_right), answers(large_right)
    assert drop_bound(large_right, small_right, 0.9) < 0, "or going on would not tempt"
    found = calibrate(small, large, labels, "max", 0.01)
    assert 1800 <= found.escalated <= 2000


def test_more_is_left_to_the_small_model_where_more_may_be_lost():
    small, large, labels = two_models(0)
    shares = [calibrate(small, large, labels, "max", drop).escalation_share for drop in (0.01, 0.03, 0.1)]
    assert shares[0] > shares[1] > shares[2]


def test_a_small_model_as_good_as_the_large_one_answers_all():
    _, large, labels = two_models(0)
    found = calibrate(large, large, labels, "max", 0.01)
    assert (found.escalated, found.cascade) == (0, found.large)


def test_too_few_examples_to_show_anything_say_what_helps():
    small, large, labels = two_models(0, 60)
    with pytest.raises(
        InputError, match=r"60 examples cannot show .* give more examples, a larger --accuracy"
    ):
        calibrate(small, large, labels, "max", 0.005)


def test_a_calibration_is_told_as_json():
    small, large, labels = two_models(0)
    found = calibrate(small, large, labels, "max", 0.02)
    told = found.to_json()
    assert found.doubt == Doubt("max", told["threshold"])
    low, high = told["escalation"]["interval"]
    assert low < told["escalation"]["share"] < high
    assert told["drop"] <= told["drop_bound"] <= 0.02
    assert told["examples"] == COUNT
