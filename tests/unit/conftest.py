"""Hypothesis on a busy machine: slow examples are no failures, and a failing one is printed whole."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "collab", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("collab")
