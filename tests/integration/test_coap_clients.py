"""Foreign CoAP clients read a node and run plans on it: libcoap's coap-client, and aiocoap."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiocoap
import numpy as np
import pytest

from collab.assembly import build_cluster
from collab.coordinator.deploy import deploy
from tests.identities import Identities
from tests.integration.models import Reference
from tests.integration.processes import ROOT, NodeProcess, running
from tests.integration.processes import environment as clean

pytestmark = pytest.mark.timeout(90)

REMEDY = "install libcoap's client (Debian, Ubuntu: apt-get install libcoap3-bin)"


def coap(variant: str, *arguments: object, code: int = 0) -> str:
    """Run ``coap-client-VARIANT``; what it prints."""
    program = shutil.which(f"coap-client-{variant}")
    assert program is not None, REMEDY
    done = subprocess.run(
        [program, "-B", "8", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


class Scene(NamedTuple):
    """A node that serves CoAP clients, and a chain over it and another one."""

    udp: str
    tcp: str
    folder: Path


async def _deploy(digits: Reference, nodes: list[NodeProcess], name: str, security: Any = None) -> None:
    endpoints = {node.name: node.endpoint for node in nodes}
    plan, blobs = digits.chain([12], list(endpoints), endpoints, name=name)
    async with build_cluster(security=security) as cluster:
        await deploy(cluster, plan, blobs)


@pytest.fixture(scope="module")
def scene(digits: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("coap")
    with running([NodeProcess("a", folder, "--coap", "127.0.0.1:0"), NodeProcess("b", folder)]) as nodes:
        asyncio.run(_deploy(digits, nodes, "digits"))
        udp, tcp = nodes[0].events[0]["coap"]
        yield Scene(udp, tcp, folder)


def raw_input(digits: Reference, folder: Path) -> tuple[Path, bytes]:
    """One image as a file, and the bytes of the whole model's answer."""
    (given,), (expected,) = digits.requests[0].values(), digits.expected[0].values()
    path = folder / "image.bin"
    path.write_bytes(np.ascontiguousarray(given).tobytes())
    return path, expected.tobytes()


@pytest.mark.parametrize("over", ["udp", "tcp"])
def test_a_foreign_client_reads_what_a_node_is(scene, over):
    at = getattr(scene, over)
    listed = coap("notls", "-m", "get", f"{at}/.well-known/core")
    assert '</node>;rt="collab.node"' in listed
    assert "/plans" in listed
    node = json.loads(coap("notls", "-m", "get", f"{at}/node"))
    assert (node["name"], node["state"]) == ("a", "serving")
    (plan,) = json.loads(coap("notls", "-m", "get", f"{at}/plans"))
    described = json.loads(coap("notls", "-m", "get", f"{at}{plan['href']}"))
    assert [(i["name"], i["shape"]) for i in described["inputs"]] == [("image", [1, 28, 28, 1])]


@pytest.mark.parametrize("over", ["udp", "tcp"])
def test_a_foreign_client_runs_a_model_and_gets_the_whole_models_bytes(scene, digits, over):
    image, expected = raw_input(digits, scene.folder)
    answer = scene.folder / f"answer-{over}.bin"
    uri = f"{getattr(scene, over)}/plans/digits/run"
    coap("notls", "-m", "post", "-t", "application/octet-stream", "-f", image, "-o", answer, uri)
    assert answer.read_bytes() == expected


async def test_a_job_is_observed_until_its_answer_is_there(scene, digits):
    image, expected = await asyncio.to_thread(raw_input, digits, scene.folder)
    body = await asyncio.to_thread(image.read_bytes)
    context = await aiocoap.Context.create_client_context()
    try:
        post = aiocoap.Message(
            code=aiocoap.POST, uri=f"{scene.udp}/plans/digits/jobs", payload=body, content_format=42
        )
        made = await asyncio.wait_for(context.request(post).response, 20)
        assert made.code == aiocoap.CREATED, made.payload
        watch = aiocoap.Message(
            code=aiocoap.GET, uri=f"{scene.udp}/" + "/".join(made.opt.location_path), observe=0
        )
        request = context.request(watch)

        async def answer() -> bytes:
            first = await request.response
            if first.payload == expected:
                return bytes(first.payload)
            async for notification in request.observation:
                if notification.payload == expected:
                    return bytes(notification.payload)
            raise AssertionError(first)

        assert await asyncio.wait_for(answer(), 20) == expected
    finally:
        await context.shutdown()


