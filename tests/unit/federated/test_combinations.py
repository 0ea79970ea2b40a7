"""What combines with what: refused by the names of both fields, and the docs' table says the same."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from collab.errors import ConfigError
from collab.federated.aggregate.settings import Aggregation
from collab.federated.combinations import REFUSED, Feature, check_combination, features
from collab.federated.compression.settings import Compression
from collab.federated.gate import GateSettings

PAGE = Path(__file__).parents[3] / "docs/federated/aggregation.md"


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: " × ".join(sorted(f.name for f in pair)))
def test_a_refused_pair_ends_with_exit_code_2_and_names_both_fields(pair):
    with pytest.raises(ConfigError) as caught:
        check_combination(pair)
    assert caught.value.exit_code == 2
    assert all(feature.value in str(caught.value) for feature in pair)


def test_pairs_that_are_not_refused_pass():
    for pair in combinations(Feature, 2):
        if frozenset(pair) not in REFUSED:
            check_combination(pair)


def test_features_are_read_from_the_parts_of_a_task():
    nothing = features(Aggregation(), GateSettings(), Compression(), Compression())
    assert nothing == {Feature.BY_SAMPLES}
    everything = features(
        Aggregation(rule="scaffold", combine="krum", clip_norm=1.0),
        GateSettings(relative_norm=3.0),
        Compression(elements="int8", top=0.1),
        Compression(top=0.5),
        [Feature.SECURE],
    )
    assert everything == {
        *(Feature.ROBUST, Feature.SCAFFOLD, Feature.SERVER_CLIP, Feature.GATE_NORM),
        *(Feature.LOSSY_UP, Feature.TOP, Feature.LOSSY_DOWN, Feature.SECURE),
    }


def test_the_table_in_the_docs_is_the_one_in_the_code():
    section = PAGE.read_text("utf-8").partition("## What combines with what")[2]
    rows = re.findall(r"^\| (\d+) \| `(.+?)` \|((?: [·✗]? ?\|)+)$", section, re.MULTILINE)
    assert [(int(number), field) for number, field, _ in rows] == [
        (number, feature.value) for number, feature in enumerate(Feature, 1)
    ]
    order = list(Feature)
    for number, _, cells in rows:
        marks = [cell.strip() for cell in cells.split("|")[:-1]]
        for column, mark in enumerate(marks):
            refused = frozenset((order[int(number) - 1], order[column])) in REFUSED
            expected = "" if column >= int(number) - 1 else "✗" if refused else "·"
            assert mark == expected, (number, column + 1)
    reasons = dict(re.findall(r"^\| (\d+ × \d+) \| (.+?) \|$", section, re.MULTILINE))
    assert reasons == {
        f"{first} × {second}": REFUSED[frozenset((order[first - 1], order[second - 1]))]
        for first, second in combinations(range(1, len(order) + 1), 2)
        if frozenset((order[first - 1], order[second - 1])) in REFUSED
    }
