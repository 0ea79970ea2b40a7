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


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_writes_to_volumes_with_names_alone(service):
    for place in service.get("volumes", ()):
        source, _, how = place.partition(":")
        assert ("/" not in source) or how.endswith(":ro")


def test_files_that_services_see_are_there_or_made_as_the_page_says():
    page = (FOLDER / "README.md").read_text("utf-8")
    sources = [place.split(":")[0] for each in SERVICES.values() for place in each.get("volumes", ())]
    sources += [secret["file"] for secret in COMPOSE["secrets"].values()]
    for source in (each for each in sources if "/" in each):
        assert (FOLDER / source).exists() or f"`{source}" in page, source


def test_a_service_waits_for_the_health_of_those_that_have_a_check():
    for each in SERVICES.values():
        for name, wait in each.get("depends_on", {}).items():
            assert wait == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[name] or SERVICES[name]["command"][0] == "node", name


def test_the_image_s_check_is_the_node_s_own_and_listens_where_the_nodes_do():
    from collab.cli.health import USUAL

    assert 'CMD ["collab", "health"]' in last_stage()["HEALTHCHECK"]
    port = USUAL.rpartition(":")[2]
    assert last_stage()["EXPOSE"] == port
    for name in ("node-1", "node-2", "node-3"):
        words = SERVICES[name]["command"]
        assert words[words.index("--listen") + 1] == f"0.0.0.0:{port}"
        assert "healthcheck" not in SERVICES[name]


def test_prometheus_scrapes_every_node_and_the_front_door_where_their_metrics_are():
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    (job,) = settings["scrape_configs"]
    assert job["job_name"] == "collab"  # as the rules and the dashboard say
    scraped = {
        (target, each["labels"]["node"]) for each in job["static_configs"] for target in each["targets"]
    }
    there = set()
    for name, each in SERVICES.items():
        words = each.get("command", [])
        if "--metrics" in words:
            there.add((words[words.index("--metrics") + 1].replace("0.0.0.0", name), name))
    assert scraped == there
    assert {name for _, name in there} == {"node-1", "node-2", "node-3", "serve"}
    assert settings["rule_files"] == ["alerts.yml"]


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


@pytest.mark.parametrize("name", ["node-1", "node-2", "node-3", "controller", "serve"])
def test_options_in_the_compose_file_are_those_of_the_commands(name):
    import typer.main

    from collab.cli import main

    main._register()
    words = SERVICES[name]["command"]
    command = typer.main.get_command(main.app).commands[words[0]]  # type: ignore[attr-defined]
    options = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= options
