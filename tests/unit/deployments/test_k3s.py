from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from collab.security.api_keys import add_api_key, read_api_keys
from collab.security.identity import Credentials
from tests.identities import Identities

FOLDER = Path(__file__).parents[3] / "deployments" / "k3s"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
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
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_page_makes_what_is_made_by_hand():
    page = (FOLDER / "README.md").read_text("utf-8")
    assert {name for name in MADE_BY_HAND if f" {name} --from-file" not in page} == set()


def breaches(spec: dict[str, Any]) -> set[str]:
    """Rules of the "restricted" pod security standard (Kubernetes 1.33) that a pod breaks, by field."""
    found = {name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)}
    general = spec.get("securityContext", {})
    if general.get("sysctls"):
        found.add("sysctls")
    known = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"}
    known |= {"persistentVolumeClaim", "projected", "secret"}
    found |= {kind for volume in spec.get("volumes", ()) for kind in set(volume) - {"name"} - known}
    for each in [*spec.get("initContainers", ()), *spec["containers"], *spec.get("ephemeralContainers", ())]:
        own = each.get("securityContext", {})
        both = {**general, **own}
        if own.get("privileged"):
            found.add("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.add("allowPrivilegeEscalation")
        if "ALL" not in own.get("capabilities", {}).get("drop", ()):
            found.add("capabilities.drop")
        if set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
            found.add("capabilities.add")
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            found.add("runAsNonRoot")
        if both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            found.add("seccompProfile")
        if own.get("procMount", "Default") != "Default":
            found.add("procMount")
        if any(port.get("hostPort") for port in each.get("ports", ())):
            found.add("hostPort")
    return found


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "hostPath"),
        ({"securityContext": {"runAsNonRoot": True}}, "seccompProfile"),
        ({"containers": [{"securityContext": {}}]}, "capabilities.drop"),
    ],
)
def test_a_breach_is_found(change, rule):
    assert rule in breaches({**pod(WORKLOADS[0]), **change})


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_a_pod_keeps_to_the_restricted_standard(workload):
    spec = pod(workload)
    assert breaches(spec) == set()
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
    assert sorted(len(pods) for pods, _ in meant) == [1, 1, 1, 1, 2]
    for pods, ports in meant:
        for one in pods:
            there = {port["name"] for each in pod(one)["containers"] for port in each["ports"]}
            assert set(ports) <= there


def allowed(labels: dict[str, str], namespace: dict[str, str], to: dict[str, Any], port: str) -> bool:
    """Whether a pod with these labels, in a namespace with these, may reach a port of a workload's pods.

    As Kubernetes decides it: what any policy that selects the pods names; all, if none selects them.
    """
    target = to["spec"]["template"]["metadata"]["labels"]
    own = {"kubernetes.io/metadata.name": "collab"}
    chosen = [
        each["spec"]
        for each in BASE
        if each["kind"] == "NetworkPolicy"
        and each["spec"]["podSelector"].get("matchLabels", {}).items() <= target.items()
    ]
    if not chosen:
        return True
    for rule in (rule for spec in chosen for rule in spec.get("ingress", ())):
        for source in rule["from"]:
            spaces = source["namespaceSelector"]["matchLabels"] if "namespaceSelector" in source else own
            pods = source.get("podSelector", {}).get("matchLabels", {})
            if (
                spaces.items() <= namespace.items()
                and pods.items() <= labels.items()
                and port in [each["port"] for each in rule["ports"]]
            ):
                return True
    return False


HERE = {"kubernetes.io/metadata.name": "collab"}
NODE, SERVE = {"app.kubernetes.io/name": "collab-node"}, {"app.kubernetes.io/name": "collab-serve"}


@pytest.mark.parametrize(
    ("labels", "namespace", "to", "ports"),
    [
        (NODE, HERE, NODE, {"link"}),
        (SERVE, HERE, NODE, {"link"}),
        (NODE, HERE, SERVE, set()),
        ({"app": "stranger"}, HERE, NODE, set()),
        (NODE, {"kubernetes.io/metadata.name": "elsewhere"}, NODE, set()),
        ({}, {"collab/client": "true"}, SERVE, {"rest", "grpc"}),
        ({}, {"collab/client": "true"}, NODE, set()),
        ({}, {"collab/metrics": "true"}, SERVE, {"metrics"}),
        ({}, {"collab/metrics": "true"}, NODE, {"metrics"}),
        ({}, {}, SERVE, set()),
    ],
)
def test_who_reaches_which_port(labels, namespace, to, ports):
    (workload,) = selected(to)
    there = {port["name"] for each in pod(workload)["containers"] for port in each["ports"]}
    assert {port for port in there if allowed(labels, namespace, workload, port)} == ports


