"""The dataflow of one node, without I/O: tokens and results in, actions out.

The caller performs the actions in their order.  Times are integers of microseconds on
one monotonic clock that the caller reads.  Nothing here looks into a payload, and
nothing a peer sends makes a method raise; what cannot be used is dropped, counted in
`Session.counters`, and answered where the protocol says so.  The rules and their
reasons are in ``docs/adr/0003-dataflow-session.md``.
"""

from __future__ import annotations

from dataclasses import asdict

from collab.client.actions import Send
from collab.client.wheel import earliest
from collab.client.wiring import OUTSIDE, StageWiring
from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.core.token import Fault, Kind, Token
from collab.errors import LinkLost, NodeLost, NotLoaded, Overloaded, ProtocolError, Refused
from collab.node.actions import Action, Compute, Computed, Drop, Free, Work
from collab.node.attempts import AttemptState, Shelf
from collab.node.deployments import Deployments, LoadedPlan, PlanInfo, Version
from collab.node.flow import Expected, Flow, failed, unknown
from collab.node.lanes import Lanes
from collab.node.leases import Lease
from collab.node.limits import SessionLimits

__all__ = [
    "Action",
    "Compute",
    "Computed",
    "Drop",
    "Free",
    "Lease",
    "PlanInfo",
    "Send",
    "Session",
    "SessionLimits",
    "Version",
    "Work",
]

_ERROR, _CANCEL, _FAILED = Kind.ERROR, Kind.CANCEL, Kind.FAILED


