"""``collab dashboard`` over real nodes, without a browser: what it knows, what it does, how it ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.frontdoor.browsing import Dashboard
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, peers, running
from tests.integration.serving import bring_up, plan_file

SEEN_S = 20.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    with running([NodeProcess(name, tmp_path) for name in "ab"]) as nodes:
        yield nodes


def test_it_knows_nodes_links_and_plans_and_drains_and_streams_end_with_it(
    pair: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    plan, blobs = digits.chain([10], ["a", "b"], endpoints(pair))
    asyncio.run(bring_up(plan, blobs))
    file = plan_file(tmp_path, plan)
    with (
        httpx.Client(timeout=SEEN_S) as client,
        Dashboard(tmp_path, file, "--peers", peers(pair)) as dashboard,
    ):
        token = client.get(f"{dashboard.url}session").json()["token"]
        known = state_with(client, dashboard.url, "node:a", "node:b", "plan:digits", "link:a|b|grpc")
        assert [stage["nodes"] for stage in known["plan:digits"]["stages"]] == [["a"], ["b"]]
        headers = {"Origin": dashboard.url.rstrip("/"), "X-Collab-Token": token}
        done = client.post(f"{dashboard.url}actions/drain", headers=headers, json={"target": "a"})
        assert done.json() == {"said": "node a: it drains, 0 requests under way"}
        wrong = client.post(f"{dashboard.url}actions/drain", headers=headers, json={"target": "nobody"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (502, "unreachable")
        with client.stream("GET", f"{dashboard.url}events") as stream:
            lines = stream.iter_lines()
            for line in lines:
                if line.startswith("data:"):
                    states = {
                        v["name"]: v["state"] for k, v in json.loads(line[5:])["set"].items() if "node:" in k
                    }
                    if states.get("a") == "draining":
                        break
            dashboard.stop()
            for _ in lines:
                pass


def state_with(client: httpx.Client, url: str, *keys: str) -> dict[str, dict]:
    """What the page knows, once it knows these."""
    deadline = time.monotonic() + SEEN_S
    while True:
        known: dict[str, dict] = client.get(f"{url}state").json()["set"]
        if set(keys) <= set(known):
            return known
        assert time.monotonic() < deadline, known
