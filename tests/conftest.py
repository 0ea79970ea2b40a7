"""What all tests share: plug-ins that catch leaks and blocking calls, heavy suites on demand, second tries."""

from __future__ import annotations

pytest_plugins = [
    "pytester",
    "tests.plugins.again",
    "tests.plugins.blocking",
    "tests.plugins.chaos",
    "tests.plugins.heavy",
    "tests.plugins.leaks",
]