@pytest.mark.parametrize(
    ("path", "said"),
    [("/nothing", "4.04"), ("/plans/other", "4.04"), ("/plans/digits/run", "4.05")],
)
def test_what_is_not_there_is_refused_by_name(scene, path, said):
    program = shutil.which("coap-client-notls")
    assert program is not None, REMEDY
    done = subprocess.run(
        [program, "-B", "8", "-m", "get", scene.udp + path],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert said in done.stdout + done.stderr


def test_a_body_of_the_wrong_size_is_refused_and_the_node_serves_on(scene, digits):
    short = scene.folder / "short.bin"
    short.write_bytes(b"\0" * 100)
    said = coap("notls", "-m", "post", "-t", "42", "-f", short, f"{scene.udp}/plans/digits/run")
    image, expected = raw_input(digits, scene.folder)
    answer = scene.folder / "after.bin"
    coap("notls", "-m", "post", "-t", "42", "-f", image, "-o", answer, f"{scene.udp}/plans/digits/run")
    assert answer.read_bytes() == expected
    assert said == "" or "3136" in said or "bytes" in said


# --- with certificates ------------------------------------------------------------------


class Secured(NamedTuple):
    """A node that serves CoAP clients with certificates."""

    at: str
    identities: Identities
    folder: Path


@pytest.fixture(scope="module")
def secured(digits: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("coaps")
    identities = Identities(folder).enrol("op", role="operator").enrol("phone", role="client")
    identity = ("--identity", str(identities.directory("a")))
    with running([NodeProcess("a", folder, *identity, "--coap", "127.0.0.1:0")]) as nodes:
        asyncio.run(_deploy_alone(digits, nodes[0], identities))
        (at,) = nodes[0].events[0]["coap"]
        yield Secured(at, identities, folder)


async def _deploy_alone(digits: Reference, node: NodeProcess, identities: Identities) -> None:
    plan, blobs = digits.chain([], ["a"], {"a": node.endpoint})
    async with build_cluster(security=identities.of("op")) as cluster:
        await deploy(cluster, plan, blobs)


def identity(directory: Path) -> tuple[object, ...]:
    """Options of coap-client-openssl for an identity."""
    files = (directory / name for name in ("certificate.pem", "key.pem", "authority.pem"))
    certificate, key, authority = files
    return ("-c", certificate, "-j", key, "-C", authority)


def test_a_client_with_a_certificate_reads_and_runs_over_tls(secured, digits):
    phone = identity(secured.identities.directory("phone", "client"))
    assert json.loads(coap("openssl", *phone, "-m", "get", f"{secured.at}/node"))["name"] == "a"
    image, expected = raw_input(digits, secured.folder)
    answer = secured.folder / "answer.bin"
    post = ("-m", "post", "-t", "42", "-f", image, "-o", answer, f"{secured.at}/plans/digits/run")
    said = coap("openssl", *phone, *post)
    assert answer.exists(), said
    assert answer.read_bytes() == expected


def test_a_client_with_another_authoritys_certificate_or_none_gets_nothing(secured, tmp_path):
    stranger = Identities(tmp_path).directory("phone", "client")
    for options in (identity(stranger), ()):
        program = shutil.which("coap-client-openssl")
        assert program is not None, REMEDY
        done = subprocess.run(
            [program, "-B", "3", *map(str, options), "-m", "get", f"{secured.at}/node"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "serving" not in done.stdout


def test_a_node_that_serves_no_coap_clients_does_not_load_the_library():
    code = (
        "import sys, collab.cli.node, collab.assembly, collab.node.service; print('aiocoap' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean(),
        cwd=ROOT,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "False"
