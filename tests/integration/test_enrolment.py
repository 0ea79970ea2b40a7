"""A second device is enrolled by two commands, as processes with directories of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.integration.processes import collab, environment


@contextmanager
def started(*arguments: object, env: dict[str, str]):
    """A command that runs on, and its first event."""
    process = subprocess.Popen(
        [sys.executable, "-m", "collab", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**env),
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


def test_init_invite_and_join(tmp_path: Path):
    own = {"XDG_CONFIG_HOME": str(tmp_path / "own")}
    device = {"XDG_CONFIG_HOME": str(tmp_path / "device")}
    collab("cluster", "init", "lab", env=own)
    collab("cluster", "init", "lab", env=own, code=4)
    invite = ("cluster", "invite", "edge-b", "--listen", "127.0.0.1:0", "--json")
    with started(*invite, env=own) as (process, event):
        joined = collab("cluster", "join", event["token"], "--json", env=device).json
        assert process.wait(timeout=20) == 0
    assert joined["principal"] == "edge-b.node.lab"
    assert collab("cluster", "invite", "Edge-B", "--listen", "127.0.0.1:0", env=own, code=4).errors


def test_a_controller_enrols_renews_and_ends_on_request(tmp_path: Path):
    own = {"XDG_CONFIG_HOME": str(tmp_path / "own")}
    device = {"XDG_CONFIG_HOME": str(tmp_path / "device")}
    thief = {"XDG_CONFIG_HOME": str(tmp_path / "thief")}
    collab("cluster", "init", "lab", env=own)
    with started("controller", "--listen", "127.0.0.1:0", "--json", env=own) as (process, ready):
        address = ready["address"]
        invite = ("cluster", "invite", "edge-b", "--no-serve", "--address", address, "--json")
        token = collab(*invite, env=own).json["token"]
        collab("cluster", "join", token, env=device)
        collab("cluster", "join", token, env=thief, code=4)
        collab("cluster", "renew", env=device)
        assert len(collab("cluster", "revoke", "edge-b", "--json", env=own).json["revoked"]) == 2
        collab("cluster", "renew", env=device, code=4)
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_the_files_of_a_broker_are_written(tmp_path: Path):
    own = {"XDG_CONFIG_HOME": str(tmp_path / "own")}
    collab("cluster", "init", "lab", env=own)
    made = collab("cluster", "broker", "--host", "localhost", "--out", tmp_path / "b", "--json", env=own).json
    assert set(made["files"]) == {"ca.crt", "server.crt", "server.key", "crl.pem", "acl", "mosquitto.conf"}
    assert (tmp_path / "b" / "server.key").stat().st_mode & 0o077 == 0
