"""A node's own view of itself: an operator's rights by a pipe within the process, and for nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from collab.assembly import build_cluster, build_node, own_cluster
from collab.core.ids import Digest, NodeName
from collab.errors import Refused
from collab.node.config import NodeConfig
from tests.identities import Identities

CONFIG = {"listen": ("127.0.0.1:0",), "discovery": ("none",)}
BLOB = b"a stage"


@pytest.fixture
def home(tmp_path: Path) -> Identities:
    return Identities(tmp_path).enrol("a").enrol("phone", role="client")


async def test_the_pipe_has_an_operators_rights_on_a_node_with_an_identity(home, tmp_path):
    config = NodeConfig(name="a", store=tmp_path / "store", **CONFIG)
    async with build_node(config, security=home.of("a")) as service:
        before = list(service.endpoints)
        async with own_cluster(service) as cluster:
            control = cluster.control(NodeName("a"))
            (view,) = (await cluster.describe()).values()
            assert view.name == "a"
            await control.epoch("Unload", "none", 1, Digest(""), "")
        assert service.endpoints == before, "nobody is told of it"
        assert "inproc" not in service.links.schemes


async def test_others_get_none_of_it(home, tmp_path):
    config = NodeConfig(name="a", store=tmp_path / "store", **CONFIG)
    async with build_node(config, security=home.of("a")) as service, own_cluster(service):
        async with build_cluster(security=home.of("phone", "client")) as stranger:
            await stranger.reach(service.endpoints)
            with pytest.raises(Refused, match="only operator may call it"):
                await stranger.control(NodeName("a")).epoch("Unload", "none", 1, Digest(""), "")


async def test_a_node_without_an_identity_has_it_too(tmp_path):
    config = NodeConfig(name="a", store=tmp_path / "store", **CONFIG)
    async with build_node(config) as service, own_cluster(service) as cluster:
        (view,) = (await cluster.describe()).values()
        assert view.name == "a"
