"""A node's own view of itself: an operator's rights by a pipe within the process, and for nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from collab.assembly import build_cluster, build_node, own_cluster
from collab.coordinator.cluster import Cluster
from collab.core.ids import Digest, NodeName
from collab.errors import Refused
from collab.node.config import NodeConfig
from collab.security.identity import Credentials
from tests.identities import Identities


@pytest.fixture
def home(tmp_path: Path) -> Identities:
    return Identities(tmp_path).enrol("a").enrol("phone", role="client")


def node(folder: Path) -> NodeConfig:
    return NodeConfig(name="a", store=folder / "store", listen=("127.0.0.1:0",), discovery=("none",))


async def unload(cluster: Cluster) -> None:
    """Something that operators may do."""
    await cluster.control(NodeName("a")).epoch("Unload", "none", 1, Digest(""), "")


@pytest.mark.parametrize("secured", [True, False])
def test_the_pipe_has_an_operators_rights_and_nobody_is_told_of_it(home, tmp_path, secured):
    async def scene(security: Credentials | None) -> None:
        async with build_node(node(tmp_path), security=security) as service:
            before = list(service.endpoints)
            async with own_cluster(service) as cluster:
                (view,) = (await cluster.describe()).values()
                assert view.name == "a"
                await unload(cluster)
                assert service.endpoints == before
                assert "inproc" not in service.links.schemes
                # A look at certificates must not end a link that has none to show.
                service.links.recheck()
                await unload(cluster)

    asyncio.run(scene(home.of("a") if secured else None))


def test_others_get_none_of_it(home, tmp_path):
    async def scene() -> None:
        async with (
            build_node(node(tmp_path), security=home.of("a")) as service,
            own_cluster(service),
            build_cluster(security=home.of("phone", "client")) as stranger,
        ):
            await stranger.reach(service.endpoints)
            with pytest.raises(Refused, match="only operator may call it"):
                await unload(stranger)

    asyncio.run(scene())
