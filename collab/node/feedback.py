"""What this node tells of itself and its answers: the verbs Condition and Feedback, and what they rest on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from collab.codec.pb import control_pb2 as pb
from collab.core.decoding import prepare
from collab.core.ids import Epoch, NodeName, PlanName, RequestId
from collab.core.plan import Plan
from collab.errors import CollabError, InputError, Refused
from collab.link.link import Link
from collab.node.condition import NodeCondition
from collab.node.config import NodeConfig
from collab.node.observing import MAX_WAITING, UNKNOWN, Given, Observer
from collab.node.stages import Stages
from collab.node.training_files import write_whole
from collab.node.verbs import Caller, Implementation
from collab.updates.policies.condition import MAX_MODELS, ModelFeedback, encode_condition
from collab.updates.policies.reference import ReferenceFile
from collab.updates.policies.seen import Seen

log = logging.getLogger("collab.node")

MAX_KEPT_BYTES: Final = 8 << 20
_DRAIN_S: Final = 2.0
_KEEP_S: Final = 60.0
"""How often counts are written; a crash loses what came since."""

_Key = tuple[PlanName, Epoch]


class _Kept(msgspec.Struct):
    """One epoch's counts on the disk."""

    plan: str
    epoch: int
    digest: str
    seen: Seen


@dataclass
class _Answer:
    """An answer that may still be judged; what was said of it already."""

    given: Given
    judged: bool = False
    corrected: bool = False


@dataclass
class _Epoch:
    """One loaded epoch of a plan."""

    plan: Plan
    seen: Seen
    accuracy: float | None
    """That its release promises."""
    answers: dict[RequestId, _Answer] = field(default_factory=dict)
    """The latest, oldest first."""


