"""What a client's requests are told of the links to their nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from collab.client.hub import ClientHub
from collab.codec.verbs import DRAINING
from collab.errors import LinkLost, Refused
from collab.link.suspicion import Health


@dataclass
class Requests:
    """Stands for the client of a plan."""

    name: str
    waits_for: str = ""
    epoch: int = 1
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def plan(self) -> Any:
        return SimpleNamespace(name=self.name)

    def node_up(self, node: str) -> None:
        self.told.append(("up", node))

    def node_down(self, node: str) -> None:
        self.told.append(("down", node))

    def node_draining(self, node: str, draining: bool) -> None:
        if draining or ("draining", node) in self.told:
            self.told.append(("draining" if draining else "serving", node))

    def awaits(self, node: str) -> bool:
        return node == self.waits_for


def link(name: str, health: Health = Health.ALIVE) -> Any:
    return SimpleNamespace(peer=SimpleNamespace(name=name), health=health)


def hub(best: Any, *clients: Requests) -> ClientHub:
    """One whose links find ``best`` for every node."""
    made = ClientHub()
    made.links = SimpleNamespace(get=lambda name: best)  # type: ignore[assignment]
    for client in clients:
        made.add(client)
    return made


def test_a_suspected_node_is_lost_to_all_requests_and_back_when_it_is_heard():
    clients, suspect = (Requests("p"), Requests("q")), link("b", Health.SUSPECTED)
    made = hub(suspect, *clients)
    made.link_suspected(suspect)
    made.link_recovered(suspect)
    for client in clients:
        assert client.told == [("down", "b"), ("up", "b")]


def test_a_node_with_another_link_that_is_well_is_not_lost():
    client, suspect = Requests("p"), link("b", Health.SUSPECTED)
    made = hub(link("b"), client)
    made.link_suspected(suspect)
    made.link_down(suspect, LinkLost("gone"))
    assert client.told == []


def test_a_node_whose_last_good_link_ends_is_lost_though_a_suspected_one_is_left():
    client = Requests("p")
    hub(link("b", Health.SUSPECTED), client).link_down(link("b", Health.DEAD), LinkLost("gone"))
    assert client.told == [("down", "b")]


def test_a_link_is_waited_on_while_a_request_may_be_in_its_node():
    made = hub(None, Requests("p"), Requests("q", waits_for="b"))
    assert made.awaits(link("b"))
    assert not made.awaits(link("a"))


async def test_a_node_that_drains_is_avoided_by_all_clients_until_it_is_linked_anew():
    early, late = Requests("p"), Requests("q")
    made = hub(link("b"), early)
    assert await made.call(link("b"), DRAINING, memoryview(b"")) == b""
    made.add(late)
    made.link_recovered(link("b"))
    assert early.told == [("draining", "b"), ("up", "b")]
    assert late.told == [("draining", "b"), ("up", "b")]
    made.link_up(link("b"))
    assert early.told[2:] == [("serving", "b"), ("up", "b")]


async def test_clients_serve_no_verbs_of_nodes():
    with pytest.raises(Refused, match="Describe: this is a client"):
        await ClientHub().call(link("b"), "Describe", memoryview(b""))
