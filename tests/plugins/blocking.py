"""Fail an async test in which this package blocks the event loop.

Blockbuster raises ``BlockingError`` in calls such as ``time.sleep``, file and
blocking socket I/O, or waiting for a lock, when they happen inside a running loop
and below code of the modules that ``blocking_modules`` lists.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from blockbuster import BlockBuster
from pytest_asyncio import is_async_test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "blocking_modules", "modules that may not block the event loop", type="args", default=["collab"]
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Guard(BlockBuster(config.getini("blocking_modules"))), "collab-blocking")


class Guard:
    """Keeps blockbuster active during async tests and their fixtures."""

    def __init__(self, blockbuster: BlockBuster) -> None:
        self._blockbuster = blockbuster

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if not is_async_test(item):
            return (yield)
        self._blockbuster.activate()
        try:
            return (yield)
        finally:
            self._blockbuster.deactivate()
