"""The units and the install script in a booted Debian: pytest --heavy=deployments."""

from __future__ import annotations

import pytest

from tests.deployments.machine import boot_and_try, copy_of_base

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(1500)]


def test_the_services_start_with_all_restrictions_answer_exactly_and_survive_an_upgrade(tmp_path, wheelhouse):
    machine = copy_of_base(tmp_path / "machine")
    outcome = boot_and_try(machine, "trial_systemd.sh", tmp_path / "out", {wheelhouse: "/wheelhouse"})
    assert outcome.code == 0, outcome.log[-6000:]
    assert "trial: passed" in outcome.log
    assert "Seccomp:\t2" in outcome.log
    assert "CapEff:\t0000000000000000" in outcome.log
