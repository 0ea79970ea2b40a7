"""The compose file, read by docker-compose, its services started by podman: pytest --heavy=deployments."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from collab.security.api_keys import add_api_key
from tests.deployments.engine import IMAGE, LIMITS, Engine
from tests.deployments.machine import ROOT, needs
from tests.integration.models import PATHS, Reference
from tests.mosquitto import program
from tests.namespaces import Namespaces

pytestmark = [pytest.mark.heavy("deployments"), pytest.mark.timeout(900)]

FOLDER = ROOT / "deployments" / "container"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
PAGE = (FOLDER / "README.md").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ["node-1", "node-2", "node-3"]
USER = 10001
BROKER_S = 15.0


def config(compose: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of a file; Debian's does not know of ``name`` yet."""
    needs("docker-compose")
    file = folder / "compose.yaml"
    file.write_text(yaml.safe_dump({name: value for name, value in compose.items() if name != "name"}))
    return subprocess.run(
        ["docker-compose", "--file", file, "config"], capture_output=True, text=True, timeout=60
    )


def test_docker_compose_reads_every_service_as_it_is_meant(tmp_path):
    done = config(COMPOSE, tmp_path)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert set(read) == set(SERVICES)
    for name, each in read.items():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each.get("command") == SERVICES[name].get("command")


def test_docker_compose_refuses_what_is_misspelt(tmp_path):
    done = config({**COMPOSE, "services": {"x": {"image": "x", "reed_only": True}}}, tmp_path)
    assert done.returncode != 0
    assert "reed_only" in done.stderr


