"""The page's pipx instructions in a Debian machine, as a user: pytest --heavy=deployments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployments.machine import ROOT, copy_of_base, nspawn

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(600)]

PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")
INSTALL = 'pipx install --pip-args="--no-index --find-links $wheels" $wheels/collab-*.whl'
USER = "ada"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = copy_of_base(tmp_path_factory.mktemp("pipx") / "machine")
    subprocess.run(["chroot", made, "useradd", "--create-home", "--shell=/bin/sh", USER], check=True)
    return made


def shell(machine: Path, script: str, seen: dict[Path, str]) -> subprocess.CompletedProcess[str]:
    """A script by the user, without a network."""
    options = ("--private-network", f"--user={USER}", "--as-pid2", "/bin/sh", "-ec", script)
    return subprocess.run(
        nspawn(machine, seen, *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_the_system_s_pip_refuses_as_the_page_says(machine, wheelhouse):
    script = """
        python3 -m venv /tmp/other
        /tmp/other/bin/pip --python /usr/bin/python3 install --no-index --find-links /wheels collab
    """
    done = shell(machine, script, {wheelhouse / "wheels": "/wheels"})
    assert done.returncode != 0
    assert "externally-managed-environment" in done.stdout, done.stdout
    assert 'refuse `pip install` outside an environment ("externally managed")' in PAGE


def test_pipx_installs_the_wheelhouse_for_a_user_and_it_answers(machine, wheelhouse, tmp_path):
    # What pipx takes from the index for itself.
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(shared)]
    subprocess.run([*fetch, "pip", "setuptools", "wheel"], check=True, timeout=120)
    assert INSTALL in PAGE
    script = f"""
        export PIP_NO_INDEX=1 PIP_FIND_LINKS=/shared
        wheels=/wheels
        {INSTALL}
        ~/.local/bin/collab demo --nodes 2 --json
    """
    done = shell(machine, script, {wheelhouse / "wheels": "/wheels", shared: "/shared"})
    assert done.returncode == 0, done.stdout[-3000:]
    assert '"equal": true' in done.stdout