class NodeFeedback:
    """Counts from `open` to `close`; all methods are the event loop's."""

    def __init__(
        self, node: NodeName, config: NodeConfig, stages: Stages, links: Callable[[], Sequence[Link]]
    ) -> None:
        self._window = max(1, config.condition.window // 2)
        self._stages = stages
        self._links = links
        store = stages.store
        self._condition = NodeCondition(
            node, config.condition, config.training.metered_devices, store.feedback.parent, stages.off_loop
        )
        self._epochs: dict[_Key, _Epoch] = {}
        self._kept: dict[tuple[str, int, str], Seen] = {}
        """Of the last start; each goes to its epoch when that is loaded."""
        self._task: asyncio.Task[None] | None = None

    def implementations(self) -> dict[str, Implementation]:
        """Methods by verb."""
        table: dict[str, Callable[[Caller, Any], Awaitable[Any]]] = {
            "Condition": self.condition,
            "Feedback": self.feedback,
        }
        return table

    # --- life ------------------------------------------------------------------

    async def open(self) -> None:
        """Take up what was counted before; never raises."""
        for one in await self._stages.off_loop(self._read):
            self._kept[one.plan, one.epoch, one.digest] = one.seen
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Write what was counted; before stages are unloaded, which forgets it.  Safe to repeat."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._drain()
        await self._keep()

    async def _run(self) -> None:
        written_s = time.monotonic()
        while True:
            await asyncio.sleep(_DRAIN_S)
            self._drain()
            if time.monotonic() - written_s >= _KEEP_S:
                await self._keep()
                written_s = time.monotonic()

    def _read(self) -> list[_Kept]:
        try:
            data = self._stages.store.feedback.read_bytes()
            if len(data) > MAX_KEPT_BYTES:
                raise InputError(f"{len(data)} bytes are over {MAX_KEPT_BYTES}")
            return msgspec.json.decode(data, type=list[_Kept])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, InputError) as error:
            log.warning("what was counted of answers is lost: %s: %s", self._stages.store.feedback, error)
            return []

    async def _keep(self) -> None:
        kept = [_Kept(name, epoch, one.plan.digest, one.seen) for (name, epoch), one in self._epochs.items()]
        data = msgspec.json.encode(kept)
        try:
            await self._stages.off_loop(write_whole, self._stages.store.feedback, data)
        except (OSError, CollabError) as error:
            log.warning("what was counted of answers is not written: %s", error)

    # --- counting ----------------------------------------------------------------

    def _drain(self) -> None:
        """Take what the stages' threads have noted, and forget epochs that are loaded no longer."""
        loaded = {(plan.name, epoch): (plan, found) for plan, epoch, found in self._stages.observed()}
        for key in self._epochs.keys() - loaded.keys():
            del self._epochs[key]
        for key, (plan, observers) in loaded.items():
            one = self._epochs.get(key)
            if one is None or one.plan is not plan:
                one = self._epochs[key] = self._begin(plan, key[1], observers)
            for observer in observers.values():
                noted = observer.drain()
                one.seen.add(noted.samples, self._window)
                one.seen.answers += noted.answers
                one.seen.failed += noted.failed
                for given in noted.given:
                    one.answers[given.request] = _Answer(given)
            while len(one.answers) > MAX_WAITING:
                del one.answers[next(iter(one.answers))]

    def _begin(self, plan: Plan, epoch: Epoch, observers: Mapping[int, Observer]) -> _Epoch:
        digest = plan.digest
        seen = self._kept.pop((plan.name, epoch, digest), None) or Seen()
        for stage, observer in observers.items():
            seen.expect(stage, [feature.reference for feature in observer.features], self._window)
        promise = _promise(plan, observers)
        if promise is not None:
            seen.promised(promise.confidence, promise.margin)
        return _Epoch(plan, seen, promise.accuracy if promise is not None else None)

    def models(self) -> list[ModelFeedback]:
        """What was seen of the newest epoch of each plan, of those that were asked most first."""
        self._drain()
        newest: dict[PlanName, tuple[Epoch, _Epoch]] = {}
        for (name, epoch), one in self._epochs.items():
            if name not in newest or newest[name][0] < epoch:
                newest[name] = (epoch, one)
        busiest = sorted(newest.values(), key=lambda found: -found[1].seen.sampled)
        return [
            one.seen.feedback(one.plan.name, epoch, {**_running(one.plan), "accuracy": one.accuracy})
            for epoch, one in busiest[:MAX_MODELS]
        ]

    # --- verbs -------------------------------------------------------------------

    async def condition(self, _: Caller, __: pb.ConditionRequest) -> pb.ConditionReply:
        """How the device is, and what its answers are like."""
        found = await self._condition.look(self._links(), self.models())
        return pb.ConditionReply(json=encode_condition(found))

    async def feedback(self, caller: Caller, request: pb.FeedbackRequest) -> pb.FeedbackReply:
        """Count what somebody says of an answer; a client may judge its own, an operator any."""
        judges = request.HasField("correct") or request.HasField("label")
        if not judges and not request.corrected:
            raise InputError("Feedback: it says nothing; give correct, label or corrected")
        if request.HasField("correct") and request.HasField("label"):
            raise InputError("Feedback: correct and label are given; give one of them")
        self._drain()
        name = PlanName(request.plan)
        answer = self._answer(RequestId(request.request))
        if answer is None:
            return pb.FeedbackReply(reason=f"node does not remember such an answer of plan {name[:80]!r}")
        one, found = answer
        if caller.role == "client" and caller.name != found.given.requester:
            raise Refused(
                f"Feedback: {caller.name!r} did not ask for that answer; only its requester judges it"
            )
        return _judged(one.seen, found, request, judges)

    def _answer(self, request: RequestId) -> tuple[_Epoch, _Answer] | None:
        """By the request alone: an alternative, or a plan on trial, may have answered in a plan's place."""
        for one in self._epochs.values():
            if request in one.answers:
                return one, one.answers[request]
        return None


def _judged(seen: Seen, answer: _Answer, request: pb.FeedbackRequest, judges: bool) -> pb.FeedbackReply:
    """Count a judgement and a correction, each once for an answer."""
    reply = pb.FeedbackReply()
    if judges and answer.judged:
        reply.reason = "somebody has said already whether it was right"
    elif judges:
        if request.HasField("label") and answer.given.pick == UNKNOWN:
            raise InputError("Feedback.label: the answer is not one of some classes; give correct instead")
        right = request.correct if request.HasField("correct") else request.label == answer.given.pick
        seen.label(right, time.time())
        answer.judged = reply.counted = True
        reply.correct = right
    if request.corrected and not answer.corrected:
        seen.corrections += 1
        answer.corrected = reply.counted = True
    elif request.corrected:
        reply.reason = reply.reason or "its correction is counted already"
    return reply


def _promise(plan: Plan, observers: Mapping[int, Observer]) -> ReferenceFile | None:
    """What the plan's model promises of its answers; of several models none speaks for the plan."""
    found = (observer.reference for observer in observers.values() if observer.reference is not None)
    return next(found, None) if len(plan.models) == 1 else None


def _running(plan: Plan) -> dict[str, Any]:
    """Which model answers, where it is one."""
    if len(plan.models) != 1:
        return {}
    (model,) = plan.models
    release = model.release
    named = {} if release is None else {"family": release.family, "release": release.version}
    return {"model": model.sha256, **named}


prepare(_Kept)
