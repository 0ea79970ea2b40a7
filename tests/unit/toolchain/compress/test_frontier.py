import math

import numpy as np
import pytest

from collab.toolchain.compress.frontier import Measured, Paired, Targets, front, paired
from collab.toolchain.compress.recipe import parse
from collab.toolchain.compress.run import best_of


def measured(recipe="r", accuracy=0.9, points=0.0, zstd=1000, ms=1.0):
    return Measured(
        recipe, accuracy, Paired(points, points - 0.1, points + 0.1), 2 * zstd, zstd, ms, 1.0, 10, 10
    )


def test_a_paired_difference_counts_only_where_answers_differ():
    baseline = np.array([True] * 90 + [False] * 10)
    variant = baseline.copy()
    variant[:3] = False
    variant[95] = True
    found = paired(variant, baseline)
    # 3 lost and 1 won of 100: mean -0.02, variance 0.04 - 0.0004.
    half = 100 * 1.959964 * math.sqrt(0.0396 / 100)
    assert found.points == pytest.approx(-2)
    assert (found.low, found.high) == pytest.approx((-2 - half, -2 + half))


def test_the_same_answers_differ_by_nothing_at_all():
    right = np.array([True, False, True])
    assert paired(right, right) == Paired(0.0, 0.0, 0.0)


def test_the_front_leaves_out_what_another_beats_in_everything():
    small, quick, good = (
        measured("small", 0.8, zstd=100, ms=2),
        measured("quick", 0.8, ms=0.5),
        measured("good"),
    )
    beaten = measured("beaten", 0.79, zstd=1000, ms=1.5)
    assert [each.recipe for each in front([beaten, good, quick, small])] == ["small", "good", "quick"]


def test_equal_variants_are_both_on_the_front():
    assert len(front([measured("a"), measured("b")])) == 2


def test_without_a_bound_the_smallest_of_the_accurate_ones_is_best():
    variants = [
        measured("large"),
        measured("small", zstd=200, points=-0.5),
        measured("bad", zstd=10, points=-9),
    ]
    assert best_of(variants, Targets()).recipe == "small"


def test_within_a_bound_the_most_accurate_is_best():
    variants = [measured("a", 0.90, zstd=90), measured("b", 0.91, zstd=99), measured("c", 0.95, zstd=101)]
    assert best_of(variants, Targets(size_bytes=100)).recipe == "b"


def test_where_none_keeps_to_the_targets_the_least_off_is_best():
    variants = [measured("far", 0.99, zstd=1000), measured("near", 0.7, zstd=110, points=-0.5)]
    targets = Targets(size_bytes=100)
    assert best_of(variants, targets).recipe == "near"
    assert targets.excess(measured(zstd=110)) == pytest.approx(0.1)


def test_a_slow_variant_is_off_by_the_ratio_of_times():
    assert Targets(latency_ms=2.0).excess(measured(ms=3.0)) == pytest.approx(0.5)
    assert parse("baseline").steps == ()
