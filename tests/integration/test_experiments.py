"""What experiments measure with processes of their own: how long links take to come about."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from collab.assets import path as asset
from collab.emulation.ability import machine_lacks
from collab.emulation.results import Results
from collab.emulation.runner import Material
from collab.emulation.scenario import convert_scenario
from collab.graph import read_model
from simulations.dialling import time_dialling
from simulations.experiment import changed, scenario

LACKS = machine_lacks()
pytestmark = [
    pytest.mark.skipif(LACKS is not None, reason=f"this machine cannot emulate: {LACKS}"),
    pytest.mark.timed,
]


def test_a_link_with_certificates_takes_round_trips_and_a_call_one_more(tmp_path):
    tree, _ = scenario("tls")
    made = changed(tree, workload={"requests": 2, "warmup": 0})
    model = asset("digits.tflite")
    material = Material(model, read_model(model), tmp_path)

    async def dialled() -> Results:
        return await time_dialling(convert_scenario(made), material, asyncio.Event())

    results = asyncio.run(dialled())
    assert not results.partial
    links, calls = (statistics.median(a.latency_ms for a in results.of(p)) for p in ("link", "first call"))
    # TCP, TLS and the greeting, over 25 ms each way, of which nothing can be left out.
    assert links > 150
    assert calls > links + 50
