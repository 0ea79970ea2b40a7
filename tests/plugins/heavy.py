"""Heavy suites: tests marked ``heavy(suite)`` run only when ``--heavy`` names their suite."""

from __future__ import annotations

import pytest

ALL = "all"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--heavy",
        default="",
        metavar="SUITE,…",
        help="run the tests of these heavy suites too; 'all' runs every one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {name for name in config.getoption("--heavy").split(",") if name}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if _is_wanted(item, wanted) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _is_wanted(item: pytest.Item, wanted: set[str]) -> bool:
    for mark in item.iter_markers("heavy"):
        if len(mark.args) != 1:
            raise pytest.UsageError(f"{item.nodeid}: the heavy marker names one suite")
        if not wanted & {ALL, mark.args[0]}:
            return False
    return True
