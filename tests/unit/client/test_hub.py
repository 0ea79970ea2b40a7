"""What a client's requests are told of the links to their nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from collab.client.hub import ClientHub
from collab.errors import LinkLost
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
