"""How long the chaos suite injects faults, and which: ``--chaos-seconds``, ``--chaos-seed``."""

from __future__ import annotations

import os

import pytest

SECONDS = 90.0
SEED = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-seed",
        type=int,
        default=int(os.environ.get("CHAOS_SEED", SEED)),
        metavar="N",
        help="the schedule of faults; also CHAOS_SEED",
    )
    parser.addoption(
        "--chaos-seconds",
        type=float,
        default=float(os.environ.get("CHAOS_SECONDS", SECONDS)),
        metavar="S",
        help="for how long faults are injected, over all transports; also CHAOS_SECONDS",
    )
