"""The image, built by buildah and run by podman on a local base: pytest --heavy=deployments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deployments.engine import IMAGE
from tests.identities import Identities

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(900)]

USER = 10001


def state_of(name: str, folder: Path) -> Path:
    """A volume with an identity in it, as `collab cluster join` leaves it."""
    state = folder / "state"
    state.mkdir()
    Identities(folder).directory(name).rename(state / "identity")
    for place in (state, *state.rglob("*")):
        os.chown(place, USER, USER)
        place.chmod(0o700 if place.is_dir() else 0o600)
    return state


def test_the_image_says_how_it_runs_and_is_asked(engine):
    said = engine.inspect()
    assert said["User"] == f"{USER}:{USER}"
    assert said["Entrypoint"] == ["collab"]
    assert said["Volumes"] == {"/var/lib/collab": {}}
    assert said["Healthcheck"]["Test"] == ["CMD", "collab", "health"]


def test_the_image_has_no_tools_to_install_with_and_writes_only_its_state(engine):
    places = "/opt/collab/venv/lib/*/site-packages/pip* /source"
    look = f"id -u; ls -d {places}; touch /opt/x; touch /var/lib/collab/x"
    said = engine.podman("run", "--rm", *engine.hardened(), "--entrypoint=/bin/sh", IMAGE, "-c", look)
    assert str(USER) in said.splitlines()
    assert said.count("No such file") == 2
    assert "'/opt/x': Read-only file system" in said
    assert "/var/lib/collab/x" not in said


def test_two_nodes_in_a_container_answer_as_the_whole_model_does(engine):
    assert '"equal": true' in engine.run("demo", "--nodes", "2", "--json")


def test_a_node_is_asked_by_the_image_s_check_and_drains_when_it_is_stopped(engine, tmp_path):
    mounts = {state_of("pi-1", tmp_path): "/var/lib/collab"}
    command = ["node", "--listen", "0.0.0.0:7070", "--discovery", "none", "--json"]
    with engine.running("pi-1", *command, mounts=mounts):
        engine.await_line("pi-1", '"event": "ready"')
        engine.podman("healthcheck", "run", "pi-1")
        engine.podman("kill", "--signal=STOP", "pi-1")
        engine.podman("healthcheck", "run", "pi-1", code=1)
        engine.podman("kill", "--signal=CONT", "pi-1")
        engine.podman("healthcheck", "run", "pi-1")
        engine.podman("stop", "--time=45", "pi-1")
        assert '"event": "drained"' in engine.podman("logs", "pi-1")
        assert engine.podman("inspect", "--format={{.State.ExitCode}}", "pi-1") == "0"
