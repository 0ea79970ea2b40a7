"""Those who connect and say nothing do not keep the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.half_open import CLIENT_HELLO, COUNT, HalfOpen, interleaved
from collab.assembly import build_cluster
from tests.identities import Identities
from tests.integration.processes import NodeProcess, collab
from tests.integration.test_enrolment import started

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow, pytest.mark.timed]

GENEROUS = 5.0
"""Times the latency; what is aimed at is 2, which the benchmark measures without company."""
MOST_BYTES = 128 << 20
"""Three thousand connections come and go in a test; what gRPC's TLS takes for each is not ours to choose."""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Identities]]:
    folder = tmp_path_factory.mktemp("secured")
    identities = Identities(folder).enrol("n").enrol("op", role="operator")
    listen = "127.0.0.1:0,coaps+tcp://127.0.0.1:0"
    options = ("--identity", str(identities.directory("n")), "--listen", listen)
    with NodeProcess("n", folder, *options) as node:
        yield node, identities


@pytest.mark.parametrize("said", [b"", CLIENT_HELLO], ids=["silence", "half a ClientHello"])
@pytest.mark.parametrize("scheme", ["grpc", "coaps+tcp"])
async def test_a_secured_node_serves_on_beside_a_thousand_half_open_connections(secured, scheme, said):
    node, identities = secured
    at = {endpoint.partition(":")[0]: endpoint for endpoint in node.events[0]["endpoints"]}
    operator = identities.of("op")
    async with build_cluster(security=operator) as cluster:
        (name,) = await cluster.reach([at["grpc"]])
        ask = cluster.control(name).describe
        held = node.resident_bytes
        without, within = await interleaved(ask, lambda: HalfOpen(at[scheme], said), 3, 30)
        assert within / without < GENEROUS, (within, without)
        async with HalfOpen(at[scheme], said) as crowd, build_cluster(security=operator) as other:
            assert crowd.connected == COUNT
            (name,) = await other.reach([at[scheme]])
            assert (await other.control(name).describe()).name == "n"
        assert node.resident_bytes - held < MOST_BYTES
        assert (await ask()).name == "n"


async def test_devices_enrol_beside_a_thousand_half_open_connections(tmp_path: Path):
    own = {"XDG_CONFIG_HOME": str(tmp_path / "own")}
    device = {"XDG_CONFIG_HOME": str(tmp_path / "device")}
    await asyncio.to_thread(collab, "cluster", "init", "lab", env=own)
    serving = started("controller", "--listen", "127.0.0.1:0", "--json", env=own)
    _, ready = await asyncio.to_thread(serving.__enter__)
    try:
        invite = ("cluster", "invite", "n", "--no-serve", "--address", ready["address"], "--json")
        token = (await asyncio.to_thread(collab, *invite, env=own)).json["token"]
        async with HalfOpen(f"tls://{ready['address']}", b""):
            await asyncio.to_thread(collab, "cluster", "join", token, env=device)
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)
