"""A real Prometheus scrapes a running cluster, and its own tool finds nothing to say."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from collab.coordinator.rollout import wanted
from tests.integration.deployments import assert_equal_answers, deployed_plan, endpoints
from tests.integration.models import Reference
from tests.integration.processes import ROOT, NodeProcess, environment, running
from tests.unit.coordinator.test_rollout import made

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(120)]

MONITORING = ROOT / "deployments" / "monitoring"
WAIT_S = 40.0


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None or shutil.which("prometheus") is None:
        pytest.skip("prometheus and promtool are not installed: apt-get install prometheus")
    return found


def check(promtool: str, *arguments: str, data: bytes | None = None) -> str:
    done = subprocess.run(
        [promtool, *arguments], cwd=MONITORING, input=data, capture_output=True, timeout=60, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_the_files_are_sound(promtool, arguments):
    assert "FAILED" not in check(promtool, *arguments)


def test_every_query_of_the_grafana_dashboard_is_one_for_prometheus(promtool, tmp_path):
    """Grafana puts in what is chosen on the page; its own program is in no package of Debian."""
    board = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    chosen = {"$__rate_interval": "1m", "$__range": "1h", "$plan": ".*", "$node": ".*"}
    rules = []
    for panel in board["panels"]:
        assert panel["type"] in ("stat", "timeseries", "table"), panel["title"]
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in chosen.items():
                query = query.replace(variable, value)
            assert "$" not in query, query
            rules.append({"record": f"panel_{panel['id']}_{target['refId']}", "expr": query})
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check(promtool, "check", "rules", str(file))


def test_a_controllers_page_is_sound_and_tells_of_its_rollouts(promtool, tmp_path):
    folder = made(tmp_path)
    wanted(folder, "abort", "ann")
    words = ("controller", "--insecure", "--rollout", str(folder.path), "--metrics", "0")
    command = [sys.executable, "-m", "collab", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stderr is not None
        try:
            place = process.stderr.readline().decode().removeprefix("metrics are at ").strip()
            until = time.monotonic() + WAIT_S
            while b'collab_rollout_phase{phase="aborted"' not in (page := urlopen(place, timeout=10).read()):
                assert time.monotonic() < until, page
            check(promtool, "check", "metrics", data=page)
        finally:
            process.terminate()
    assert process.returncode == 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def ask(port: int, query: str) -> list[dict[str, Any]]:
    """What Prometheus answers to a query; nothing while it starts."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}", timeout=5) as reply:
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
            return found
    except (URLError, ConnectionError, OSError):
        return []


def settings(folder: Path, nodes: list[NodeProcess]) -> Path:
    """The files that are shipped, with these nodes for targets and more haste."""
    shutil.copytree(MONITORING, folder / "monitoring")
    places = [node.events[0]["metrics"].split("/")[2] for node in nodes]
    entries = [
        {"targets": [place], "labels": {"node": node.name}} for place, node in zip(places, nodes, strict=True)
    ]
    (folder / "monitoring" / "targets" / "nodes.yml").write_text(json.dumps(entries))
    file = folder / "monitoring" / "prometheus.yml"
    text = file.read_text("utf-8").replace(" 15s", " 1s").replace("scrape_timeout: 10s", "scrape_timeout: 1s")
    file.write_text(text, "utf-8")
    return file


@contextmanager
def prometheus(folder: Path, nodes: list[NodeProcess]) -> Iterator[int]:
    """One that scrapes the nodes; its port."""
    port, log = free_port(), folder / "prometheus.log"
    options = [
        f"--config.file={settings(folder, nodes)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(log, "wb") as file:
        server = subprocess.Popen(["prometheus", *options], stdout=file, stderr=file)
    try:
        yield port
    finally:
        server.terminate()
        server.wait(20)


def look(promtool: str, folder: Path, nodes: list[NodeProcess], plan: str, asked: int) -> None:
    """Scrape by hand and check; then have Prometheus scrape, and ask it."""
    for node in nodes:
        with urlopen(node.events[0]["metrics"], timeout=10) as reply:
            check(promtool, "check", "metrics", data=reply.read())
    with prometheus(folder, nodes) as port:
        query = f'sum(collab_requests_total{{plan="{plan}",outcome="ok"}})'
        until = time.monotonic() + WAIT_S
        while not (answers := ask(port, query)) or len(ask(port, 'up{job="collab"} == 1')) < 2:
            assert time.monotonic() < until, (folder / "prometheus.log").read_text(errors="replace")
            time.sleep(0.2)
        assert [answer["value"][1] for answer in answers] == [str(asked)]
        peers = ask(port, 'collab_link_up{node="a",peer="b"}')
        assert [peer["value"][1] for peer in peers] == ["1"]


@pytest.fixture(scope="module")
def digits() -> Reference:
    return Reference.of("digits")


async def test_a_running_cluster_is_scraped(promtool, digits, tmp_path):
    nodes = [NodeProcess(name, tmp_path, "--metrics", "0") for name in "ab"]
    with running(nodes):
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        async with deployed_plan(plan, blobs) as opened:
            asked = len(await assert_equal_answers(opened.client, digits))
            await asyncio.to_thread(look, promtool, tmp_path, nodes, plan.name, asked)
