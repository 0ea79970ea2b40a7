"""Hypothesis on a busy machine: slow examples are no failures, and a failing one is printed whole; plots."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "collab", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("collab")


@pytest.fixture(scope="session")
def drawing():
    """Matplotlib, whose fonts stay open once they were used."""
    pytest.importorskip("matplotlib")
    from collab.emulation.plots import latency_cdf

    latency_cdf({})
