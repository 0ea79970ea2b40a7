"""What tokens do to one attempt's stages on one node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from collab.client.actions import Send
from collab.client.wheel import Wheel
from collab.client.wiring import OUTSIDE, EdgeWiring, StageWiring
from collab.core.ids import REQUESTER, EdgeId, Epoch, NodeName, PlanName
from collab.core.token import Fault, Hop, Kind, Priority, Token
from collab.errors import DeadlineExceeded, LinkLost, NodeLost, Overloaded, StageFailed
from collab.node.actions import Action, Compute, Computed, Drop, Work
from collab.node.attempts import Attempts, AttemptState
from collab.node.join import Event, Join, Phase
from collab.node.lanes import Lanes
from collab.node.limits import Counters, SessionLimits

WAIT_GRAIN_US: Final = 100

_VALUE, _ABSENT, _ERROR, _CANCEL, _FAILED = Kind.VALUE, Kind.ABSENT, Kind.ERROR, Kind.CANCEL, Kind.FAILED


Expected = Callable[[PlanName, Epoch, int, Priority, NodeName], "int | None"]
"""How many µs a stage, by plan, epoch and index, would take for one more job of a class and requester,
with what it has to do before; None where it should simply be tried."""


def unknown(plan: PlanName, epoch: Epoch, stage: int, priority: Priority, requester: NodeName) -> int | None:
    """An `Expected` that has learned nothing."""
    return None


class Flow:
    """Moves attempts on; whoever calls ends each turn on an attempt with `run`.

    The caller has checked that the plan allows the tokens it brings.
    """

    def __init__(self, node: NodeName, limits: SessionLimits, expected: Expected) -> None:
        self.node = node
        self._expected = expected
        self.counters = Counters()
        self.attempts = Attempts(limits, self.counters)
        self.waits: Wheel[tuple[AttemptState, int]] = Wheel(WAIT_GRAIN_US)
        """Quorums that fire when their patience ends."""
        self._looped: deque[Token] = deque()
        """Tokens between two stages on this node, all of one attempt; empty between turns."""

    # --- tokens in -----------------------------------------------------------

    def is_over(self, state: AttemptState, token: Token) -> bool:
        """Whether the token comes too late or a second time; counts it if so."""
        wire = state.loaded.wiring.edges[token.edge]
        join = state.joins.get(wire.target)
        if join is not None and join.phase is Phase.WAITING:
            if join.tokens[wire.slot] is None:
                return False
            self.counters.duplicates += 1
            return True
        if join is None and not (state.closed or state.settled >> wire.target & 1):
            return False
        self.counters.late += 1
        return True

    def deliver(self, state: AttemptState, token: Token, now_us: int, actions: list[Action]) -> None:
        """Take a value, absent or error for a stage on this node."""
        if self.is_over(state, token):
            return
        wire = state.loaded.wiring.edges[token.edge]
        stage = state.loaded.wiring.stages[wire.target]
        if now_us >= token.deadline_us or now_us >= state.deadline_us:
            self.counters.expired += 1
            late = Fault(DeadlineExceeded.code, "the deadline passed on the way to it", self.node, stage.id)
            self._settle(state, stage, _ERROR, actions, fault=token.fault or late, hops=token.hops)
            return
        join = state.joins.get(wire.target)
        if join is None:
            join = state.joins[wire.target] = Join(stage)
        event = join.take(token, wire.slot, stage, now_us)
        first = stage.wait_us and join.values == 1 and join.last is token
        if first and event is Event.HOLD and join.fires_at_us < state.deadline_us:
            self.waits.add(join.fires_at_us, (state, stage.index))
        self._follow(state, stage, join, event, token.hops, now_us, actions)

    def patience_ended(self, state: AttemptState, index: int, now_us: int, actions: list[Action]) -> None:
        """A quorum need not wait for the rest any longer."""
        join = state.joins.get(index)
        if join is not None and join.phase is Phase.WAITING:
            stage = state.loaded.wiring.stages[index]
            self._follow(state, stage, join, join.decide(stage, now_us), (), now_us, actions)

    def run(self, state: AttemptState, now_us: int, actions: list[Action]) -> None:
        """Deliver what loops back into this node until nothing is left, and file the attempt."""
        while self._looped:
            token = self._looped.popleft()
            if token.kind is _CANCEL:
                self.cancel(state, state.loaded.wiring.edges[token.edge].target, actions)
            else:
                self.deliver(state, token, now_us, actions)
        self.attempts.file(state)

    def _follow(
        self,
        state: AttemptState,
        stage: StageWiring,
        join: Join,
        event: Event,
        hops: tuple[Hop, ...],
        now_us: int,
        actions: list[Action],
    ) -> None:
        if event is Event.FIRE:
            why = self.hopeless(state, stage, state.deadline_us, now_us)
            if why is not None:
                join.step(Event.ERROR)
                self._settle(state, stage, _ERROR, actions, fault=why, hops=hops)
                return
        join.step(event)
        if event is Event.FIRE:
            plan = state.loaded.plan
            payloads = join.payloads(plan.edges[edge] for edge in stage.in_edges)
            inputs = tuple(zip(stage.in_edges, payloads, strict=True))
            self._stop_waiting(state, stage, join)
            join.tokens.clear()
            key, work = state.key, Work(state.key, stage.index)
            actions.append(
                Compute(
                    *(work, key.plan, key.epoch, work.stage, inputs, stage.out_edges, state.deadline_us),
                    *(state.priority, state.requester),
                )
            )
        elif event is Event.ABSENT:
            self._settle(state, stage, _ABSENT, actions, reason=join.first(_ABSENT).reason, hops=hops)
        elif event is Event.ERROR:
            self._settle(state, stage, _ERROR, actions, fault=join.first(_ERROR).fault, hops=hops)

    def hopeless(
        self, of: Token | AttemptState, stage: StageWiring, deadline_us: int, now_us: int
    ) -> Fault | None:
        """Why a stage need not begin with an attempt: it could not be done in time."""
        key = of.key
        expected_us = self._expected(key.plan, key.epoch, stage.index, of.priority, of.requester)
        if expected_us is None or now_us + expected_us <= deadline_us:
            return None
        self.counters.hopeless += 1
        message = (
            f"node {self.node!r}, stage {stage.id!r}: with its queue it would take {expected_us / 1000:.0f} "
            f"ms, and {(deadline_us - now_us) / 1000:.0f} ms of the deadline are left"
        )
        return Fault(Overloaded.code, message, self.node, stage.id)

    # --- tokens out ----------------------------------------------------------

    def finish(self, work: Work, result: Computed | Fault, now_us: int, actions: list[Action]) -> None:
        """Send a stage's result on."""
        state = self.attempts.get(work.key)
        join = state.joins.get(work.stage) if state is not None else None
        if state is None or join is None or join.phase is not Phase.COMPUTING or join.last is None:
            self.counters.late += 1
            return
        stage = state.loaded.wiring.stages[work.stage]
        hops = join.last.hops
        if now_us >= state.deadline_us:
            self.counters.expired += 1
            result = Fault(DeadlineExceeded.code, "the deadline passed while it computed")
        if isinstance(result, Fault):
            join.step(Event.ERROR)
            named = result if result.node else Fault(result.code, result.message, self.node, stage.id)
            self._settle(state, stage, _ERROR, actions, fault=named, hops=hops)
        else:
            join.step(Event.RESULT)
            self._emit_result(state, stage, result, (*hops, result.hop), actions)
        self.run(state, now_us, actions)

    def _emit_result(
        self,
        state: AttemptState,
        stage: StageWiring,
        result: Computed,
        hops: tuple[Hop, ...],
        actions: list[Action],
    ) -> None:
        del state.joins[stage.index]
        state.settled |= 1 << stage.index
        for edge in stage.out_edges:
            if edge in result.skipped:
                self._emit(state, edge, _ABSENT, actions, reason="guard", hops=hops)
            elif edge in result.payloads:
                self._emit(state, edge, _VALUE, actions, payload=result.payloads[edge], hops=hops)
            else:
                fault = Fault(StageFailed.code, f"it made nothing for edge {edge}", self.node, stage.id)
                self._emit(state, edge, _ERROR, actions, fault=fault, hops=hops)

    def _settle(
        self,
        state: AttemptState,
        stage: StageWiring,
        kind: Kind,
        actions: list[Action],
        fault: Fault | None = None,
        reason: str = "",
        hops: tuple[Hop, ...] = (),
    ) -> None:
        """End a stage without a value: the same token on every out-edge."""
        join = state.joins.pop(stage.index, None)
        if join is not None:
            self._stop_waiting(state, stage, join)
        state.settled |= 1 << stage.index
        for edge in stage.out_edges:
            self._emit(state, edge, kind, actions, fault=fault, reason=reason, hops=hops)

    def _emit(
        self,
        state: AttemptState,
        edge: EdgeId,
        kind: Kind,
        actions: list[Action],
        payload: Any = None,
        fault: Fault | None = None,
        reason: str = "",
        hops: tuple[Hop, ...] = (),
    ) -> None:
        token = Token(
            state.key,
            edge,
            kind,
            state.requester,
            state.route,
            state.deadline_us,
            payload,
            fault,
            reason,
            hops,
            state.trace,
            priority=state.priority,
        )
        lane = state.lanes.by_edge[edge]
        if lane is None or lane.downstream is None:
            self._looped.append(token)
        else:
            actions.append(Send(lane.downstream, token))

    def end(self, state: AttemptState, code: str, message: str, now_us: int, actions: list[Action]) -> None:
        """Settle every stage that waits or computes with an error."""
        for index in list(state.joins):
            join = state.joins.get(index)
            if join is None:
                continue  # an error that looped back has settled it
            stage = state.loaded.wiring.stages[index]
            if join.phase is Phase.COMPUTING:
                actions.append(Drop(Work(state.key, index)))
            join.step(Event.ERROR)
            self._settle(state, stage, _ERROR, actions, fault=Fault(code, message, self.node, stage.id))
            self.run(state, now_us, actions)

    def expire(self, state: AttemptState, now_us: int, actions: list[Action]) -> None:
        """The deadline has passed."""
        self.counters.expired += len(state.joins)
        self.end(state, DeadlineExceeded.code, "the deadline passed before it was done", now_us, actions)

    # --- giving up -----------------------------------------------------------

    def cancel(self, state: AttemptState, index: int, actions: list[Action]) -> None:
        """Do nothing more for the attempt here, and pass the cancel on from a stage, once."""
        if state.passed >> index & 1:
            self.counters.duplicates += 1
            return
        state.passed |= 1 << index
        self._free(state, actions)
        wiring = state.loaded.wiring
        for edge in wiring.stages[index].out_edges:
            if wiring.edges[edge].target != OUTSIDE:
                self._emit(state, edge, _CANCEL, actions)

    def fail(
        self,
        like: Token | AttemptState,
        state: AttemptState | None,
        lanes: Lanes,
        index: int,
        fault: Fault,
        actions: list[Action],
    ) -> None:
        """Tell the requester, upstream from a stage on this node, that an edge cannot be served.

        Once for each node that fails; gives the attempt up here if there can be no answer
        without that node.  A broken link is only a suspicion: the token may have arrived.
        """
        if state is not None:
            named = fault.node if fault.node in lanes.nodes else self.node
            if named in state.failures:
                self.counters.duplicates += 1
                return
            state.failures |= {NodeName(named)}
            if fault.code != LinkLost.code and lanes.fatal(NodeName(fault.node)):
                self._free(state, actions)
        edge, peer = lanes.upstream(index)
        actions.append(Send(peer, failed(like, edge, fault)))

    def _free(self, state: AttemptState, actions: list[Action]) -> None:
        self.counters.cancelled += len(state.joins)
        for index, join in state.joins.items():
            if join.phase is Phase.COMPUTING:
                actions.append(Drop(Work(state.key, index)))
            self._stop_waiting(state, state.loaded.wiring.stages[index], join)
            join.step(Event.STOP)
        state.joins.clear()
        state.closed = True

    def _stop_waiting(self, state: AttemptState, stage: StageWiring, join: Join) -> None:
        if stage.wait_us and join.last is not None:
            self.waits.discard(join.fires_at_us, (state, stage.index))

    # --- lost peers ----------------------------------------------------------

    def lost(self, state: AttemptState, peer: NodeName, now_us: int, actions: list[Action]) -> None:
        """What a lost peer still owes becomes an error; what it was given is under suspicion."""
        if state.closed or now_us >= state.deadline_us:
            return
        wiring = state.loaded.wiring
        for index, lane in enumerate(state.lanes.by_edge):
            wire = wiring.edges[index]
            if lane is None:
                continue
            if lane.upstream == peer and lane.downstream is None and self._owed(state, wire):
                stage_id = wiring.stages[wire.source].id if wire.source != OUTSIDE else REQUESTER
                fault = Fault(NodeLost.code, f"its link to node {self.node!r} broke", peer, stage_id)
                self.deliver(state, _token(state, EdgeId(index), _ERROR, fault), now_us, actions)
        self.suspect(state, peer, f"its link to node {self.node!r} broke", actions)
        self.run(state, now_us, actions)

    def suspect(self, state: AttemptState, peer: NodeName, why: str, actions: list[Action]) -> None:
        """What a peer was given may be held up there: tell the requester, and give nothing up here."""
        if state.closed:
            return
        wiring = state.loaded.wiring
        for index, lane in enumerate(state.lanes.by_edge):
            wire = wiring.edges[index]
            if lane and lane.downstream == peer and lane.upstream is None and self._sent(state, wire):
                fault = Fault(LinkLost.code, why, peer, wiring.stages[wire.target].id)
                self.fail(state, state, state.lanes, wire.source, fault, actions)

    def _owed(self, state: AttemptState, wire: EdgeWiring) -> bool:
        """Whether a stage here waits for an edge; if nothing came yet, only one that needs every edge."""
        if state.settled >> wire.target & 1:
            return False
        join = state.joins.get(wire.target)
        if join is None:
            stage = state.loaded.wiring.stages[wire.target]
            return stage.need == len(stage.in_edges)
        return join.phase is Phase.WAITING and join.tokens[wire.slot] is None

    def _sent(self, state: AttemptState, wire: EdgeWiring) -> bool:
        return wire.target != OUTSIDE and bool(state.settled >> wire.source & 1)


def _token(like: Token | AttemptState, edge: EdgeId, kind: Kind, fault: Fault) -> Token:
    """A token of the same attempt."""
    return Token(
        *(like.key, edge, kind, like.requester, like.route, like.deadline_us),
        fault=fault,
        trace=like.trace,
        priority=like.priority,
    )


def failed(like: Token | AttemptState, edge: EdgeId, fault: Fault) -> Token:
    """The token that goes upstream when an edge cannot be served."""
    return _token(like, edge, _FAILED, fault)
