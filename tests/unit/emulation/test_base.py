"""The interface of link models, and random sources."""

from __future__ import annotations

import pytest

from collab.emulation.base import LinkModel, stream
from collab.emulation.build import build_link
from collab.emulation.profiles import PROFILES


def test_both_directions_of_a_link_are_link_models():
    link = build_link(PROFILES["lte"], 1)
    models: list[LinkModel] = [link.up, link.down]
    assert all(model.offer(0.0, 64).times_us for model in models)


def test_sources_differ_by_every_name_and_are_the_same_in_every_process():
    names = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a")]
    assert len({stream(1, *name).random() for name in names} | {stream(2, "ab").random()}) == 5
    assert stream(1, "link", "up", "loss").random() == pytest.approx(0.12048371636613608)
