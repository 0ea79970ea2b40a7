"""Nodes behind network address translation: they dial out, and links reach them all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from collab.security.broker import mosquitto_acl, mosquitto_config
from tests.identities import Identities
from tests.integration.models import Reference
from tests.integration.processes import COMMAND_S, NodeProcess, environment, running
from tests.mosquitto import program
from tests.namespaces import Namespaces, run

pytestmark = pytest.mark.timeout(120)

PUBLIC = "203.0.113.2"
"""Of the host that everybody reaches (documentation addresses, RFC 5737)."""


class Scene(NamedTuple):
    """Two homes behind routers of their own, and a host in public."""

    homes: tuple[tuple[str, ...], tuple[str, ...]]
    """What runs a command in either home."""
    public: tuple[str, ...]
    identities: Identities
    folder: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("nat")
    with Namespaces() as hosts:
        public = hosts.add("pub")
        homes = []
        for number in (1, 2):
            home, router = hosts.add(f"home{number}"), hosts.add(f"nat{number}")
            hosts.join(home, "192.168.7.2/24", router, "192.168.7.1/24")
            hosts.route(home, "192.168.7.1")
            _, outside = hosts.join(
                public, f"203.0.113.{16 * number + 2}/28", router, f"203.0.113.{16 * number + 1}/28"
            )
            hosts.route(router, f"203.0.113.{16 * number + 2}")
            hosts.masquerade(router, outside)
            homes.append(hosts.inside(home))
        hosts.alias(public, f"{PUBLIC}/32")
        yield Scene((homes[0], homes[1]), hosts.inside(public), Identities(folder), folder)


def collab(scene: Scene, *arguments: object) -> dict:
    """A command of the operator's on the public host."""
    done = subprocess.run(
        [*scene.public, sys.executable, "-m", "collab", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        env=environment(COLLAB_IDENTITY=str(scene.identities.directory("op", "operator"))),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report: dict = json.loads(done.stdout)
    return report


def node(scene: Scene, name: str, where: tuple[str, ...], *options: str) -> NodeProcess:
    identity = ("--identity", str(scene.identities.directory(name)))
    return NodeProcess(name, scene.folder, *identity, *options, wrapper=where)


@contextmanager
def public_broker(scene: Scene) -> Iterator[str]:
    """A broker on the public host that takes this cluster's certificates alone; its address."""
    folder = scene.folder / "broker"
    folder.mkdir(exist_ok=True)
    certificate, key = scene.identities.authority.issue_server([PUBLIC])
    files = {"ca.crt": scene.identities.of("x").pem().authority, "server.crt": certificate, "server.key": key}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "acl").write_text(mosquitto_acl())
    (folder / "acl").chmod(0o600)
    authority, certificate_file, key_file = (str(folder / name) for name in files)
    settings = mosquitto_config(
        host=PUBLIC,
        port=8883,
        authority=authority,
        certificate=certificate_file,
        key=key_file,
        acl_file=str(folder / "acl"),
    )
    (folder / "mosquitto.conf").write_text("user root\n" + settings)
    command = [*scene.public, program(), "-c", str(folder / "mosquitto.conf")]
    wait = f"until echo > /dev/tcp/{PUBLIC}/8883; do sleep 0.05; done"
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            run(*scene.public, "timeout", "10", "bash", "-c", wait)
            yield f"mqtts://{PUBLIC}:8883"
        finally:
            process.terminate()


def answers(scene: Scene, digits: Reference, peers: str, *options: str) -> dict:
    """Plan, deploy and run a model over x and y, every answer compared with the whole model's."""
    plan, given, expected = (scene.folder / name for name in ("plan.yaml", "in.npz", "out.npz"))
    digits.write(given, expected)
    collab(scene, "plan", digits.path, "--peers", peers, "--assign", "x,y", "--out", plan, *options)
    collab(scene, "deploy", plan)
    report = collab(scene, "run", plan, "--input", given, "--expect", expected)
    status = collab(scene, "status", "--peers", peers)
    collab(scene, "undeploy", plan)
    assert report["failed"] == report["wrong"] == 0 < report["requests"], report
    return status


def test_nodes_that_cannot_accept_are_reached_through_a_node_that_both_reach(scene, digits):
    relay = node(scene, "r", scene.public, "--listen", f"{PUBLIC}:7070")
    with running([relay]):
        join = ("--no-listen", "--join", f"{PUBLIC}:7070")
        behind = [node(scene, name, home, *join) for name, home in zip("xy", scene.homes, strict=True)]
        with running(behind):
            assert [one.events[0]["endpoints"] for one in behind] == [
                [f"relay://{PUBLIC}:7070/x"],
                [f"relay://{PUBLIC}:7070/y"],
            ]
            peers = ",".join(one.events[0]["endpoints"][0] for one in behind)
            status = answers(scene, digits, peers)
    between = [p for n in status["nodes"] for p in n["peers"] if {n["name"], p["name"]} == {"x", "y"}]
    assert between
    assert all(peer["relayed"] for peer in between)


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-qos0"])
def test_where_neither_end_can_accept_the_session_runs_over_the_broker(scene, digits, transport):
    with ExitStack() as stack:
        broker = stack.enter_context(public_broker(scene))
        over = ("--no-listen", "--broker", broker)
        behind = [node(scene, name, home, *over) for name, home in zip("xy", scene.homes, strict=True)]
        stack.enter_context(running(behind))
        peers = ",".join(f"{broker}/{name}" for name in "xy")
        status = answers(scene, digits, peers, "--transport", transport)
    between = [p for n in status["nodes"] for p in n["peers"] if {n["name"], p["name"]} == {"x", "y"}]
    assert transport in {peer["transport"] for peer in between}
    found = {(n["name"], f["name"]): f["found"] for n in status["nodes"] for f in n["found"]}
    assert found == {("x", "y"): ["mqtt"], ("y", "x"): ["mqtt"]}