class Session:
    """One node's part in every plan that it has loaded."""

    def __init__(
        self, node: NodeName, limits: SessionLimits = SessionLimits(), expected: Expected = unknown
    ) -> None:
        """``expected`` knows the queues of stages, for refusing what they could not do in time."""
        self.node = node
        self.draining = False
        self._deployments = Deployments(node, limits)
        self._flow = Flow(node, limits, expected)
        self._attempts = self._flow.attempts
        self._counters = self._flow.counters

    # --- deployments ---------------------------------------------------------

    def reserve(self, plan: Plan, epoch: Epoch, holder: str, now_us: int, expected: Version | None) -> None:
        """Reserve a valid plan's name for one deployment.

        Done again by the same holder for the same version, it renews the reservation.

        Raises:
            Conflict: another holder has a live reservation, the committed version is not
                ``expected``, or the epoch is not above every committed one.
            PlanError: the plan has no use for this node.
            Refused: this node is draining.
            LimitExceeded: too many plans.
        """
        if self.draining:
            raise Refused(f"node {self.node!r} is draining; deploy without it")
        self._deployments.reserve(plan, epoch, holder, now_us, expected)

    def prepare(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str, now_us: int) -> list[Action]:
        """Take tokens of what was reserved from now on; `commit` opens it to requesters.

        The caller has loaded its stages, in place of any that had the same epoch.  Raises
        `Conflict` if the reservation is gone, `LimitExceeded` if too much is loaded.
        """
        if self.current(plan) == (epoch, digest):
            return []
        self._deployments.reserved(plan, epoch, digest, holder, now_us)
        actions = self._drop_stale(plan, now_us)
        self._deployments.prepare(plan, epoch, digest, holder, now_us)
        return [action for action in actions if action != Free(plan, epoch)]

    def commit(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str, now_us: int) -> None:
        """Make what was prepared current and open it to requesters; does nothing if it is current.

        Raises `Conflict` if somebody else took the reservation, or it was not prepared.
        """
        self._deployments.commit(plan, epoch, digest, holder)

    def abort(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str, now_us: int) -> list[Action]:
        """Give up a deployment that is not committed; does nothing if there is none of this holder."""
        self._deployments.abort(plan, epoch, digest, holder)
        return self._drop_stale(plan, now_us)

    def reserved(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str, now_us: int) -> Plan:
        """The plan that was reserved, for loading its stages before `prepare`; renews the reservation.

        Raises `Conflict` if the reservation is gone.
        """
        return self._deployments.reserved(plan, epoch, digest, holder, now_us)

    def restore(self, plan: Plan, epoch: Epoch, now_us: int) -> None:
        """Load and commit at once what was current before the node restarted; raises as `reserve` does."""
        holder, digest = f"@{self.node}", plan.digest
        self._deployments.reserve(plan, epoch, holder, now_us, None)
        self._deployments.prepare(plan.name, epoch, digest, holder, now_us)
        self._deployments.commit(plan.name, epoch, digest, holder)

    def remember(self, plan: PlanName, epoch: Epoch, now_us: int) -> None:
        """Let no later deployment of a plan have an epoch that was here, though it is not loaded."""
        self._deployments.remember(plan, epoch, now_us)

    def retire(self, plan: PlanName, epoch: Epoch) -> None:
        """Admit no new attempts of an epoch; what is in flight goes on. Raises `NotLoaded`."""
        self._deployments.retire(plan, epoch)

    def unload(self, plan: PlanName, epoch: Epoch, now_us: int) -> list[Action]:
        """Drop an epoch and end what is in flight of it with ``not_loaded``.

        Does nothing if it is not loaded.
        """
        actions: list[Action] = []
        if self._deployments.find(plan, epoch) is None:
            return actions
        message = f"plan {plan!r} epoch {epoch} was unloaded"
        for state in self._attempts.of(plan, epoch):
            self._flow.end(state, NotLoaded.code, message, now_us, actions)
            self._attempts.forget(state)
        self._deployments.unload(plan, epoch)
        actions.append(Free(plan, epoch))
        return actions

    def loaded(self, plan: PlanName, epoch: Epoch) -> bool:
        """Whether tokens of an epoch are taken here."""
        return self._deployments.find(plan, epoch) is not None

    def epochs(self, plan: PlanName) -> tuple[Epoch, ...]:
        """Loaded epochs of a plan, oldest first."""
        return self._deployments.epochs(plan)

    def plans(self) -> list[PlanInfo]:
        """All loaded epochs, and the last one of each plan of which none is loaded any more."""
        return self._deployments.plans()

    def current(self, plan: PlanName) -> Version | None:
        """Epoch and digest that were committed last."""
        return self._deployments.current(plan)

    def _drop_stale(self, plan: PlanName, now_us: int) -> list[Action]:
        stale = self._deployments.stale(plan)
        return [action for epoch in stale for action in self.unload(plan, epoch, now_us)]

    # --- admission -----------------------------------------------------------

    def lease(
        self,
        plan: PlanName,
        epoch: Epoch,
        requester: NodeName,
        want: int,
        now_us: int,
        short: bool = False,
    ) -> Lease:
        """Make ``want`` the requester's credits, as far as that is fair to others: it may get 0.

        Asking again renews the lease; ``short`` says that the last one was not enough.  Raises
        `NotLoaded` where attempts of that epoch do not enter.
        """
        loaded = self._deployments.find(plan, epoch)
        if loaded is None or not loaded.committed:
            raise self._deployments.not_loaded(plan, epoch)
        if loaded.leases is None:
            nodes = ", ".join(loaded.wiring.stages[loaded.wiring.entry].nodes)
            raise NotLoaded(f"plan {plan!r} is entered on {nodes}, not on node {self.node!r}; ask there")
        closed = self.draining or loaded.retired
        return loaded.leases.ask(requester, 0 if closed else want, now_us, loaded.admitted, short=short)

    def release(self, plan: PlanName, epoch: Epoch, requester: NodeName) -> None:
        """Give a requester's credits back."""
        loaded = self._deployments.find(plan, epoch)
        if loaded is not None and loaded.leases is not None:
            loaded.leases.release(requester)

    def drain(self) -> None:
        """Admit no new attempts; what is in flight goes on."""
        self.draining = True

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped or refused so far, by the names in `Counters`."""
        return asdict(self._counters)

    @property
    def forged(self) -> int:
        """Tokens so far from somebody whom the plan does not place there."""
        return self._counters.forged

    @property
    def in_flight(self) -> int:
        """Attempts of which some stage waits or computes here."""
        return self._attempts.live

    @property
    def tombstones(self) -> int:
        """Attempts that are over here and still remembered."""
        return self._attempts.tombstones

    # --- tokens --------------------------------------------------------------

    def receive(self, peer: NodeName, token: Token, now_us: int) -> list[Action]:
        """Take a token that came over the link with ``peer``."""
        actions: list[Action] = []
        key, edge = token.key, token.edge
        state = self._attempts.get(key)
        loaded = state.loaded if state is not None else self._deployments.find(key.plan, key.epoch)
        if loaded is None:
            self._counters.not_loaded += 1
            error = self._deployments.not_loaded(key.plan, key.epoch)
            self._refuse(peer, token, error.code, str(error), "", actions)
            return actions
        if state is not None and (state.requester != token.requester or state.route != token.route):
            self._counters.forged += 1
            return actions
        lanes = state.lanes if state is not None else loaded.lanes(token.requester, token.route)
        lane = lanes.lane(edge) if lanes is not None else None
        if lanes is None or lane is None or _is_malformed(token, loaded):
            self._counters.malformed += 1
            message = f"plan {key.plan!r} epoch {key.epoch} has no such token of edge {edge} for this node"
            self._refuse(peer, token, ProtocolError.code, message, "", actions)
        elif peer != (lane.downstream if token.kind is _FAILED else lane.upstream):
            self._counters.forged += 1
        elif token.kind is _FAILED:
            self._failed(token, state, loaded, lanes, now_us, actions)
        elif lane.downstream is not None:
            actions.append(Send(lane.downstream, token))
        else:
            self._take(peer, token, state, loaded, lanes, now_us, actions)
        return actions

    def computed(self, work: Work, result: Computed | Fault, now_us: int) -> list[Action]:
        """Take the result of a `Compute`."""
        actions: list[Action] = []
        self._flow.finish(work, result, now_us, actions)
        return actions

    def peer_lost(self, peer: NodeName, now_us: int) -> list[Action]:
        """The link with a peer broke: what it still owes becomes an error.

        Of what it was given last nobody knows whether it arrived: the requester is told.
        """
        actions: list[Action] = []
        for state in self._attempts:
            if peer in state.lanes.neighbours:
                self._flow.lost(state, peer, now_us, actions)
        return actions

    def peer_suspected(self, peer: NodeName, now_us: int) -> list[Action]:
        """A peer is silent but its link is open: of what it was given the requester is told, once.

        The requester may have no link with it, or one that is well.  What the peer still owes
        may come yet.
        """
        actions: list[Action] = []
        for state in self._attempts:
            if peer in state.lanes.neighbours and now_us < state.deadline_us:
                self._flow.suspect(state, peer, _silent(peer, self.node), actions)
        return actions

    def doubtful(self, token: Token) -> list[Action]:
        """A token from a `Send` went to a suspected peer: it may be there or not, now or later."""
        actions: list[Action] = []
        loaded = self._deployments.find(token.key.plan, token.key.epoch)
        lanes = loaded.lanes(token.requester, token.route) if loaded is not None else None
        lane = lanes.lane(token.edge) if lanes is not None else None
        if loaded is None or lanes is None or lane is None or lane.downstream is None:
            return actions
        wire = loaded.wiring.edges[token.edge]
        if wire.target == OUTSIDE or token.kind is _CANCEL or token.kind is _FAILED:
            return actions  # the requester sees for itself whether it hears from its last node
        stage_id = loaded.wiring.stages[wire.target].id
        fault = Fault(LinkLost.code, _silent(lane.downstream, self.node), lane.downstream, stage_id)
        if lane.upstream is not None:
            actions.append(Send(lane.upstream, failed(token, token.edge, fault)))
        else:
            self._flow.fail(token, self._attempts.get(token.key), lanes, wire.source, fault, actions)
        return actions

    def undeliverable(self, token: Token, now_us: int) -> list[Action]:
        """A token from a `Send` could certainly not be handed over: tell the requester, upstream."""
        actions: list[Action] = []
        self._counters.undeliverable += 1
        loaded = self._deployments.find(token.key.plan, token.key.epoch)
        lanes = loaded.lanes(token.requester, token.route) if loaded is not None else None
        lane = lanes.lane(token.edge) if lanes is not None else None
        if loaded is None or lanes is None or lane is None or token.kind is _CANCEL:
            return actions
        if token.kind is _FAILED:
            self._detour(token, loaded, lanes, actions)
            return actions
        wire = loaded.wiring.edges[token.edge]
        if wire.target == OUTSIDE:
            stage_id, culprit = loaded.wiring.stages[wire.source].id, self.node
        else:
            stage_id, culprit = loaded.wiring.stages[wire.target].id, lane.downstream or self.node
        message = f"node {self.node!r} cannot reach {lane.downstream!r}"
        fault = Fault(NodeLost.code, message, culprit, stage_id)
        if lane.upstream is not None:
            actions.append(Send(lane.upstream, failed(token, token.edge, fault)))
            return actions
        state = self._attempts.get(token.key)
        self._flow.fail(token, state, lanes, wire.source, fault, actions)
        if state is not None:
            self._flow.run(state, now_us, actions)
        return actions

    # --- time ----------------------------------------------------------------

    def tick(self, now_us: int) -> list[Action]:
        """Do what has fallen due; call it at `next_wakeup_us`, or whenever convenient."""
        actions: list[Action] = []
        for state in self._attempts.expired(now_us):
            self._flow.expire(state, now_us, actions)
        for state, stage in self._flow.waits.due(now_us):
            self._flow.patience_ended(state, stage, now_us, actions)
        self._attempts.bury(now_us)
        return actions

    def next_wakeup_us(self) -> int | None:
        """When `tick` has something to do; None if never."""
        return earliest(self._attempts.next_us(), self._flow.waits.next_us())

    # --- what tokens have to pass --------------------------------------------

    def _take(
        self,
        peer: NodeName,
        token: Token,
        state: AttemptState | None,
        loaded: LoadedPlan,
        lanes: Lanes,
        now_us: int,
        actions: list[Action],
    ) -> None:
        """A token for a stage on this node: admit the attempt if need be, and go on."""
        enters = token.edge == loaded.wiring.admission_edge
        if token.kind is _CANCEL:
            state = state or self._attempts.open(token, loaded, lanes, now_us)
            self._flow.cancel(state, loaded.wiring.edges[token.edge].target, actions)
            self._flow.run(state, now_us, actions)
            return
        if enters or state is None or state.shelf is not Shelf.LIVE:
            if state is not None and self._flow.is_over(state, token):
                return
            stage = loaded.wiring.stages[loaded.wiring.edges[token.edge].target]
            fault = self._refusal(token, stage, state, loaded, enters, now_us)
            if fault is not None:
                actions.append(Send(peer, failed(token, token.edge, fault)))
                return
            state = state or self._attempts.open(token, loaded, lanes, now_us)
            if enters:
                self._attempts.admit(state)
                if loaded.leases is not None:
                    in_flight = loaded.admitted.get(state.requester, 0) + (state.shelf is not Shelf.LIVE)
                    loaded.leases.used(state.requester, in_flight, now_us)
        self._flow.deliver(state, token, now_us, actions)
        self._flow.run(state, now_us, actions)

    def _refusal(
        self,
        token: Token,
        stage: StageWiring,
        state: AttemptState | None,
        loaded: LoadedPlan,
        enters: bool,
        now_us: int,
    ) -> Fault | None:
        """Why there is no place for an attempt; one that is too late needs none."""
        if now_us >= token.deadline_us:
            return None
        if enters:
            if self.draining or loaded.retired:
                self._counters.retired += 1
                who = f"node {self.node!r} is draining" if self.draining else f"{loaded} is retired here"
                message = f"{who}; ask for the plan's current epoch and nodes"
                return Fault(NotLoaded.code, message, self.node, stage.id)
            granted = loaded.leases.granted(token.requester, now_us) if loaded.leases is not None else 0
            if loaded.admitted.get(token.requester, 0) >= granted:
                self._counters.no_lease += 1
                message = f"{loaded}: requester {token.requester!r} holds {granted} credits"
                return Fault(Overloaded.code, message, self.node, stage.id, granted)
            if token.kind is Kind.VALUE:
                hopeless = self._flow.hopeless(token, stage, token.deadline_us, now_us)
                if hopeless is not None:
                    return hopeless
        if state is None or state.shelf is not Shelf.LIVE:
            bound = self._attempts.full(loaded, token.requester)
            if bound is not None:
                self._counters.no_room += 1
                return Fault(Overloaded.code, f"{loaded}: {bound}", self.node, stage.id)
        return None

    def _refuse(
        self, peer: NodeName, token: Token, code: str, message: str, stage: str, actions: list[Action]
    ) -> None:
        """Send a token's failure back; cancels and failures themselves get no answer."""
        if token.kind is not _CANCEL and token.kind is not _FAILED:
            actions.append(Send(peer, failed(token, token.edge, Fault(code, message, self.node, stage))))

    # --- failures ------------------------------------------------------------

    def _failed(
        self,
        token: Token,
        state: AttemptState | None,
        loaded: LoadedPlan,
        lanes: Lanes,
        now_us: int,
        actions: list[Action],
    ) -> None:
        """A failure on its way to the requester."""
        lane = lanes.by_edge[token.edge]
        assert lane is not None
        assert token.fault is not None
        if lane.upstream is not None:
            actions.append(Send(lane.upstream, token))
            return
        self._flow.fail(token, state, lanes, loaded.wiring.edges[token.edge].source, token.fault, actions)
        if state is not None:
            self._flow.run(state, now_us, actions)

    def _detour(self, token: Token, loaded: LoadedPlan, lanes: Lanes, actions: list[Action]) -> None:
        """Try a failure that could not be handed over on the stage's next in-edge."""
        wire = loaded.wiring.edges[token.edge]
        if wire.target == OUTSIDE:
            return
        for edge in loaded.wiring.stages[wire.target].in_edges[wire.slot + 1 :]:
            lane = lanes.by_edge[edge]
            if lane is not None and lane.upstream is not None and lane.downstream is None and token.fault:
                actions.append(Send(lane.upstream, failed(token, edge, token.fault)))
                return


def _is_malformed(token: Token, loaded: LoadedPlan) -> bool:
    if token.fault is None and (token.kind is _ERROR or token.kind is _FAILED):
        return True
    return len(token.hops) > len(loaded.wiring.stages)


def _silent(peer: NodeName, node: NodeName) -> str:
    return f"node {peer!r} does not answer node {node!r}"
