from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "deployments" / "container"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text("utf-8")


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and its argument; none goes over several lines."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def last_stage() -> dict[str, str]:
    starts = [i for i, (name, _) in enumerate(instructions()) if name == "FROM"]
    return dict(instructions()[starts[-1] :])


def test_the_base_has_a_version_and_may_be_given_with_a_digest():
    assert re.search(r"^ARG BASE=python:\d+\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert {argument.split()[0] for name, argument in instructions() if name == "FROM"} == {"${BASE}"}


def test_packages_come_with_hashes_as_wheels_and_leave_no_tools_behind():
    runs = [argument for name, argument in instructions() if name == "RUN"]
    assert any("--require-hashes" in run and "--only-binary=:all:" in run for run in runs)
    assert any("uninstall --yes setuptools pip" in run for run in runs)
    assert all("--no-cache-dir" in run for run in runs if "pip install" in run)
    assert not re.search(r"apt-get|curl|wget|sudo|ADD ", DOCKERFILE)


def test_the_image_runs_as_a_user_of_its_own_with_a_check():
    stage = last_stage()
    assert stage["USER"] == "10001:10001"
    assert "CMD" in stage["HEALTHCHECK"]
    assert json.loads(stage["ENTRYPOINT"]) == ["collab"]
    assert stage["VOLUME"] == "/var/lib/collab"


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_is_pinned_unprivileged_and_read_only(service):
    assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+", service["image"])
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in {"0", "root", "0:0"}
    assert "privileged" not in service
    assert "healthcheck" in service or service["image"] == "collab:0.1.0"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_what_services_name_is_declared():
    volumes = {place.split(":")[0] for each in SERVICES.values() for place in each.get("volumes", ())}
    assert {name for name in volumes if "/" not in name} == set(COMPOSE["volumes"])
    assert {name for each in SERVICES.values() for name in each.get("secrets", ())} == set(COMPOSE["secrets"])
    assert {name for each in SERVICES.values() for name in each["networks"]} == set(COMPOSE["networks"])
    waited = {name for each in SERVICES.values() for name in each.get("depends_on", ())}
    assert waited <= set(SERVICES)


def test_the_version_is_the_package_s():
    from collab import __version__

    images = {each["image"] for each in SERVICES.values() if each["image"].startswith("collab:")}
    assert images == {f"collab:{__version__}"}


@pytest.mark.parametrize("name", ["node-1", "node-2", "node-3", "controller"])
def test_options_in_the_compose_file_are_those_of_the_commands(name):
    import typer.main

    from collab.cli import main

    main._register()
    words = SERVICES[name]["command"]
    command = typer.main.get_command(main.app).commands[words[0]]  # type: ignore[attr-defined]
    options = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= options
