from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "deployments" / "k3s"
MADE_BY_HAND = {"collab-identities", "collab-api-keys", "collab-plans"}
"""Secrets and settings that the page of instructions makes."""


def objects(kustomization: Path) -> list[dict[str, Any]]:
    """What a folder's resources are, those of its bases included, without its patches."""
    made: list[dict[str, Any]] = []
    settings = yaml.safe_load((kustomization / "kustomization.yaml").read_text("utf-8"))
    for name in settings["resources"]:
        place = kustomization / name
        made += objects(place) if place.is_dir() else list(yaml.safe_load_all(place.read_text("utf-8")))
    return made


BASE = objects(FOLDER / "base")
WORKLOADS = [each for each in BASE if each["kind"] in {"DaemonSet", "Deployment"}]
NAMES = [each["metadata"]["name"] for each in WORKLOADS]


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    spec = pod(workload)
    return [*spec["initContainers"], *spec["containers"]]


def selected(labels: dict[str, str]) -> list[dict[str, Any]]:
    return [
        each for each in WORKLOADS if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    ]


def named(kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in BASE if each["kind"] == kind}


def test_every_file_of_the_base_is_in_it():
    settings = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text("utf-8"))
    files = {file.name for file in (FOLDER / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(settings["resources"]) == files
    assert settings["namespace"] in named("Namespace")


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_a_pod_finds_what_it_names(workload):
    spec = pod(workload)
    assert spec["serviceAccountName"] in named("ServiceAccount")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounted = {mount["name"] for each in containers(workload) for mount in each["volumeMounts"]}
    assert mounted == set(volumes)
    asked = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
    asked |= {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume}
    assert asked <= MADE_BY_HAND | named("ConfigMap")
    assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]


def test_the_page_makes_what_is_made_by_hand():
    page = (FOLDER / "README.md").read_text("utf-8")
    assert {name for name in MADE_BY_HAND if f" {name} --from-file" not in page} == set()


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_a_pod_keeps_to_the_restricted_standard(workload):
    spec = pod(workload)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} <= {
        *("configMap", "emptyDir", "secret"),
    }
    for each in containers(workload):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in each["resources"]["limits"]
        assert ":" in each["image"]
        assert not each["image"].endswith(":latest")


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_a_pod_is_looked_at_while_it_runs(workload):
    for each in pod(workload)["containers"]:
        assert {"readinessProbe", "livenessProbe"} <= set(each)


def policies() -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """What each network policy lets in, by pods and ports."""
    for each in BASE:
        if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"]:
            ports = [port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]]
            yield selected(each["spec"]["podSelector"]["matchLabels"]), ports


def test_services_budgets_and_policies_mean_pods_and_ports_that_are_there():
    meant = list(policies())
    for each in BASE:
        if each["kind"] == "Service":
            meant.append(
                (selected(each["spec"]["selector"]), [p["targetPort"] for p in each["spec"]["ports"]])
            )
        if each["kind"] == "PodDisruptionBudget":
            meant.append((selected(each["spec"]["selector"]["matchLabels"]), []))
    assert len(meant) == 4
    for pods, ports in meant:
        assert len(pods) == 1
        there = {port["name"] for each in pod(pods[0])["containers"] for port in each["ports"]}
        assert set(ports) <= there


def test_nothing_comes_in_that_no_policy_names():
    closed = [each for each in BASE if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"] == {}]
    assert [each["spec"]["policyTypes"] for each in closed] == [["Ingress"]]
    assert "ingress" not in closed[0]["spec"]


def test_the_front_door_stays_when_one_of_it_goes():
    (serve,) = selected({"app.kubernetes.io/name": "collab-serve"})
    assert serve["spec"]["replicas"] == 2
    (budget,) = (each for each in BASE if each["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1


def test_settings_in_the_config_map_are_a_node_s(tmp_path):
    from collab.cli.settings import gather
    from collab.node.config import NodeConfig

    (settings,) = (each["data"] for each in BASE if each["kind"] == "ConfigMap")
    file = tmp_path / "node.toml"
    file.write_text(settings["node.toml"])
    assert gather(NodeConfig, {}, file, "node").listen == ("0.0.0.0:7070",)


@pytest.mark.parametrize("overlay", sorted((FOLDER / "overlays").iterdir()), ids=lambda each: each.name)
def test_an_overlay_changes_what_the_base_has(overlay):
    settings = yaml.safe_load((overlay / "kustomization.yaml").read_text("utf-8"))
    there = {(each["kind"], each["metadata"]["name"]) for each in objects(overlay)}
    for patch in settings["patches"]:
        for each in yaml.safe_load_all((overlay / patch["path"]).read_text("utf-8")):
            assert (each["kind"], each["metadata"]["name"]) in there
