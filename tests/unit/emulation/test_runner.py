"""What a run of the emulator refuses, and what it says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from collab.assets import path as asset
from collab.emulation import runner
from collab.emulation.counters import EmulatorCounts
from collab.emulation.report import report
from collab.emulation.runner import Emulation, Material, check_emulated, lateness
from collab.emulation.summary import summarise
from collab.errors import BackendError, ConfigError, ModelError
from collab.graph import read_model
from collab.transport.aio import TaskGroup
from tests.unit.emulation.scenarios import PROFILE, scenario


@pytest.fixture(scope="module")
def material():
    model = asset("digits.tflite")
    return Material(model, read_model(model), Path())


def test_what_cannot_be_emulated_is_refused(material):
    check_emulated(scenario(nat=["a", "me"]), material)
    with pytest.raises(ConfigError, match=r"nat: every host is behind one; leave one out"):
        check_emulated(scenario(nat=["a", "me", "b"]), material)
    with pytest.raises(ConfigError, match=r"hosts: .*'nobody'|workload.requesters: there is no host"):
        check_emulated(
            scenario(workload={"kind": "closed", "requests": 3, "requesters": ["nobody"]}), material
        )


def test_a_profile_has_to_be_of_the_model(material):
    other = Material(material.model, material.graph, Path(), PROFILE)
    with pytest.raises(ConfigError, match=r"profile: it is of model .*; measure it with: collab profile"):
        check_emulated(scenario(), other)
    same = replace(PROFILE, model_sha256=material.graph.sha256)
    check_emulated(scenario(), Material(material.model, material.graph, Path(), same))
    with pytest.raises(ConfigError, match=r"hosts\.me\.device: the profile has no device 'me'"):
        check_emulated(
            scenario(hosts={"me": {}, "a": {}, "b": {}}),
            Material(material.model, material.graph, Path(), same),
        )


async def test_a_machine_that_cannot_emulate_says_so_before_anything_starts(material, monkeypatch):
    monkeypatch.setattr(runner, "machine_lacks", lambda: "no tun; `collab simulate` needs none")
    with pytest.raises(BackendError, match="collab simulate"):
        await Emulation(scenario(), material).run(asyncio.Event())


def test_an_interrupted_run_is_marked_and_can_be_read(material, monkeypatch, drawing):
    begun = asyncio.Event()

    async def work(self):
        begun.set()
        await asyncio.Event().wait()

    async def interrupted():
        stop = asyncio.Event()
        run = asyncio.ensure_future(Emulation(scenario(), material).run(stop))
        await begun.wait()
        stop.set()
        return await run

    monkeypatch.setattr(runner, "machine_lacks", lambda: None)
    monkeypatch.setattr(Emulation, "_work", work)
    results = asyncio.run(interrupted())
    assert results.partial
    assert results.kind == "emulated"
    assert "Stopped before its end" in report(results)
    assert summarise(results)["partial"] is True


async def test_the_first_error_of_several_processes_is_the_one_that_is_raised(material, monkeypatch):
    async def work(self):
        async with TaskGroup() as group:
            group.create_task(self._fail())

    async def fail(self):
        raise ModelError("models[0]: gone")

    monkeypatch.setattr(runner, "machine_lacks", lambda: None)
    monkeypatch.setattr(Emulation, "_work", work)
    monkeypatch.setattr(Emulation, "_fail", fail, raising=False)
    with pytest.raises(ModelError, match="gone"):
        await Emulation(scenario(), material).run(asyncio.Event())


def test_the_worst_run_says_how_late_the_emulator_was():
    assert lateness([]) == ""
    good = EmulatorCounts(directions={}, late_p50_us=20, late_p99_us=90, elapsed_s=2, busy_s=0.5)
    bad = EmulatorCounts(directions={}, late_p50_us=10, late_p99_us=700, late_longest_us=900, elapsed_s=2)
    assert lateness([good, bad]) == (
        "Packets left the emulator 20 µs late in the median, 700 µs in 99 of 100 and 900 µs at most; "
        "it used 25% of a core."
    )
