"""The Ansible role on two booted machines, over SSH: pytest --heavy=deployments."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deployments.hosts import CONTROL, USER, Site, site
from tests.deployments.machine import ROOT

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
FOLDER = ROOT / "deployments" / "ansible"
NAMES = ["pi-1", "pi-2"]
PORT = 7443


@dataclass(frozen=True)
class Outcome:
    """What a playbook did: its exit code, its counts by host, what it printed."""

    code: int
    counts: dict[str, dict[str, int]]
    output: str

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.counts.values())


class Operator:
    """Somebody with the authority, a controller and a list of hosts."""

    def __init__(self, hosts: Site, folder: Path, sockets: str) -> None:
        self.hosts, self._folder = hosts, folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_LOCAL_TEMP": str(folder / "ansible"),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_ARGS": " ".join((*hosts.options(), "-oControlMaster=auto", "-oControlPersist=2s")),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets,
            "LC_ALL": "C.UTF-8",
        }
        lines = [f"{name} ansible_host={address}" for name, address in hosts.addresses.items()]
        (folder / "inventory.ini").write_text("[collab_nodes]\n" + "\n".join(lines) + "\n")

    def start(self, *command: object) -> subprocess.Popen[str]:
        """A program of the operator's, beside the hosts."""
        return subprocess.Popen(
            self.hosts.control(*command), env=self._environment, stdout=subprocess.PIPE, text=True
        )

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """A program to its end."""
        return subprocess.run(
            self.hosts.control(*command),
            cwd=FOLDER,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def play(self, wheelhouse: Path, *options: str, port: int = PORT) -> Outcome:
        """Run the playbook."""
        values = {
            "ansible_user": USER,
            "ansible_ssh_private_key_file": self.hosts.key,
            "ansible_python_interpreter": "/usr/bin/python3",
            "collab_wheelhouse": wheelhouse,
            "collab_enrol_address": f"{CONTROL}:{port}",
            "collab_authority": self._folder / "authority",
            "collab_command": BIN / "collab",
        }
        done = self.run(
            *(BIN / "ansible-playbook", "-i", self._folder / "inventory.ini"),
            *(part for name, value in values.items() for part in ("-e", f"{name}={value}")),
            *(*options, FOLDER / "enrol.yml"),
        )
        recap = done.stdout.partition("PLAY RECAP")[2]
        counts = {
            line.split()[0]: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}
            for line in recap.splitlines()
            if "ok=" in line
        }
        return Outcome(done.returncode, counts, done.stdout + done.stderr)

    def state(self, name: str) -> str:
        """Digests of what a device must keep."""
        return self.hosts.ssh(name, "sudo sh -c 'sha256sum /var/lib/collab/identity/* /etc/collab/node.toml'")


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    if not (BIN / "ansible-playbook").exists():
        pytest.skip("ansible-core is not installed (scripts/setup deployments)")
    # Paths of sockets have 108 bytes.
    with tempfile.TemporaryDirectory() as short, site(NAMES, tmp_path) as hosts:
        made = Operator(hosts, tmp_path, short)
        places = ["--authority", tmp_path / "authority"]
        done = made.run(
            BIN / "collab", "cluster", "init", "lab", *places, "--identity", tmp_path / "operator"
        )
        assert done.returncode == 0, done.stderr
        with made.start(
            BIN / "collab", "controller", "--listen", f"{CONTROL}:{PORT}", *places, "--json"
        ) as at:
            try:
                assert at.stdout is not None
                assert f"{CONTROL}:{PORT}" in at.stdout.readline()
                yield made
            finally:
                at.terminate()


def test_two_hosts_are_enrolled_over_ssh_and_serve_and_a_second_run_changes_nothing(
    operator, wheelhouse, tmp_path
):
    said = operator.play(wheelhouse, "--check")
    assert said.code == 0, said.output[-3000:]
    assert said.total("changed") > 0
    assert (
        operator.hosts.ssh("pi-1", "ls /opt/collab /var/lib/collab 2>&1 || true").count("No such file") == 2
    )

    # Nothing enrols there: it is said why, without the token, and the next run goes on from there.
    said = operator.play(wheelhouse, port=1)
    assert said.code != 0
    for name in NAMES:
        assert re.search(rf"{name} was not enrolled:.*{CONTROL}:1", said.output), said.output[-3000:]
    assert "collab1-" not in said.output

    said = operator.play(wheelhouse)
    assert (said.code, said.total("failed")) == (0, 0), said.output[-3000:]
    assert "collab1-" not in said.output  # tokens are not written to logs
    peers = ",".join(f"{address}:7070" for address in operator.hosts.addresses.values())
    nodes = operator.run(
        BIN / "collab", "--identity", tmp_path / "operator", "nodes", "--peers", peers, "--json"
    )
    assert sorted((each["name"], each["state"]) for each in json.loads(nodes.stdout)) == [
        (name, "serving") for name in NAMES
    ]

    said = operator.play(wheelhouse)
    assert (said.code, said.total("changed"), said.total("failed")) == (0, 0, 0), said.output

    # Other wheels are an upgrade: the node is started again, and is who it was.
    newer = shutil.copytree(wheelhouse, tmp_path / wheelhouse.name)
    with (newer / "pins.txt").open("a") as pins:
        pins.write("# newer\n")
    kept, process = operator.state("pi-1"), "systemctl show --value -p MainPID collab-node"
    old = operator.hosts.ssh("pi-1", process)
    said = operator.play(newer, "--limit", "pi-1")
    assert (said.code, said.total("failed")) == (0, 0), said.output[-3000:]
    assert operator.hosts.ssh("pi-1", "systemctl is-active collab-node") == "active"
    assert operator.hosts.ssh("pi-1", process) != old
    assert operator.state("pi-1") == kept
    assert operator.hosts.ssh("pi-1", "ls -d /opt/collab/venv-2* | wc -l") == "2"  # one step back
