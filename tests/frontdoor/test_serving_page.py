"""``collab serve --dashboard``: the page beside the protocol, with the same keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from collab.security.api_keys import add_api_key
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command
from tests.integration.serving import ServeProcess, bring_up, plan_file

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(120)]

SEEN_S = 20.0
ROLES = ("viewer", "inference", "operator")


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def door(
    trio: list[NodeProcess], digits: Reference, tmp_path_factory: pytest.TempPathFactory, keys: dict[str, str]
) -> Iterator[ServeProcess]:
    folder: Path = tmp_path_factory.mktemp("page")
    plan, blobs = digits.chain([10], ["a", "b"], endpoints(trio))
    asyncio.run(bring_up(plan, blobs))
    for role in ROLES:
        keys[role] = add_api_key(folder / "keys.txt", f"a-{role}", role)
    options = ("--api-keys", str(folder / "keys.txt"), "--dashboard")
    with ServeProcess(folder, [plan_file(folder, plan)], *options) as server:
        yield server


@contextmanager
def signed_in(door: ServeProcess, key: str) -> Iterator[httpx.Client]:
    """A browser's client, as somebody."""
    with httpx.Client(base_url=door.rest, timeout=SEEN_S, headers={"origin": door.rest}) as client:
        made = client.post("/session", json={"key": key})
        assert made.status_code == 200, made.text
        client.headers["x-collab-token"] = made.json()["token"]
        yield client


def test_the_protocols_paths_stay_its_own_and_take_keys_and_no_cookie(
    door: ServeProcess, keys: dict[str, str]
) -> None:
    bearer = {"authorization": f"Bearer {keys['viewer']}"}
    with signed_in(door, keys["operator"]) as client:
        for path in ("/v2", "/v2/", "/v2/models/digits", "/openapi.json", "/v1/files/digits", "/metrics"):
            told = client.get(path)
            assert (told.status_code, "error" in told.json()) == (401, True), path
            assert "content-security-policy" not in told.headers
        loaded = client.post("/v2/repository/models/digits/unload")
        assert loaded.status_code == 401
    with httpx.Client(base_url=door.rest) as client:
        assert client.get("/v2", headers=bearer).json()["name"] == "collab"
        assert client.get("/v2/health/live").status_code == 200
        page = client.get("/")
        assert "text/html" in page.headers["content-type"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert client.get("/session").json() == {"sign_in": True}
        assert client.get("/state").status_code == 401
        assert client.get("/v3").status_code == 404


@pytest.mark.parametrize("role", ROLES)
def test_who_may_act_is_decided_by_the_keys_role(door: ServeProcess, keys: dict[str, str], role: str) -> None:
    with signed_in(door, keys[role]) as client:
        until = time.monotonic() + SEEN_S
        while "plan:digits" not in client.get("/state").json()["set"]:
            assert time.monotonic() < until
        told = client.post("/actions/undo", json={"target": "digits"})
        if role == "operator":
            assert "no version before" in told.json()["error"]["message"]
        else:
            assert (told.status_code, "needs the role operator" in told.text) == (403, True)
        del client.headers["x-collab-token"]
        assert client.post("/actions/undo", json={"target": "digits"}).status_code == 403


def test_a_stream_does_not_hold_up_the_servers_end(
    trio: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    plan, blobs = digits.chain([10], ["a", "b"], endpoints(trio))
    asyncio.run(bring_up(plan, blobs))
    with (
        ServeProcess(tmp_path, [plan_file(tmp_path, plan)], "--dashboard") as server,
        httpx.Client(base_url=server.rest, timeout=SEEN_S) as client,
    ):
        assert client.get("/session").json()["role"] == "operator"
        with client.stream("GET", "/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.terminate()
            for _ in lines:
                pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dashboard", "--listen", "none"), "--listen HOST:PORT"),
        (("--runs", "runs"), "give --dashboard as well"),
    ],
)
def test_a_page_that_would_be_nowhere_is_refused(
    digits: Reference, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    plan, _ = digits.chain([10], ["a", "b"], {"a": "127.0.0.1:1", "b": "127.0.0.1:2"})
    done = command("serve", plan_file(tmp_path, plan), *options)
    assert (done.code, said in done.errors[-1]) == (2, True), done
