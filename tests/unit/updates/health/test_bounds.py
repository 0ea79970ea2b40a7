"""Bounds as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from collab.errors import ConfigError
from collab.updates.health.bounds import read_bounds
from collab.updates.health.gate import Bounds
from collab.updates.health.sequential import Rates


def test_what_is_not_written_is_as_by_default():
    assert read_bounds({}, "bounds") == Bounds()
    read = read_bounds({"touched": 0.05, "disagreement": {"fine": 0.1, "worse": 0.3}}, "bounds")
    assert (read.touched, read.disagreement, read.copies) == (0.05, Rates(fine=0.1, worse=0.3), 0.2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"touch": 0.1}, "touch"),
        ({"touched": "much"}, "touched"),
        ({"touched": 1.5}, "touched: 1.5"),
        ({"copies": float("nan")}, "copies: nan"),
        ({"probation": 0}, "probation: 0"),
        ({"shadow_s": -1}, "shadow_s: -1"),
        ({"disagreement": {"fine": 0.1}}, "disagreement"),
        ({"disagreement": {"fine": 0.3, "worse": 0.1}}, "disagreement: fine 0.3"),
        ({"slowness": {"fine": 0.1, "worse": 0.3, "error": 0.7}}, "error: 0.7"),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        read_bounds(fields, "bounds")