class Cluster:
    """The services as containers, each in a network namespace, with each other's names."""

    def __init__(self, engine: Engine, namespaces: Namespaces, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self._hub = namespaces.add("hub")
        forward = [*Namespaces.inside(self._hub), "sysctl", "-qw", "net.ipv4.ip_forward=1"]
        subprocess.run(forward, check=True)
        self._spaces: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        for number, name in enumerate(SERVICES, 1):
            self._spaces[name] = namespaces.add(name)
            self.addresses[name] = f"10.78.{number}.2"
            namespaces.join(
                self._hub, f"10.78.{number}.1/30", self._spaces[name], f"{self.addresses[name]}/30"
            )
            namespaces.route(self._spaces[name], f"10.78.{number}.1")

    def _options(self, name: str) -> list[str]:
        service = SERVICES[name]
        assert (service["read_only"], service["tmpfs"], service["cap_drop"]) == (True, ["/tmp"], ["ALL"])
        places = [
            place if "/" not in place.split(":")[0] else f"{(self.folder / place).resolve()}"
            for place in service["volumes"]
        ]
        places += [f"{self.folder}/api-keys:/run/secrets/{each}:ro" for each in service.get("secrets", ())]
        return [
            *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=ALL", *LIMITS),
            *(f"--security-opt={each}" for each in service["security_opt"]),
            *(f"--user={service['user']}", f"--network=ns:/run/netns/{self._spaces[name]}"),
            *(f"--add-host={other}:{address}" for other, address in self.addresses.items()),
            *(f"--volume={place}" for place in places),
            *("--dns=127.0.0.1", "--health-interval=disable"),
        ]

    def once(self, name: str, words: str, *options: str) -> str:
        """`docker compose run --rm NAME …`."""
        return self.engine.podman("run", "--rm", *self._options(name), *options, IMAGE, *words.split())

    def up(self, name: str, ready: str) -> None:
        """`docker compose up -d NAME`, until it says that it is ready."""
        command = SERVICES[name]["command"]
        self.engine.podman("run", "--detach", f"--name={name}", *self._options(name), IMAGE, *command)
        self.engine.await_line(name, ready)

    @contextmanager
    def broker(self) -> Iterator[None]:
        """This machine's mosquitto with the service's files, beside the others."""
        folder, (settings, _) = self.folder / "broker", SERVICES["broker"]["volumes"]
        text = (
            (FOLDER / settings.split(":")[0]).read_text("utf-8").replace("/etc/mosquitto/collab", str(folder))
        )
        (folder / "mosquitto.conf").write_text(f"user root\n{text}")
        inside, deadline = Namespaces.inside(self._spaces["broker"]), time.monotonic() + BROKER_S
        with subprocess.Popen([*inside, program(), "-c", folder / "mosquitto.conf"]) as process:
            while (
                ":8883" not in subprocess.run([*inside, "ss", "-ltn"], capture_output=True, text=True).stdout
            ):
                assert process.poll() is None, "mosquitto does not start"
                assert time.monotonic() < deadline, "mosquitto does not listen"
            try:
                yield
            finally:
                process.terminate()

    def curl(self, *arguments: object) -> str:
        """From beside the services."""
        command = [*Namespaces.inside(self._hub), "curl", "--silent", "--fail-with-body", "--max-time", "20"]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout


def on_the_page(words: str) -> str:
    """A command, which the page of instructions has too."""
    assert words in PAGE, words
    return words


@pytest.fixture
def cluster(engine: Engine, tmp_path: Path) -> Iterator[Cluster]:
    needs("curl", "mosquitto")
    with Namespaces() as namespaces:
        made = Cluster(engine, namespaces, tmp_path)
        try:
            yield made
        finally:
            engine.podman("rm", "--all", "--force", "--time=1")
            engine.podman("volume", "rm", "--all", "--force")


def test_the_services_meet_as_the_page_says_and_the_front_door_answers_as_the_whole_model(cluster):
    engine, folder = cluster.engine, cluster.folder
    plans = folder / "plans"
    plans.mkdir()
    (folder / "api-keys").touch(0o600)
    cluster.once("controller", on_the_page("cluster init home --identity /var/lib/collab/operator"))
    cluster.up("controller", "7443")
    invite = "collab cluster invite {} --no-serve --address controller:7443"
    for name in (*NODES, "serve"):
        words = on_the_page(invite.format("node-1")).replace("node-1", name).split()
        role = ["--role", "client"] if name == "serve" else []
        token = engine.podman("exec", "controller", *words, *role, "--json")
        cluster.once(name, f"cluster join {json.loads(token.splitlines()[-1])['token']}")
    engine.podman(
        "exec",
        "controller",
        *on_the_page("collab cluster broker --host broker --out /var/lib/collab/broker").split(),
    )
    engine.podman("cp", "controller:/var/lib/collab/broker", folder / "broker")

    with cluster.broker():
        for name in NODES:
            cluster.up(name, "is ready at")
            engine.podman("healthcheck", "run", name)
        (plans / "model.tflite").write_bytes(PATHS["digits"].read_bytes())
        os.chown(plans, USER, USER)
        # By address: gRPC asks a name server for names in any case, and there is none here.
        peers = ",".join(f"{cluster.addresses[name]}:7070" for name in NODES)
        own, writable = "--identity /var/lib/collab/operator", f"--volume={plans}:/plans"
        choice = f"--peers {peers} --at 3,6 --assign {','.join(NODES)} --out /plans/plan.yaml"
        cluster.once("controller", f"{own} plan /plans/model.tflite {choice}", writable)
        cluster.once("controller", f"{own} deploy /plans/plan.yaml", writable)

        key = add_api_key(folder / "api-keys", "camera", "inference")
        os.chown(folder / "api-keys", USER, USER)
        cluster.up("serve", "8000")
        engine.podman("exec", "serve", *SERVICES["serve"]["healthcheck"]["test"][1:])
        served = cluster.addresses["serve"]
        assert_answers(
            cluster, f"http://{served}:8000", key, yaml.safe_load((plans / "plan.yaml").read_text())
        )

        (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
        for target in (target for each in job["static_configs"] for target in each["targets"]):
            name, _, port = target.partition(":")
            assert "# TYPE collab_" in cluster.curl(f"http://{cluster.addresses[name]}:{port}/metrics"), (
                target
            )

        for name in ("serve", *NODES, "controller"):
            engine.podman("stop", "--time=45", name)
            assert engine.podman("inspect", "--format={{.State.ExitCode}}", name) == "0", name


def assert_answers(cluster: Cluster, url: str, key: str, plan: dict[str, Any]) -> None:
    """One digit by REST, beside the whole model's answer."""
    reference = Reference.of("digits")
    ((given, image),) = reference.requests[0].items()
    ((_, expected),) = reference.expected[0].items()
    tensor = {"name": given, "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]})
    asked = ("--header", f"Authorization: Bearer {key}", "--json", body)
    (output,) = json.loads(cluster.curl(*asked, f"{url}/v2/models/{plan['name']}/infer"))["outputs"]
    assert np.array_equal(np.array(output["data"], np.float32), expected.ravel())
