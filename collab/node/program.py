"""What one stage does with the payloads of its in-edges; pure but for the stage's own run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from collab.codec.edges import Coded, EdgeEncoder
from collab.codec.tensors import Array, EncodedTensor, Payload, decode
from collab.core.ids import EdgeId, NodeName, RequestId
from collab.core.plan import Edge, Plan, StageSpec
from collab.core.token import Fault, Hop
from collab.errors import CollabError, DeadlineExceeded, StageFailed
from collab.node.observing import Observer
from collab.node.session import Computed
from collab.runtime.base import LoadedStage
from collab.runtime.combiners import Member, Merge
from collab.runtime.guards import passes

Inputs = Sequence[tuple[EdgeId, Payload | None]]


class _Made(NamedTuple):
    """What one run took, as a model or as a combiner, and made."""

    arrays: Sequence[Array]
    members: Sequence[Member | None]
    made: Mapping[str, Array]


class Program:
    """One stage of one plan, ready to run on payloads."""

    def __init__(
        self,
        plan: Plan,
        stage: StageSpec,
        node: NodeName,
        loaded: LoadedStage | None,
        observer: Observer | None = None,
    ) -> None:
        self.stage = stage
        self.observer = observer
        self._last: _Made | None = None
        """What the last job took and made, until `observe`."""
        self._index = plan.stage_index(stage.id)
        self._node = node
        self._loaded = loaded
        self._out: list[tuple[EdgeId, Edge]] = [(i, plan.edges[i]) for i in plan.edges_from(stage.id)]
        self._encoders = {i: EdgeEncoder(edge.codec, plan.codec_error) for i, edge in self._out}
        self.codec_fallbacks = 0
        """Tensors that a lossy codec could not keep within the plan's error, so far."""
        self._specs = {spec.name: spec for spec in stage.outputs}
        self._merge = Merge(plan, stage) if stage.combine else None
        self.left_out: Mapping[str, int] = self._merge.left_out if self._merge else {}
        """In how many requests each member of a combiner was left out because it was in quarantine."""
        self._slots = {edge: slot for slot, edge in enumerate(plan.edges_into(stage.id))}

    def close(self) -> None:
        """Free the stage's memory."""
        if self._loaded is not None:
            self._loaded.close()

    def run(
        self, inputs: Inputs, queued_us: int, deadline_us: int, clock: Callable[[], int]
    ) -> Computed | Fault:
        """Decode, compute and encode; every error becomes a fault that names node and stage."""
        self._last = None
        start_us = clock()
        if start_us > deadline_us:
            return self._fault(DeadlineExceeded("the deadline passed while the request waited for the stage"))
        try:
            received = {t.spec.name: t for _, payload in inputs for t in payload or ()}
            arrays: Sequence[Array] = ()
            members: Sequence[Member | None] = ()
            if self._merge is None:
                arrays = [decode(received[spec.name]) for spec in self.stage.inputs]
                decoded_us = clock()
                made = self._compute(arrays)
            else:
                members = self._members(inputs)
                decoded_us = clock()
                made = self._merge(members)
            computed_us = clock()
            payloads, skipped, coded = self._encode(made, received)
        except CollabError as error:
            return self._fault(error)
        except Exception as error:  # a runtime or a combiner of the user's may raise anything
            return self._fault(StageFailed(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
        hop = Hop(
            self._index,
            self._node,
            start_us - queued_us,
            decoded_us - start_us,
            computed_us - decoded_us,
            clock() - computed_us,
            coded.raw_bytes,
            coded.sent_bytes,
            coded.error,
            coded.fallbacks,
        )
        self.codec_fallbacks += coded.fallbacks
        if self.observer is not None:
            self._last = _Made(arrays, members, made)
        return Computed(payloads, frozenset(skipped), hop)

    def note(self, request: RequestId, requester: NodeName, result: Computed | Fault) -> None:
        """Remember how the last `run` ended, for who may ask; to be called before it is told."""
        if self.observer is None:
            return
        if isinstance(result, Computed) and self._last is not None:
            self.observer.note(request, requester, result.payloads.keys(), self._last.made)
        elif isinstance(result, Fault) and result.code == StageFailed.code:
            self.observer.failed()

    def observe(self, hop: Hop) -> None:
        """Look at the last `run` where it is time to; to be called when its result is on its way."""
        last, self._last = self._last, None
        if self.observer is not None and last is not None and self.observer.due():
            given = {spec.name: array for spec, array in zip(self.stage.inputs, last.arrays, strict=False)}
            self.observer.take(hop.total_us - hop.queue_us, given, last.members, last.made)

    def _members(self, inputs: Inputs) -> list[Member | None]:
        """What came over each in-edge: None where nothing did, empty where a guard kept it back."""
        members: list[Member | None] = [None] * len(self._slots)
        for edge, payload in inputs:
            if payload is not None:
                members[self._slots[edge]] = {t.spec.name: decode(t) for t in payload}
        return members

    def _compute(self, arrays: Sequence[Array]) -> dict[str, Array]:
        assert self._loaded is not None
        outputs = self._loaded.run(arrays)
        return {spec.name: array for spec, array in zip(self.stage.outputs, outputs, strict=True)}

    def _encode(
        self, made: Mapping[str, Array], received: Mapping[str, EncodedTensor]
    ) -> tuple[dict[EdgeId, Payload], list[EdgeId], Coded]:
        payloads: dict[EdgeId, Payload] = {}
        total = Coded()
        skipped: list[EdgeId] = []
        for edge_id, edge in self._out:
            if edge.guard is not None and not passes(edge.guard, made[edge.guard.tensor]):
                skipped.append(edge_id)
                continue
            # What this stage did not make goes on as it came, not even decoded.
            payloads[edge_id], coded = self._encoders[edge_id].encode(
                (self._specs[name], made[name]) if name in made else (received[name].spec, received[name])
                for name in edge.tensors
            )
            total = total + coded
        return payloads, skipped, total

    def _fault(self, error: CollabError) -> Fault:
        code = error.code if isinstance(error, DeadlineExceeded) else StageFailed.code
        return Fault(code, str(error), self._node, self.stage.id)


def monotonic_us() -> int:
    """The clock that programs are timed by, in µs."""
    return time.monotonic_ns() // 1000
