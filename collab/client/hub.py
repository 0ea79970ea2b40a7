"""A client's end of its links: hands what arrives to the plans that it belongs to."""

from __future__ import annotations

from collab.client.runner import PlanClient
from collab.codec.envelope import EnvelopeLimits, decode_envelope
from collab.codec.verbs import DRAINING
from collab.codec.wire import Buffer
from collab.core.ids import Epoch, NodeName, PlanName
from collab.errors import CollabError, Refused, UsageError
from collab.link.link import Handler, Link, now_us
from collab.link.links import Links
from collab.link.suspicion import Health


class ClientHub(Handler):
    """The links' handler in a client; clients serve no calls."""

    def __init__(self, limits: EnvelopeLimits = EnvelopeLimits()) -> None:
        self._limits = limits
        self.links: Links | None = None
        self._clients: dict[tuple[PlanName, Epoch], PlanClient] = {}
        self._draining: set[NodeName] = set()

    def add(self, client: PlanClient) -> None:
        """Hand a plan's answers to a client from now on; raises `UsageError` for a second client of it."""
        key = (client.plan.name, client.epoch)
        if key in self._clients:
            raise UsageError(
                f"plan {key[0]!r} epoch {key[1]} is open in this process already; share its client"
            )
        self._clients[key] = client
        for name in self._draining:
            client.node_draining(name, True)

    def remove(self, client: PlanClient) -> None:
        """Forget a client; later answers are dropped."""
        self._clients.pop((client.plan.name, client.epoch), None)

    def link_up(self, link: Link) -> None:
        """A node can be reached; if it drains, it says so again."""
        self._drains(link.peer.name, False)
        self._node_up(link.peer.name)

    def _node_up(self, name: NodeName) -> None:
        for client in self._clients.values():
            client.node_up(name)

    def _drains(self, name: NodeName, draining: bool) -> None:
        (self._draining.add if draining else self._draining.discard)(name)
        for client in self._clients.values():
            client.node_draining(name, draining)

    def link_down(self, link: Link, error: CollabError) -> None:
        """A link ended; its node is lost unless another link to it is well."""
        if self.links is not None and self._suspects(link.peer.name):
            for client in tuple(self._clients.values()):
                client.node_down(link.peer.name)

    def link_suspected(self, link: Link) -> None:
        """A node is silent: others are chosen from now on, unless another link to it is well."""
        if self._suspects(link.peer.name):
            for client in tuple(self._clients.values()):
                client.node_down(link.peer.name)

    def link_recovered(self, link: Link) -> None:
        """A suspected node was heard again."""
        self._node_up(link.peer.name)

    def awaits(self, link: Link) -> bool:
        """Whether a request is under way that the node may hold."""
        return any(client.awaits(link.peer.name) for client in self._clients.values())

    def _suspects(self, name: NodeName) -> bool:
        link = None if self.links is None else self.links.get(name)
        return link is None or link.health is Health.SUSPECTED

    def tensors(self, link: Link, message: Buffer) -> None:
        """An envelope arrived."""
        now = now_us()
        token = decode_envelope(message, now, link.rtt_us // 2, self._limits)
        client = self._clients.get((token.key.plan, token.key.epoch))
        if client is not None:
            client.receive(link.peer.name, token, now)

    async def call(self, link: Link, verb: str, body: memoryview) -> bytes:
        """Hear that a node drains; clients serve no other verbs."""
        if verb == DRAINING:
            self._drains(link.peer.name, True)
            return b""
        raise Refused(f"{verb}: this is a client; it serves no verbs of nodes")
