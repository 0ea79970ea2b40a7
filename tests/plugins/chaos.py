"""How long the chaos suite injects faults, which, and over what: ``--chaos-seconds`` and its like."""

from __future__ import annotations

import os

import pytest

SECONDS = 60.0
SEED = 1
TRANSPORTS = "grpc,coaps+tcp"


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
    parser.addoption(
        "--chaos-transports",
        default=os.environ.get("CHAOS_TRANSPORTS", TRANSPORTS),
        metavar="SCHEME,…",
        help="of grpc, coaps+tcp and mqtts, which share the time; also CHAOS_TRANSPORTS",
    )
