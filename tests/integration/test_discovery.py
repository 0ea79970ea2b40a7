"""Node processes find each other: on one host without any address, and through a broker or a directory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collab.security.broker import mosquitto_config
from tests.integration.processes import COMMAND_S, NodeProcess, environment, running
from tests.mosquitto import program
from tests.namespaces import Namespaces, run

pytestmark = [pytest.mark.timeout(120), pytest.mark.timed]

WITHIN_S = 20.0
"""Deadline on a busy machine; three nodes take about 1.3 s on an idle one."""
OPEN = ("--insecure", "--insecure-network")
NO_MULTICAST = """
    table inet quiet {
      chain out {
        type filter hook output priority 0;
        ip daddr 224.0.0.0/4 drop;
        ip6 daddr ff00::/8 udp dport { 5353, 5683 } drop;
      }
    }
"""


def collab(inside: Sequence[str], *arguments: object) -> Any:
    """A command within a namespace; its JSON."""
    done = subprocess.run(
        [*inside, sys.executable, "-m", "collab", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def found_by(inside: Sequence[str], node: NodeProcess, *options: str) -> dict[str, list[str]]:
    """Whom a node has found, and how."""
    (status,) = collab(inside, "status", "--peers", node.endpoint, *options)["nodes"]
    return {peer["name"]: peer["found"] for peer in status["found"]}


def until(look: Callable[[], Any], wanted: Any) -> float:
    """Look until it is as wanted; the seconds that it took."""
    started = time.monotonic()
    while (seen := look()) != wanted:
        assert time.monotonic() - started < WITHIN_S, seen
    return time.monotonic() - started


@pytest.mark.parametrize("way", ["mdns", "coap"])
def test_three_nodes_of_one_host_find_each_other_without_any_address(tmp_path: Path, way: str) -> None:
    with Namespaces() as hosts:
        inside = hosts.inside(hosts.add("alone"))
        options = ("--listen", "127.0.0.1:0", "--discovery", way)
        names = {"a", "b", "c"}
        made = [NodeProcess(name, tmp_path, *options, wrapper=inside) for name in sorted(names)]
        with running(made) as nodes:
            for node in nodes:
                others = {name: [way] for name in names - {node.name}}
                until(partial(found_by, inside, node), others)
            listed = collab(inside, "nodes", "--discovery", way)
            assert {entry["name"]: entry["state"] for entry in listed} == dict.fromkeys(names, "serving")
            assert all(entry["found"] == [way] and entry["rtt_ms"] > 0 for entry in listed)
            nodes[2].stop()
            if way == "mdns":
                until(lambda: set(found_by(inside, nodes[0])), {"b"})


@contextmanager
def broker(inside: Sequence[str], host: str, folder: Path) -> Iterator[str]:
    """A mosquitto within a namespace; its address."""
    configuration = folder / "mosquitto.conf"
    configuration.write_text("user root\n" + mosquitto_config(host=host, port=1883))
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen([*inside, program(), "-c", str(configuration)], stdout=log, stderr=log)
    try:
        run(*inside, "timeout", "10", "bash", "-c", f"until echo > /dev/tcp/{host}/1883; do sleep 0.05; done")
        yield f"mqtt://{host}:1883"
    finally:
        process.terminate()
        process.wait(10)


def test_two_hosts_that_multicast_does_not_join_find_each_other_through_a_broker(tmp_path: Path) -> None:
    with Namespaces() as hosts:
        homes = [hosts.add("one"), hosts.add("two")]
        middle = hosts.add("middle")
        for number, home in enumerate(homes, 1):
            hosts.join(home, f"10.77.{number}.2/24", middle, f"10.77.{number}.1/24")
            hosts.route(home, f"10.77.{number}.1")
            run("ip", "netns", "exec", home, "nft", "-f", "-", given=NO_MULTICAST)
        at_middle = hosts.inside(middle)
        run(*at_middle, "ip", "addr", "add", "10.77.0.1/32", "dev", "lo")
        with broker(at_middle, "10.77.0.1", tmp_path) as place:
            options = ("--no-listen", "--broker", place, "--discovery", "mdns,mqtt", *OPEN)
            made = [
                NodeProcess(f"n{number}", tmp_path, *options, wrapper=hosts.inside(home))
                for number, home in enumerate(homes, 1)
            ]
            with running(made) as nodes:
                until(lambda: found_by(at_middle, nodes[0], *OPEN), {"n2": ["mqtt"]})
                until(lambda: found_by(at_middle, nodes[1], *OPEN), {"n1": ["mqtt"]})
                ask = ("nodes", "--discovery", "mqtt", "--broker", place, *OPEN)
                listed = {entry["name"]: entry for entry in collab(at_middle, *ask)}
                assert {name: entry["state"] for name, entry in listed.items()} == {
                    "n1": "serving",
                    "n2": "serving",
                }
                assert listed["n1"]["found"] == ["mqtt"]
                # Its last will speaks for a node that cannot say good-bye.
                nodes[1].kill()
                until(lambda: found_by(at_middle, nodes[0], *OPEN), {})


SERVE = """
import asyncio, sys
from collab.discovery.directory_server import DirectoryServer

async def serve():
    server = DirectoryServer("127.0.0.1", 5683)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(serve())
"""


def test_nodes_find_each_other_through_a_directory_and_who_is_away_is_shown(tmp_path: Path) -> None:
    with Namespaces() as hosts:
        inside = hosts.inside(hosts.add("alone"))
        serving = subprocess.Popen(
            [*inside, sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline() == b"ready\n"
            place = "coap://127.0.0.1:5683"
            options = ("--listen", "127.0.0.1:0", "--discovery", "directory", "--directory", place)
            made = [NodeProcess(name, tmp_path, *options, wrapper=inside) for name in ("a", "b")]
            with running(made) as nodes:
                until(lambda: found_by(inside, nodes[0]), {"b": ["directory"]})
                nodes[1].kill()
                ask = ("nodes", "--discovery", "directory", "--directory", place)
                listed = {entry["name"]: entry for entry in collab(inside, *ask)}
                assert {name: entry["state"] for name, entry in listed.items()} == {
                    "a": "serving",
                    "b": "unreachable",
                }
                assert listed["b"]["reason"]
        finally:
            serving.communicate(timeout=10)
