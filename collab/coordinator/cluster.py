"""The nodes that a coordinator reaches, and what they say of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from collab.client.budget import RetryBudget
from collab.client.control import Control
from collab.client.failover import LadderClient
from collab.client.follow import FetchPlan, Follower, Opened
from collab.client.hub import ClientHub
from collab.client.local import LocalModel
from collab.client.metrics import RequesterMetrics
from collab.client.participant import Participant
from collab.client.policy import RetryPolicy
from collab.client.runner import PlanClient
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.errors import CollabError, NotLoaded, PeerError, PeerUnreachable, UsageError
from collab.link.link import Handler, Link
from collab.link.links import Links
from collab.runtime.base import RuntimeClass
from collab.transport.aio import timeout
from collab.transport.base import Security

if TYPE_CHECKING:
    from collab.telemetry.export import Tracer

MakeLinks = Callable[[Handler], Links]

_LINK_WAIT_S = 2.0
"""How long opening a plan waits for links of its own transports; without them others carry its tokens."""


@dataclass(frozen=True)
class NodeView:
    """One node as it described itself."""

    name: NodeName
    address: str
    """Where it was reached."""
    description: pb.DescribeReply
    rtt_ms: float

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where others can dial it: what it says, else where it was reached."""
        return tuple(self.description.endpoints) or (self.address,)

    @property
    def ref(self) -> NodeRef:
        """The node as plans name it."""
        return NodeRef(name=self.name, endpoints=self.endpoints)

    @property
    def runtime_class(self) -> str:
        """The class within which results are bit-identical, as one line."""
        rc = self.description.runtime_class
        return str(RuntimeClass(rc.backend, rc.version, rc.machine, tuple(rc.cpu_features), rc.delegate))

    def epoch_of(self, plan: PlanName) -> tuple[Epoch, Digest] | None:
        """The current epoch of a plan on this node."""
        serving = [p for p in self.description.plans if p.plan == plan and p.state == "serving"]
        if not serving:
            return None
        latest = max(serving, key=lambda p: p.epoch)
        return Epoch(latest.epoch), Digest(latest.digest)

    def holds(self, plan: PlanName) -> list[Epoch]:
        """Every epoch of a plan that is loaded on this node, in whatever state."""
        return [Epoch(p.epoch) for p in self.description.plans if p.plan == plan and p.state != "unloaded"]

    def alternatives_of(self, primary: PlanName) -> list[tuple[PlanName, Epoch]]:
        """Every epoch on this node of a plan that stands in for another."""
        return [
            (PlanName(p.plan), Epoch(p.epoch))
            for p in self.description.plans
            if p.primary == primary and p.state != "unloaded"
        ]

    def last_epoch(self, plan: PlanName) -> Epoch:
        """The largest epoch of a plan that this node remembers; 0 if none."""
        return Epoch(max((p.epoch for p in self.description.plans if p.plan == plan), default=0))


