"""What tests of the emulation share."""

from __future__ import annotations

from multiprocessing import resource_tracker

import pytest


@pytest.fixture(scope="session")
def tracker():
    """The process by which Python cleans up after its process pools; it lives as long as this one."""
    resource_tracker.ensure_running()
