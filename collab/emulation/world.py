"""One run in virtual time: hosts, links, nodes and clients of a scenario, around one clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from collab.client.policy import RetryPolicy
from collab.core.ids import EdgeId, NodeName
from collab.core.token import Kind, Token
from collab.emulation.askers import Asker, Resolved
from collab.emulation.assembled import AssembledLinks
from collab.emulation.base import stream
from collab.emulation.build import shape_of
from collab.emulation.clock import Clock
from collab.emulation.costs import FRAMING, StackCosts, edge_costs, run_spread, stage_times
from collab.emulation.machines import EPOCH, DigestedPlan, Loop, SimulatedNode
from collab.emulation.models.direction import Direction
from collab.emulation.network import Leg, NetworkLink
from collab.emulation.paths import FairGate, Path, Pipe
from collab.emulation.plans import Field, Placed
from collab.emulation.profile import LinkProfile
from collab.emulation.streams import Stream
from collab.emulation.traces import Trace
from collab.errors import ConfigError
from collab.link.suspicion import Health
from collab.node.leases import Lease

_Item = tuple[NodeName, NodeName, int, Token]
"""Who sends it, who gets it, its size and what it is."""
_BROKER_US: Final = 30.0
"""What a message costs in the broker."""


class World:
    """Everything of one plan in one repetition."""

    def __init__(
        self, field: Field, placed: Placed, seed: int, resolved: Resolved, traces: Mapping[str, Trace]
    ) -> None:
        scenario = field.scenario
        self.clock = Clock()
        self.field, self.plan, self.seed = field, DigestedPlan.of(placed.plan), seed
        self._machines = scenario.machines
        self._stack: StackCosts = field.stack
        self._framing = FRAMING[scenario.cluster.transport]
        # Its process; a node may be on the same host.
        self._broker = f"{scenario.cluster.broker}/" if scenario.cluster.broker else ""
        self._escalated = placed.escalated
        self._doubt = stream(seed, "doubt")
        self._guards = {EdgeId(i): e.guard for i, e in enumerate(placed.plan.edges) if e.guard is not None}
        self._guarded = [
            [edge for edge in placed.plan.edges_from(stage.id) if edge in self._guards]
            for stage in placed.plan.stages
        ]
        self.pipes: dict[Leg, Pipe] = {}
        self._build_links(traces)
        self._streams: dict[tuple[str, str], Stream] = {}
        self._loops: dict[str, Loop] = {}
        self._edges = edge_costs(placed.plan, field.base, self._stack)
        self.broken: set[frozenset[str]] = set()
        """Pairs of nodes and clients without a link."""
        self.suspected: set[frozenset[str]] = set()
        """Pairs whose link is open and silent."""
        self.nodes = {ref.name: self._node(ref.name) for ref in placed.plan.nodes}
        self.askers = self._askers(resolved)
        self.processes: dict[str, SimulatedNode | Asker] = {str(n): node for n, node in self.nodes.items()}
        self.processes |= {asker.name: asker for asker in self.askers}

    # --- set-up ------------------------------------------------------------------------

    def _build_links(self, traces: Mapping[str, Trace]) -> None:
        self._assembled = AssembledLinks(self.field.network, self.seed, traces)
        gates = {id(cell): FairGate(self.clock, cell) for cell in self._assembled.fair_cells().values()}
        cells = self._assembled.fair_cells()
        for leg, (direction, usual_us) in self._directions(self.field.network.links).items():
            gate = gates[id(cells[leg])] if leg in cells else None
            self.pipes[leg] = Pipe(str(leg), direction, usual_us, gate)

    def _directions(self, links: Sequence[NetworkLink]) -> dict[Leg, tuple[Direction, float]]:
        """The model of each leg, and the median delay of its small packets."""
        models = self._assembled.models()
        medians: dict[int, tuple[float, float]] = {}
        found = {}
        for link in links:
            known = medians.get(id(link.profile))
            if known is None:
                up, down = (shape_of(part)(0.5) for part in (link.profile.up, link.profile.down))
                known = medians[id(link.profile)] = (up, down)
            for leg, usual_us in zip(
                (Leg(link.one, link.other), Leg(link.other, link.one)), known, strict=True
            ):
                direction = models[leg]
                assert isinstance(direction, Direction)
                found[leg] = (direction, usual_us)
        return found

    def change_link(self, link: NetworkLink, profile: LinkProfile, cut: bool) -> None:
        """A link is another from now on; what waits in it stays there."""
        self._assembled.change(link.one, link.other, profile)
        changed = NetworkLink(link.one, link.other, profile, link.cell)
        for leg, (direction, usual_us) in self._directions((changed,)).items():
            self.pipes[leg].set(direction, usual_us)
            self.pipes[leg].cut = cut

    def _node(self, name: NodeName) -> SimulatedNode:
        field, host = self.field, self._machines[name]
        return SimulatedNode(
            name,
            self.plan,
            stage_times(self.plan, field.base, field.devices[name]),
            clock=self.clock,
            loop=self._loop(name),
            cores=host.cores,
            transmit=self.transmit,
            skips=self._skips,
            longer=run_spread(field.devices[name], field.scenario.noise, stream(self.seed, "compute", name)),
        )

    def _askers(self, resolved: Resolved) -> tuple[Asker, ...]:
        scenario = self.field.scenario
        hosts = scenario.requesters
        most = getattr(scenario.workload, "concurrency", scenario.cluster.credits)
        retry = RetryPolicy(max_attempts=scenario.cluster.attempts, hedge=scenario.cluster.hedge)
        return tuple(
            Asker(
                NodeName(f"@{host}"),
                host,
                self.plan,
                clock=self.clock,
                loop=self._loop(host),
                transmit=self.transmit,
                lend=self._lend,
                resolved=resolved,
                retry=retry,
                chance=stream(self.seed, "requester", host),
                credits=most,
            )
            for host in hosts
        )

    def _loop(self, host: str) -> Loop:
        """Every process has one of its own; a quota slows it down."""
        cpu = self._machines[host].cpu
        return Loop(self.clock, max(1.0, 1.0 / cpu) if cpu is not None else 1.0, self._stack.idle_us / 2)

    # --- links between processes -------------------------------------------------------

    def transmit(self, source: NodeName, target: NodeName, token: Token) -> Health | None:
        """Hand a token to the link of two processes; see `Transmit`."""
        health = Health.ALIVE
        if self.broken or self.suspected:
            pair = frozenset((source, target))
            if pair in self.broken:
                return None
            if pair in self.suspected:
                health = Health.SUSPECTED
        edge = self._edges[token.edge]
        value = token.kind is Kind.VALUE
        size = edge.value_bytes if value else edge.plain_bytes
        item = (source, target, size, token)
        cost_us = self._half_us(size) + (edge.encode_us if value else 0.0)
        first = self._stream(source, self._broker or target)
        send = partial(self._came, item) if first is None else partial(first.send, size, item)
        self.processes[source].loop.take(cost_us, send)
        return health

    def _half_us(self, size: int) -> float:
        return (self._stack.message_us + self._stack.byte_us * size) / 2

    def _stream(self, source: str, target: str) -> Stream | None:
        """The connection of two processes, or with the broker; None within one host."""
        key = (source, target)
        known = self._streams.get(key)
        if known is not None:
            return known
        near, far = source.strip("@/"), target.strip("@/")
        if near == far and not self._broker:
            return None
        deliver = self._relay if target == self._broker else self._came
        made = Stream(self.clock, self._path(near, far), self._path(far, near), self._framing, deliver)
        self._streams[key] = made
        return made

    def _path(self, source: str, target: str) -> Path:
        way = self.field.way(source, target)
        if way is None:
            raise ConfigError(
                f"links: {source!r} cannot reach {target!r}; join them by a link or a junction "
                "(hosts hand nothing on)"
            )
        return Path(self.clock, [self.pipes[leg] for leg in way])

    def _relay(self, item: _Item) -> None:
        """The broker hands a message on."""
        onward = self._stream(self._broker, item[1])
        assert onward is not None
        self.clock.at(self.clock.now_us + _BROKER_US, onward.send, item[2], item)

    def _came(self, item: _Item) -> None:
        source, target, size, token = item
        process = self.processes[target]
        decode_us = self._edges[token.edge].decode_us if token.kind is Kind.VALUE else 0.0
        process.loop.take(self._half_us(size) + decode_us, partial(process.receive, source, token))

    def reset(self, one: str, other: str) -> None:
        """What is under way between two processes is gone."""
        for key in ((one, other), (other, one)):
            if key in self._streams:
                self._streams[key].reset()

    # --- what nodes and clients ask for ------------------------------------------------

    def _lend(self, node: NodeName, requester: NodeName, want: int, short: bool) -> Lease | None:
        """Control calls take no time here."""
        process = self.nodes[node]
        if process.down or process.loop.frozen or frozenset((node, requester)) in self.broken:
            return None
        if any(self.pipes[leg].cut for leg in self.field.way(requester.strip("@"), node) or ()):
            return None
        return process.session.lease(self.plan.name, EPOCH, requester, want, self.clock.now_us, short)

    def _skips(self, stage: int) -> frozenset[EdgeId]:
        """Edges whose guard says no: one draw decides for all guards of a stage."""
        guarded = self._guarded[stage]
        if not guarded:
            return frozenset()
        unsure = self._doubt.random() < self._escalated
        skipped = set()
        for edge in guarded:
            guard = self._guards[edge]
            if guard.measure != "finite":
                low = (guard.when == "below") != (guard.measure == "entropy")
                if low != unsure:
                    skipped.add(edge)
        return frozenset(skipped)