class Cluster:
    """Links from this process to nodes.  Use as an asynchronous context manager."""

    def __init__(self, make_links: MakeLinks) -> None:
        self.tracer: Tracer | None = None
        """Takes the spans of requests; set it before opening plans."""
        self.metrics: RequesterMetrics | None = None
        """Counts the requests of what `follow` makes; set it before."""
        self._hub = ClientHub()
        self.links = make_links(self._hub)
        self._hub.links = self.links
        self._clients: list[PlanClient] = []
        self._followers: list[Follower] = []

    @property
    def security(self) -> Security | None:
        """This end's identity; None without one."""
        return self.links.security

    async def __aenter__(self) -> Cluster:
        await self.links.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for follower in self._followers:
            await follower.close()
        for client in self._clients:
            await client.close()
        await self.links.__aexit__(None, None, None)

    # --- reaching ----------------------------------------------------------------

    async def reach(self, peers: Sequence[str]) -> list[NodeName]:
        """Dial addresses, each of which must answer; names in the order given.

        Raises `PeerUnreachable` naming all that did not, `UsageError` for none or two
        nodes of one name.
        """
        if not peers:
            raise UsageError("no peers: give --peers HOST:PORT,… or set COLLAB_PEERS")
        results = await asyncio.gather(*(self._dial(peer) for peer in peers), return_exceptions=True)
        failed = [str(result) for result in results if isinstance(result, PeerUnreachable)]
        if failed:
            raise PeerUnreachable("; ".join(failed))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        links = [result for result in results if isinstance(result, Link)]
        names = [link.peer.name for link in links]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two peers are named {name!r}; give each node its own --name")
        return names

    async def _dial(self, address: str) -> Link:
        return await self.links.connect(address)

    async def reach_plan(self, plan: Plan, names: Iterable[NodeName] | None = None) -> None:
        """Have links to a plan's nodes, by their last endpoints where there is none yet.

        Raises `PeerUnreachable` naming the first that cannot be reached.
        """
        endpoints = plan.endpoints()
        wanted = endpoints if names is None else names
        for name in wanted:
            if self.links.get(name) is None:
                await self.links.connect_any(endpoints.get(name, ()), name)

    def control(self, name: NodeName) -> Control:
        """A node's verbs; raises `PeerUnreachable` if there is no link to it."""
        link = self.links.get(name)
        if link is None:
            raise PeerUnreachable(f"node {name!r}: no link to it; is it running?")
        return Control(link)

    async def describe(self, names: Iterable[NodeName] | None = None) -> dict[NodeName, NodeView]:
        """Ask nodes what they are; all that are linked if no names are given."""
        wanted = dict.fromkeys(link.peer.name for link in self.links.all()) if names is None else list(names)
        controls = [self.control(name) for name in wanted]
        replies = await asyncio.gather(*(control.describe() for control in controls))
        return {
            control.name: NodeView(
                control.name, control.link.connection.address, reply, control.link.rtt_us / 1000
            )
            for control, reply in zip(controls, replies, strict=True)
        }

    # --- running -------------------------------------------------------------------

    async def deployed_epoch(self, plan: Plan) -> Epoch:
        """The epoch under which exactly this plan is current on all of its nodes that are linked.

        Raises `NotLoaded` naming the node that has something else, or nothing.
        """
        views = await self.describe(ref.name for ref in plan.nodes if self.links.get(ref.name))
        digest, epochs = plan.digest, set()
        for view in views.values():
            current = view.epoch_of(plan.name)
            if current is None:
                raise NotLoaded(
                    f"plan {plan.name!r} is not deployed on node {view.name!r}; run: collab deploy"
                )
            if current[1] != digest:
                raise NotLoaded(
                    f"node {view.name!r} runs another version of plan {plan.name!r} (epoch {current[0]}); "
                    "run: collab deploy"
                )
            epochs.add(current[0])
        if len(epochs) != 1:
            raise NotLoaded(
                f"plan {plan.name!r} has epochs {sorted(epochs)} on its nodes; run: collab deploy"
            )
        return epochs.pop()

    async def open(
        self,
        plan: Plan,
        credits: int = 1,
        retry: RetryPolicy = RetryPolicy(),
        budget: RetryBudget | None = None,
    ) -> PlanClient:
        """A client of a deployed plan alone with up to ``credits`` requests under way at a time.

        A node that cannot be reached is done without where every stage has another replica.
        Raises `PeerUnreachable`, `NotLoaded` or `Overloaded`.
        """
        missing = await self._reach_enough(plan)
        epoch = await self.deployed_epoch(plan)
        kinds = plan.requester_kinds()
        wanted: list[tuple[NodeName, str]] = []
        for ref in plan.nodes:
            link = self.links.get(ref.name)
            addresses = [link.connection.address] if link is not None and not ref.endpoints else ref.endpoints
            for kind in kinds.get(ref.name, {""}):
                kept = self.links.keep_peer(ref.name, addresses, kind)
                if ref.name not in missing:
                    wanted.append((ref.name, kept))
        client = PlanClient(self.links, plan, epoch, retry=retry, budget=budget, tracer=self.tracer)
        for name in missing:
            client.node_down(name)
        with suppress(TimeoutError, asyncio.TimeoutError):
            async with timeout(_LINK_WAIT_S):
                await asyncio.gather(*(self.links.wait_for(*link) for link in wanted))
        self._hub.add(client)
        try:
            await client.open(credits)
        except BaseException:
            self._hub.remove(client)
            raise
        self._clients.append(client)
        return client

    async def _reach_enough(self, plan: Plan) -> set[NodeName]:
        """Link to a plan's nodes; those that could not be reached and need not be."""
        missing: dict[NodeName, PeerError] = {}
        for ref in plan.nodes:
            try:
                await self.reach_plan(plan, [ref.name])
            except PeerError as error:
                missing[ref.name] = error
        for stage in plan.stages:
            if missing.keys() >= set(stage.nodes):
                raise missing[stage.nodes[0]]
        return set(missing)

    async def successor(self, known: Plan) -> Plan | None:
        """What the linked nodes run by now under a plan's name; None for the plan itself, or nothing."""
        found: list[tuple[Epoch, Plan]] = []
        for link in self.links.all():
            with suppress(CollabError):  # one that is going, or does not know the verb yet
                found.append(await Control(link).current_plan(known.name))
        latest = max(found, key=lambda entry: entry[0], default=None)
        return None if latest is None or latest[1].digest == known.digest else latest[1]

    async def follow(
        self,
        plan: Plan,
        fetch_plan: FetchPlan | None = None,
        credits: int = 1,
        retry: RetryPolicy = RetryPolicy(),
        local: LocalModel | None = None,
        *,
        same_model: bool = False,
    ) -> Follower:
        """As `climb`, and goes along when the plan is deployed anew, as ``fetch_plan`` gives it.

        Without that the nodes are asked.  With ``same_model`` it does not go to other weights, and
        takes no part in trials of them.
        """
        fetch_plan = fetch_plan or self.successor

        async def open_plan(current: Plan) -> Opened:
            # A local model answers for its own weights, and the transforms between them, alone.
            still = [m.sha256 for m in current.models] == [m.sha256 for m in plan.models]
            still = still and current.built_in == plan.built_in
            return await self.climb(current, credits, retry, local if still else None)

        # Who goes by the answers of one model gets those of no other.
        participant = None if same_model else Participant(self.links, self.open, self.release)
        follower = Follower(
            open_plan,
            self.let_go,
            fetch_plan,
            same_model=same_model,
            participant=participant,
            metrics=self.metrics,
        )
        self._followers.append(await follower.start(plan))
        return follower

    async def climb(
        self,
        plan: Plan,
        credits: int = 1,
        retry: RetryPolicy = RetryPolicy(),
        local: LocalModel | None = None,
    ) -> PlanClient | LadderClient:
        """As `open`, and goes to the plan's alternatives, then to a local model, when nodes are lost."""
        if not plan.alternatives and local is None:
            return await self.open(plan, credits, retry)
        endpoints = {name: places for one in plan.family for name, places in one.endpoints().items()}
        # All at once, so that one which is gone takes its time once.
        dialled = (
            self.links.connect_any(at, name) for name, at in endpoints.items() if not self.links.get(name)
        )
        await asyncio.gather(*dialled, return_exceptions=True)

        async def open_rung(one: Plan, policy: RetryPolicy, budget: RetryBudget) -> PlanClient:
            return await self.open(one, credits, policy, budget)

        return await LadderClient(plan, open_rung, self.release, retry, local, self.tracer).open()

    async def let_go(self, client: Opened) -> None:
        """Close what `climb` made."""
        if isinstance(client, PlanClient):
            await self.release(client)
        elif isinstance(client, LadderClient):
            await client.close()

    async def unfollow(self, follower: Follower) -> None:
        """Close what `follow` made."""
        self._followers.remove(follower)
        await follower.close()

    async def release(self, client: PlanClient) -> None:
        """Close a client that `open` made."""
        self._clients.remove(client)
        await client.close()
        self._hub.remove(client)
