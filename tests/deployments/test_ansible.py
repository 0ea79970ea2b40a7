"""The Ansible role against this machine, into a folder, without systemd: pytest --heavy=deployments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.machine import ROOT, needs

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
FOLDER = ROOT / "deployments" / "ansible"


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[str]:
    """Where enrolment is served, for a cluster whose authority is in the folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    places = ["--authority", str(tmp_path / "authority")]
    init = [BIN / "collab", "cluster", "init", "lab", *places, "--identity", tmp_path / "operator"]
    subprocess.run(init, check=True, env=environment, capture_output=True)
    command = [BIN / "collab", "controller", "--listen", "127.0.0.1:0", *places, "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        yield re.findall(r'"address": "([^"]+)"', ready)[0]
        process.terminate()


def play(tmp_path: Path, wheelhouse: Path, address: str, *options: str) -> tuple[dict[str, int], str]:
    """Run the playbook; its counts, and what it said."""
    (tmp_path / "inventory.ini").write_text("[collab_nodes]\npi-1 ansible_connection=local\n")
    values = {
        "ansible_python_interpreter": sys.executable,
        "collab_wheelhouse": wheelhouse,
        "collab_enrol_address": address,
        "collab_authority": tmp_path / "authority",
        "collab_command": BIN / "collab",
        "collab_home": tmp_path / "opt",
        "collab_etc": tmp_path / "etc",
        "collab_state": tmp_path / "state",
        "collab_user": "root",
    }
    (tmp_path / "state").mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [
            *(BIN / "ansible-playbook", "-i", tmp_path / "inventory.ini", "--skip-tags", "systemd"),
            *(part for name, value in values.items() for part in ("-e", f"{name}={value}")),
            *options,
            FOLDER / "enrol.yml",
        ],
        cwd=FOLDER,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_BECOME_METHOD": "su",  # who is root already needs no sudo
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    recap = done.stdout[done.stdout.index("PLAY RECAP") :]
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", recap)}, done.stdout


def test_the_role_installs_and_enrols_and_a_second_run_changes_nothing(tmp_path, wheelhouse, controller):
    needs("su")
    if not (BIN / "ansible-playbook").exists():
        pytest.skip("ansible-core is not installed (scripts/setup deployments)")
    said, _ = play(tmp_path, wheelhouse, controller, "--check")
    assert said["changed"] > 0
    assert not (tmp_path / "opt").exists()
    assert not (tmp_path / "state" / "identity").exists()

    first, output = play(tmp_path, wheelhouse, controller)
    assert first["changed"] > 0
    assert "collab1-" not in output  # tokens are not written to logs
    assert (tmp_path / "state" / "identity" / "certificate.pem").exists()
    assert 'name = "pi-1"\nlisten = ["0.0.0.0:7070"]' in (tmp_path / "etc" / "node.toml").read_text()
    run = subprocess.run([tmp_path / "opt/venv/bin/collab", "--version"], capture_output=True, text=True)
    assert run.stdout.startswith("collab ")

    second, output = play(tmp_path, wheelhouse, controller)
    assert (second["changed"], second["failed"]) == (0, 0), output
