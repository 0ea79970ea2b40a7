"""The Dockerfile's steps in a machine in a folder, without a container engine: pytest --heavy=deployments."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deployments.machine import ROOT, copy_of_base, run_in

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(900)]

DOCKERFILE = ROOT / "deployments" / "container" / "Dockerfile"


def carry_out(machine: Path, wheelhouse: Path) -> list[str]:
    """Run the steps of both stages in one machine; the lines of the last stage that were not steps."""
    folder, said = "/", []
    # The machine has no network: pip takes the same wheels from a folder.
    (machine / "etc/pip.conf").write_text("[global]\nno-index = yes\nfind-links = /wheels\n")
    for line in DOCKERFILE.read_text("utf-8").splitlines():
        name, _, argument = line.partition(" ")
        if name == "WORKDIR":
            folder = argument
            (machine / folder.strip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY" and not argument.startswith("--from"):
            *sources, to = argument.split()
            for source in sources:
                target = machine / folder.strip("/") / to / ("" if to != "./" else source)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, target)
        elif name == "RUN":
            done = run_in(
                machine, ["/bin/sh", "-c", f"cd {folder} && {argument}"], {wheelhouse / "wheels": "/wheels"}
            )
            assert done.code == 0, f"{argument}\n{done.log}"
        elif name in {"ENV", "USER", "ENTRYPOINT"}:
            said.append(line)
    return said


def test_the_steps_work_and_what_they_make_runs_as_its_user_with_a_read_only_root(wheelhouse, tmp_path):
    machine = copy_of_base(tmp_path / "machine")
    said = carry_out(machine, wheelhouse)
    assert "USER 10001:10001" in said
    assert not list((machine / "opt/collab/venv").glob("lib/*/site-packages/pip*"))
    environment = re.findall(r"(\w+)=(\S+)", next(line for line in said if line.startswith("ENV")))
    shutil.rmtree(machine / "source")
    done = subprocess.run(
        [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=off"),
            *("--timezone=off", "--private-network", "--read-only", "--user=collab", "--as-pid2"),
            *(f"--setenv={name}={value}" for name, value in environment),
            *(f"--directory={machine}", "/bin/sh", "-c", "id -u && collab demo --nodes 2 --json"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    assert done.stdout.startswith("10001\n")
    assert '"equal": true' in done.stdout
