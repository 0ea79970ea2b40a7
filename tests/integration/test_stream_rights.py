"""What a node may ask as its streams: plans that have one of its sources, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collab.assembly import build_cluster, transports
from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.core.streams import SinkRef, SourceRef, StreamSpec
from collab.core.validate import validate
from collab.errors import Refused
from collab.link.hello import Identity
from collab.link.link import Handler
from collab.link.links import Links
from collab.security.identity import Credentials
from tests.identities import Identities
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, running
from tests.integration.test_streams import lines, until


def as_streams(security: Credentials) -> Cluster:
    """A cluster as a node sees it for its streams."""
    name = NodeName(f"{security.principal.name}~stream")

    def make_links(handler: Handler) -> Links:
        return Links(
            Identity(name, "node"), transports(name=name, security=security), handler, security=security
        )

    return Cluster(make_links)


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path).enrol("a", "b").enrol("ops", role="operator")


@pytest.fixture
def nodes(tmp_path: Path, identities: Identities, digits: Reference) -> Iterator[list[NodeProcess]]:
    """Nodes with certificates; a has a folder with one request."""
    inbox, settings = tmp_path / "inbox", tmp_path / "a.toml"
    inbox.mkdir()
    np.savez(inbox / "x.npz", **digits.requests[0])
    settings.write_text(
        f"""
[sources.inbox]
kind = "folder"
path = "{inbox}"

[sinks.log]
kind = "jsonl"
path = "{tmp_path / "answers.jsonl"}"
""",
        encoding="utf-8",
    )
    # Two streams of one plan ask side by side.
    again = tmp_path / "again"
    again.mkdir()
    (again / "y.npz").write_bytes((inbox / "x.npz").read_bytes())
    with settings.open("a", encoding="utf-8") as file:
        file.write(f'[sources.again]\nkind = "folder"\npath = "{again}"\n')
    options = {"a": ("--config", str(settings)), "b": ()}
    made = [
        NodeProcess(name, tmp_path, *more, "--identity", str(identities.directory(name)))
        for name, more in options.items()
    ]
    with running(made) as started:
        yield started


async def test_a_node_asks_for_its_streams_with_its_own_certificate_and_for_nothing_else(
    tmp_path: Path, identities: Identities, nodes: list[NodeProcess], digits: Reference
):
    plain, blobs = digits.chain([10], [["b"], ["b"]], endpoints(nodes), name="plain")
    made, more = digits.chain([10], [["b"], ["b"]], endpoints(nodes), name="seen")
    sinks = (SinkRef(name="log"),)
    streams = tuple(
        StreamSpec(id=name, source=SourceRef(node=NodeName("a"), name=source), sinks=sinks, policy="queue:4")
        for name, source in (("x", "inbox"), ("y", "again"))
    )
    refs = tuple(NodeRef(name=node.name, endpoints=(node.endpoint,)) for node in nodes)
    seen = validate(made.replace(nodes=refs, streams=streams))
    async with build_cluster(security=identities.of("ops", "operator")) as cluster:
        await deploy(cluster, plain, blobs)
        await deploy(cluster, seen, more)
    log = tmp_path / "answers.jsonl"
    answers = await asyncio.to_thread(until, lambda: (found := lines(log)) and len(found) == 2 and found)
    assert {answer["input"]: answer["stream"] for answer in answers} == {"x.npz": "seen/x", "y.npz": "seen/y"}
    ((name, want),) = digits.expected[0].items()
    for answer in answers:
        assert answer["outputs"] == {name: want.tolist()}

    async with as_streams(identities.of("a")) as cluster:
        control = await reach(cluster, nodes[1])
        assert (await control.call("GetPlan", pb.GetPlanRequest(plan="seen"))).epoch == 1
        assert (await control.call("Lease", pb.LeaseRequest(plan="seen", epoch=1, want=1))).granted == 1
        for verb, request, text in (
            (
                "Lease",
                pb.LeaseRequest(plan="plain", epoch=1, want=1),
                "plan 'plain' has no stream of node 'a'",
            ),
            ("GetPlan", pb.GetPlanRequest(plan="plain"), "plan 'plain' has no stream of node 'a'"),
            ("Status", pb.StatusRequest(), "is a stream; only"),
            ("Drain", pb.DrainRequest(), "is a stream; only"),
        ):
            with pytest.raises(Refused, match=text):
                await control.call(verb, request)
    async with as_streams(identities.of("b")) as cluster:
        control = await reach(cluster, nodes[0])
        with pytest.raises(Refused, match="plan 'seen' has no stream of node 'b'"):
            await control.call("GetPlan", pb.GetPlanRequest(plan="seen"))


async def reach(cluster: Cluster, node: NodeProcess) -> Control:
    """The verbs of a node."""
    (name,) = await cluster.reach([node.endpoint])
    return cluster.control(name)