def test_nothing_comes_in_that_no_policy_names():
    closed = [each for each in BASE if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"] == {}]
    assert [each["spec"]["policyTypes"] for each in closed] == [["Ingress"]]
    assert "ingress" not in closed[0]["spec"]


def test_the_front_door_stays_when_one_of_it_goes():
    (serve,) = selected({"app.kubernetes.io/name": "collab-serve"})
    assert serve["spec"]["replicas"] == 2
    (budget,) = (each for each in BASE if each["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_what_an_init_container_copies_is_taken_by_the_program(workload, tmp_path):
    """Its script, with the folders that it names in another place; a kubelet mounts with mode 0440."""
    secrets, keys, identity = (tmp_path / name for name in ("secrets", "keys", "identity"))
    for folder in (secrets, keys, identity):
        folder.mkdir()
    made = Identities(tmp_path).directory("pi-1")
    for file in made.iterdir():
        for owner in ("pi-1", "serve"):
            (secrets / f"{owner}.{file.name}").write_bytes(file.read_bytes())
    add_api_key(keys / "api-keys", "camera", "inference")
    for file in (*secrets.iterdir(), *keys.iterdir()):
        file.chmod(0o440)
    (init,) = pod(workload)["initContainers"]
    (script,) = init["args"]
    for name in ("secrets", "keys", "identity"):
        script = script.replace(f'"/{name}/', f'"{tmp_path}/{name}/')
    done = subprocess.run(
        [sys.executable, "-c", script], env={"MACHINE": "pi-1"}, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert Credentials.load(identity / "own").principal.name == "pi-1"
    (command,) = (each["args"] for each in pod(workload)["containers"])
    if "--api-keys" in command:
        place = command[command.index("--api-keys") + 1]
        assert [key.name for key in read_api_keys(tmp_path / place.lstrip("/"))] == ["camera"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_programs_are_called_with_options_that_they_have(workload):
    import typer.main

    from collab.cli import main

    main._register()
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    for each in pod(workload)["containers"]:
        words = [each["args"]]
        words += [each[probe]["exec"]["command"][1:] for probe in PROBES if "exec" in each.get(probe, {})]
        for line in words:
            name = next(word for word in line if word in commands)
            known = {option for parameter in commands[name].params for option in parameter.opts}
            assert {word for word in line[line.index(name) :] if word.startswith("--")} <= known


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge of mappings, which is all that our patches need."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    return {**base, **{name: merged(base.get(name), value) for name, value in patch.items()}}


def built(overlay: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    settings = yaml.safe_load((overlay / "kustomization.yaml").read_text("utf-8"))
    made = objects(overlay)
    for patch in settings.get("patches", ()):
        for each in yaml.safe_load_all((overlay / patch["path"]).read_text("utf-8")):
            about = (each["kind"], each["metadata"]["name"])
            made = [merged(o, each) if (o["kind"], o["metadata"]["name"]) == about else o for o in made]
    return made


def test_nodes_at_their_machines_addresses_break_one_rule_and_the_namespace_says_so():
    there = {
        (each["kind"], each["metadata"]["name"]): each for each in built(FOLDER / "overlays/host-network")
    }
    assert breaches(pod(there["DaemonSet", "collab-node"])) == {"hostNetwork"}
    assert breaches(pod(there["Deployment", "collab-serve"])) == set()
    labels = there["Namespace", "collab"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", [FOLDER / "base", *sorted((FOLDER / "overlays").iterdir())], ids=str)
def test_kustomize_builds_what_we_think_it_does(folder):
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    theirs = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    ours = {(each["kind"], each["metadata"]["name"]): each for each in built(folder)}
    assert set(theirs) == set(ours)
    for name, each in ours.items():
        if name[0] != "Namespace":
            each = merged(each, {"metadata": {"namespace": "collab"}})
        assert theirs[name] == each


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
