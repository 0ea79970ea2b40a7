"""Tests of real processes and of times run once more when they fail, and the report says so.

What they see depends on what else the machine does.  A second failure counts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDERS = tuple(Path(__file__).parents[1] / name for name in ("chaos", "contract", "integration"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timed") or any(folder in item.path.parents for folder in FOLDERS):
            item.add_marker(pytest.mark.flaky(reruns=1))
