"""What the index has of the device lock, without fetching a wheel: pytest --heavy=deployments."""

from __future__ import annotations

import pytest

from scripts.wheelhouse import LOCK, PYTHONS, lacking, pins_for
from tests.deployments.machine import ROOT

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("python", [PYTHONS[0], PYTHONS[-1]])
def test_a_raspberry_pi_finds_a_wheel_of_the_lock_for_every_pin(python, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lacking(pins_for(LOCK.read_text("utf-8"), "aarch64", python), "aarch64", python) == []
