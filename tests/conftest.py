"""What all tests share: plug-ins for leaks, blocking calls, heavy suites on demand and second tries."""

from __future__ import annotations

pytest_plugins = [
    "pytester",
    "tests.plugins.again",
    "tests.plugins.blocking",
    "tests.plugins.chaos",
    "tests.plugins.heavy",
    "tests.plugins.leaks",
]
