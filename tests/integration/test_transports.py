"""The same answers over every transport, alone and mixed in one plan, and through a broker's restart."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from collab.assembly import build_cluster
from collab.coordinator.deploy import deploy
from collab.core.ids import NodeName
from collab.core.plan import NodeRef, Plan
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, running
from tests.mosquitto import Mosquitto, mosquitto

pytestmark = pytest.mark.timeout(120)

NAMES = "abc"
KINDS = ("grpc", "mqtt", "mqtt-qos0", "mqtt-qos2", "coap+tcp", "coap+udp")
MIXED = ("mqtt", "coap+tcp", "grpc", "coap+udp")


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with mosquitto() as made:
        yield made


@pytest.fixture(scope="module")
def nodes(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Three nodes that can be reached by every transport."""
    folder = tmp_path_factory.mktemp("transports")
    listen = f"127.0.0.1:0,coap+tcp://127.0.0.1:0,coap+udp://127.0.0.1:0,mqtt://127.0.0.1:{broker.port}"
    with running([NodeProcess(name, folder, "--listen", listen) for name in NAMES]) as made:
        yield made


def carried(nodes: list[NodeProcess]) -> dict[str, int]:
    """Bytes that nodes have sent to nodes so far, by transport."""
    status = collab("status", "--peers", ",".join(node.place for node in nodes), "--json").json
    sent: dict[str, int] = {}
    for node in status["nodes"]:
        for peer in node["peers"]:
            if peer["name"] in NAMES:
                sent[peer["transport"]] = sent.get(peer["transport"], 0) + peer["sent_bytes"]
    return sent


def over(plan: Plan, nodes: list[NodeProcess], transports: tuple[str, ...]) -> Plan:
    """The plan with a transport for each edge, and all addresses of the nodes."""
    refs = (NodeRef(name=NodeName(n.name), endpoints=tuple(n.events[0]["endpoints"])) for n in nodes)
    pairs = zip(plan.edges, transports, strict=True)
    edges = (msgspec.structs.replace(edge, transport=kind) for edge, kind in pairs)
    return plan.replace(nodes=tuple(refs), edges=tuple(edges))


async def answers(
    digits: Reference, nodes: list[NodeProcess], transports: tuple[str, ...], name: str
) -> None:
    """Deploy a chain over the transports given and compare every byte of its answers."""
    plan, blobs = digits.chain([6, 12], list(NAMES), {n.name: n.endpoint for n in nodes}, name=name)
    plan = over(plan, nodes, transports)
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, 4)
        results = await asyncio.gather(*(client.run(request) for request in digits.requests[:4]))
        assert all(digits.same(i, result.outputs) for i, result in enumerate(results))
        kinds = {link.kind for link in cluster.links.all()}
        assert {transports[0], transports[-1]} <= kinds


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_over_one_transport_are_the_whole_models(digits, nodes, kind):
    before = await asyncio.to_thread(carried, nodes)
    await answers(digits, nodes, (kind,) * 4, f"over-{kind.replace('+', '-')}")
    after = await asyncio.to_thread(carried, nodes)
    grown = {name: size - before.get(name, 0) for name, size in after.items()}
    # Boundaries of hundreds of kilobytes went over this transport and no other.
    assert grown.pop(kind) > 500_000
    assert sum(size for size in grown.values() if size > 0) < 100_000


async def test_answers_of_a_plan_that_mixes_all_are_the_whole_models(digits, nodes):
    before = await asyncio.to_thread(carried, nodes)
    await answers(digits, nodes, MIXED, "mixed")
    after = await asyncio.to_thread(carried, nodes)
    for kind in MIXED[1:3]:
        assert after[kind] - before.get(kind, 0) > 200_000, kind


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("kind", ["mqtt", "mqtt-qos0"])
async def test_no_request_is_lost_or_answered_twice_when_the_broker_restarts(digits, tmp_path, kind, how):
    with mosquitto() as broker:
        at = f"mqtt://127.0.0.1:{broker.port}"
        listen = ("--listen", f"127.0.0.1:0,{at}")
        made = [NodeProcess(name, tmp_path, *listen) for name in NAMES]
        started = running(made)
        nodes = await asyncio.to_thread(started.__enter__)
        try:
            await _through_a_restart(digits, nodes, broker, kind, how)
        finally:
            await asyncio.to_thread(started.__exit__, None, None, None)


async def _through_a_restart(digits, nodes, broker: Mosquitto, kind: str, how: signal.Signals) -> None:
    plan, blobs = digits.chain([6, 12], list(NAMES), {n.name: n.endpoint for n in nodes}, name="restart")
    plan = over(plan, nodes, (kind,) * 4)
    done = restarted_at = 0
    restarting: asyncio.Task[None] | None = None

    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, 4)

        async def work(worker: int) -> None:
            nonlocal done, restarting, restarted_at
            for turn in range(60):
                index = (worker * 7 + turn) % len(digits.requests)
                result = await client.run(digits.requests[index], 60.0)
                assert digits.same(index, result.outputs)
                done += 1
                if done == 60:
                    restarted_at = done
                    restarting = asyncio.ensure_future(broker.restarted(how))

        await asyncio.gather(*(work(worker) for worker in range(4)))
        assert restarting is not None
        await restarting
    assert done == 240
    assert 0 < restarted_at < done


def test_the_demo_runs_over_a_mix_of_transports(tmp_path: Path):
    report = collab("demo", "--transport", "mixed", "--images", "40", "--json").json
    assert report["equal"] is True
    assert report["transports"] == ["mqtt", "coap+tcp", "grpc", "coap+udp"]
