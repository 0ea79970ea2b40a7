"""The Debian package, built and tried in a booted Debian: pytest --heavy=deployments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.deployments.machine import ROOT, boot_and_try, copy_of_base, needs

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(1500)]

KNOWN = (
    "no-manual-page",  # `collab COMMAND --help` is the manual
    "initial-upload-closes-no-bugs",
    "maintainer-script-calls-systemctl",  # as debhelper's own scripts do, guarded in the same way
)
"""Tags of lintian that are as they are meant to be."""


def build(wheelhouse: Path, to: Path, revision: int) -> Path:
    done = subprocess.run(
        [ROOT / "deployments" / "deb" / "build.sh", wheelhouse, to],
        env={**os.environ, "REVISION": str(revision)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def packages(wheelhouse, tmp_path_factory) -> Path:
    needs("dpkg-deb")
    folder: Path = tmp_path_factory.mktemp("packages")
    for revision in (1, 2):
        build(wheelhouse, folder, revision)
    return folder


def test_a_package_installs_serves_keeps_state_and_goes_without_a_trace(packages, tmp_path):
    machine = copy_of_base(tmp_path / "machine")
    outcome = boot_and_try(machine, "trial_deb.sh", tmp_path / "out", {packages: "/packages"})
    assert outcome.code == 0, outcome.log[-6000:]
    assert "trial: passed" in outcome.log


def test_lintian_has_nothing_to_say_that_is_not_meant(packages):
    needs("lintian")
    package = next(iter(packages.glob("*-1_*.deb")))
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error", "--suppress-tags", ",".join(KNOWN), package],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_package_is_made_for_another_processor_too(tmp_path):
    needs("dpkg-deb")
    wheelhouse = tmp_path / "collab-9.9-cp313-aarch64"
    (wheelhouse / "wheels").mkdir(parents=True)
    (wheelhouse / "python").write_text("3.13\n")
    (wheelhouse / "install-offline.sh").write_text("#!/bin/sh\n")
    package = build(wheelhouse, tmp_path, 1)
    assert package.name == "collab-node_9.9-1_arm64.deb"
    fields = subprocess.run(
        ["dpkg-deb", "--field", package], capture_output=True, text=True, check=True
    ).stdout
    assert "Depends: python3 (>= 3.13~), python3 (<< 3.14~)," in fields
