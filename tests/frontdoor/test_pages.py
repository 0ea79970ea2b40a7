"""Commands of pages, typed into a terminal from the top of a page to its bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.scenarios import ALONE, TOUR, TOUR_PREPARE, play, prepare
from tests.docs.terminal import Terminal

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("page", ALONE)
def test_a_page_does_what_it_says(page: str, tmp_path: Path):
    with Terminal(tmp_path / "folder") as terminal:
        play(page, ALONE[page], terminal)


def test_commands_of_reference_pages_run_beside_nodes_that_serve(tmp_path: Path):
    with Terminal(tmp_path / "folder") as terminal:
        prepare(terminal, TOUR_PREPARE)
        for page, scenario in TOUR.items():
            play(page, scenario, terminal)
