"""What all tests share: plug-ins that catch leaks and blocking calls, and heavy suites on demand."""

from __future__ import annotations

pytest_plugins = [
    "pytester",
    "tests.plugins.blocking",
    "tests.plugins.chaos",
    "tests.plugins.heavy",
    "tests.plugins.leaks",
]
