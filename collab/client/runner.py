"""Runs requests through one deployed plan: performs what the requester decides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from collab.client.actions import Action, Answer, Resolve
from collab.client.budget import RetryBudget
from collab.client.control import Control
from collab.client.policy import RetryPolicy
from collab.client.requester import Requester
from collab.client.wiring import entry
from collab.codec.edges import Coded, EdgeEncoder
from collab.codec.envelope import EnvelopeLimits, encode_envelope
from collab.codec.tensors import Array, Payload, check_array, decode
from collab.core.ids import REQUESTER, EdgeId, Epoch, NodeName, RequestId
from collab.core.plan import Plan
from collab.core.token import Fault, Hop, Priority, Token
from collab.errors import (
    CollabError,
    InputError,
    LimitExceeded,
    NodeLost,
    NotLoaded,
    Overloaded,
    PeerError,
    RequestError,
    TensorError,
)
from collab.link.link import now_us
from collab.link.links import Links
from collab.transport.aio import timeout

DEFAULT_DEADLINE_S = 30.0
PRIMARY: Final = "primary"
LOCAL_PATH: Final = "local"
CANDIDATE: Final = "candidate:"
"""What `Result.via` begins with where the plan of a new model answered."""
_RETRY_LEASE_US = 300_000
_RENEW_PAUSE_S = 0.05
"""At least, between two leases."""
_SHORT_PAUSE_S = 0.2
"""The same where the last was not enough: others may need fewer credits by now."""
_RELEASE_S = 1.0
_HEDGES_PER = 4
"""Requests under way for which one more credit is asked, where attempts are hedged."""
_NEVER_US = 1 << 62


@dataclass(frozen=True)
class Result:
    """An answer with its breakdown; times in ms."""

    outputs: Mapping[str, Array]
    """Tensors by name, as the plan's outputs say."""
    total_ms: float
    hops: tuple[Hop, ...]
    """Time in each node on the critical path, from that node's own clock."""
    path: tuple[NodeName, ...]
    """The node that ran each stage, by stage index."""
    absent: str | None = None
    """Why there are no outputs, where a plan may keep an answer back."""
    encode_ms: float = 0.0
    """Encoding the inputs here."""
    decode_ms: float = 0.0
    """Decoding the outputs here."""
    coded: Coded = Coded()
    """What codecs did to the inputs; of the stages' tensors, their hops say it."""
    epoch: Epoch = Epoch(0)
    """Of the plan that answered; stages and hops are counted in it."""
    attempts: int = 1
    """How many were started for the request; the path is that of the first to answer."""
    hedged: bool = False
    """Whether one was started because an earlier one took long."""
    via: str = PRIMARY
    """Who answered: ``primary``, ``alternative:NAME`` for another plan, ``local``, or ``candidate:NAME``
    for the plan of a new model in a trial."""
    request: RequestId = RequestId(b"")
    """Names the answer for who says later whether it was right; empty for ``local`` ones."""

    @property
    def wire_ms(self) -> float:
        """Estimated: the total less the time in nodes and in encoding and decoding here."""
        computed_ms = sum(hop.total_us for hop in self.hops) / 1000 + self.encode_ms + self.decode_ms
        return max(0.0, self.total_ms - computed_ms)


class PlanClient:
    """Requests of one client to one epoch of one plan.

    ``open`` before use, ``close`` after; many `run` may be under way at a time.
    """

    def __init__(
        self,
        links: Links,
        plan: Plan,
        epoch: Epoch,
        *,
        retry: RetryPolicy = RetryPolicy(),
        limits: EnvelopeLimits = EnvelopeLimits(),
        budget: RetryBudget | None = None,
    ) -> None:
        self.plan = plan
        self.epoch = epoch
        self.granted = 0
        """Requests that may be under way at a time."""
        self._links = links
        self._limits = limits
        self._requester = Requester(links.identity.name, plan, epoch, retry, Random(), budget)
        self._kinds = [edge.transport for edge in plan.edges]
        self._edges = [
            (i, EdgeEncoder(plan.edges[i].codec, plan.codec_error), plan.edges[i].tensors)
            for i in plan.edges_from(REQUESTER)
        ]
        self._encodes = any(encoder.computes for _, encoder, _ in self._edges)
        self._nodes = frozenset(node for stage in plan.stages for node in stage.nodes)
        self._inputs = {spec.name: spec for spec in plan.inputs}
        self._pending: dict[RequestId, asyncio.Future[tuple[Answer, int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = _NEVER_US
        self._loop = asyncio.get_running_loop()
        self._renewal: asyncio.Task[None] | None = None
        self._entry = plan.stage(entry(plan)).nodes
        self._want = 1
        self._hedges = retry.hedge and retry.max_attempts > 1
        self._valid_us = _RETRY_LEASE_US
        self._renew_now = asyncio.Event()
        self._leased_s = 0.0
        self._incomplete = False
        """Whether some entry node gave no answer when it was last asked."""
        self._not_loaded = ""
        """Why the entry nodes gave no credits when they were last asked."""

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped and tried again so far, as `collab.client.policy.Counters` names it."""
        return self._requester.counters

    @property
    def serves(self) -> bool:
        """Whether an answer is possible with the nodes that can be reached."""
        return self._requester.serves

    # --- life --------------------------------------------------------------------

    async def open(self, credits: int = 1) -> PlanClient:
        """Lease up to ``credits`` requests at a time; raises `Overloaded` if none is free.

        A client that hedges asks for some more, since a hedge needs one as well.
        """
        self._want = credits + (max(1, credits // _HEDGES_PER) if self._hedges else 0)
        await self._lease()
        if not self.granted:
            raise Overloaded(
                f"plan {self.plan.name!r} admits {self.plan.credits} requests at a time and all are taken; "
                "try again later or raise credits in the plan"
            )
        self._renewal = asyncio.ensure_future(self._renew())
        return self

    async def close(self) -> None:
        """Cancel what is under way and return the lease; never raises."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        for request in tuple(self._pending):
            self._perform(self._requester.cancel(request, now_us()))
        if self._timer is not None:
            self._timer.cancel()
        self._want = 0
        with suppress(CollabError, TimeoutError, asyncio.TimeoutError):
            async with timeout(_RELEASE_S):
                await self._lease()

    async def _lease(self) -> None:
        """Ask every entry node that can be reached; replicas share the credits out."""
        asked = [name for name in self._entry if self._links.get(name) is not None]
        short = self._requester.short
        replies = await asyncio.gather(
            *(self._lease_from(name, short) for name in asked), return_exceptions=True
        )
        self._leased_s = self._loop.time()
        errors = [reply for reply in replies if isinstance(reply, BaseException)]
        self.granted = sum(reply for reply in replies if isinstance(reply, int))
        self._incomplete = bool(errors)
        missing = [str(error) for error in errors if isinstance(error, NotLoaded)]
        self._not_loaded = missing[0] if missing and not self.granted else ""
        if errors and not self.granted:
            raise errors[0]

    async def _lease_from(self, name: NodeName, short: bool) -> int:
        link = self._links.get(name)
        if link is None:
            return 0
        reply = await Control(link).lease(self.plan.name, self.epoch, self._want, short)
        self._valid_us = reply.valid_us
        self._requester.leased(reply.granted, now_us() + reply.valid_us, name)
        self._requester.node_back(name)
        return reply.granted

    async def _renew(self) -> None:
        while True:
            with suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(max(self._valid_us / 3e6, 0.05)):
                    await self._renew_now.wait()
            self._renew_now.clear()
            with suppress(RequestError, PeerError):
                await self._lease()
            if self._incomplete or not self.granted:
                self._valid_us = _RETRY_LEASE_US
            await asyncio.sleep(_RENEW_PAUSE_S)

    def _lease_if_short(self) -> None:
        """Ask for a lease where a node refused what the last one allows, or others hold what is missing."""
        all_held = min(self._want * len(self._entry), max(self.plan.credits, len(self._entry)))
        waited_s = self._loop.time() - self._leased_s
        lacks = self._requester.short and self.granted < all_held and waited_s >= _SHORT_PAUSE_S
        if self._requester.in_doubt or lacks:
            self._renew_now.set()

    # --- requests ------------------------------------------------------------------

    def _check(self, inputs: Mapping[str, Array]) -> None:
        """Name, dtype and shape of every input; raises `TensorError`."""
        for name in inputs:
            if name not in self._inputs:
                known = ", ".join(repr(known) for known in self._inputs)
                raise TensorError(f"input {name!r}: the model has no such input; it takes {known}")
        for name, spec in self._inputs.items():
            if name not in inputs:
                raise TensorError(f"input {name!r} {spec.dtype}{list(spec.shape)} is missing")
            check_array(spec, inputs[name])
            if spec.nbytes > self._limits.tensor_bytes:
                raise TensorError(f"input {name!r}: {spec.nbytes} bytes are over {self._limits.tensor_bytes}")

    def _encode(self, inputs: Mapping[str, Array]) -> tuple[dict[EdgeId, Payload], Coded]:
        """The inputs by edge."""
        payloads: dict[EdgeId, Payload] = {}
        total = Coded()
        for edge, encoder, names in self._edges:
            payloads[edge], coded = encoder.encode((self._inputs[name], inputs[name]) for name in names)
            total = total + coded
        return payloads, total

    async def run(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        before: int = 0,
        *,
        only: str = "",
    ) -> Result:
        """One inference; the arrays must stay unchanged until it returns.

        ``before`` counts attempts at it that were made over other plans.  There is no other
        path here than the plan itself, so ``only`` is that or empty.
        Raises `TensorError` for wrong inputs, `Overloaded`, `DeadlineExceeded`,
        `StageFailed`, `NodeLost` or another `RequestError`.
        """
        if only not in ("", PRIMARY):
            raise InputError(f"path {only!r}: this plan has none here; ask without a path")
        self._check(inputs)
        start_us = now_us()
        if self._encodes:
            payload, coded = await asyncio.to_thread(self._encode, inputs)
        else:
            payload, coded = self._encode(inputs)
        encoded_us = now_us()
        request = RequestId(os.urandom(16))
        try:
            deadline_us = start_us + int(deadline_s * 1e6)
            actions = self._requester.submit(
                request, payload, start_us, deadline_us, priority=priority, before=before
            )
        except (NodeLost, Overloaded):
            self._lease_if_short()
            if self._not_loaded:
                raise NotLoaded(self._not_loaded) from None
            raise
        future: asyncio.Future[tuple[Answer, int]] = asyncio.get_running_loop().create_future()
        if not self._pending:
            self._links.attend(self._nodes)
        self._pending[request] = future
        try:
            self._perform(actions)
            answer, answered_us = await future
        except asyncio.CancelledError:
            if request in self._pending:
                self._perform(self._requester.cancel(request, now_us()))
            raise
        finally:
            self._pending.pop(request, None)
        arrived: Payload = answer.payload or ()
        if any(tensor.codec for tensor in arrived):
            begin_us = now_us()
            outputs = await asyncio.to_thread(_decode, arrived)
            end_us = now_us()
        else:
            outputs, begin_us, end_us = _decode(arrived), answered_us, answered_us
        return Result(
            outputs,
            (end_us - start_us) / 1000,
            answer.hops,
            answer.path,
            answer.absent,
            (encoded_us - start_us) / 1000,
            (end_us - begin_us) / 1000,
            coded,
            self.epoch,
            answer.attempts,
            answer.hedged,
            request=request,
        )

    # --- events ----------------------------------------------------------------------

    def receive(self, peer: NodeName, token: Token, now: int) -> None:
        """A token of this plan arrived."""
        self._perform(self._requester.receive(peer, token, now))

    def node_up(self, name: NodeName) -> None:
        """A node can be reached again; one that restarted has forgotten what it leased."""
        if name in self._entry and self._renewal is not None:
            self._renew_now.set()
        else:
            self._requester.node_back(name)

    def node_draining(self, name: NodeName, draining: bool) -> None:
        """A node takes nothing new, or has started again."""
        self._requester.node_draining(name, draining)

    def node_down(self, name: NodeName) -> None:
        """The last link to a node ended."""
        self._perform(self._requester.node_lost(name, now_us()))

    def awaits(self, name: NodeName) -> bool:
        """Whether a request is under way that a node may hold."""
        return bool(self._pending) and name in self._nodes

    def _perform(self, actions: list[Action]) -> None:
        while actions:
            action, actions = actions[0], actions[1:]
            if isinstance(action, Resolve):
                self._resolve(action)
                continue
            link = self._links.get(action.peer, self._kinds[action.token.edge])
            try:
                if link is None:
                    raise PeerError("no link")
                link.send_tensors(encode_envelope(action.token, now_us()))
            except LimitExceeded as error:
                self._fail(action.token.key.request, error)
                actions = [*self._requester.cancel(action.token.key.request, now_us()), *actions]
            except CollabError:
                actions = [*self._requester.undeliverable(action.peer, action.token, now_us()), *actions]
        self._lease_if_short()
        self._arm()

    def _resolve(self, action: Resolve) -> None:
        future = self._pending.get(action.request)
        if future is None or future.done():
            return
        outcome = action.outcome
        if not isinstance(outcome, Fault):
            future.set_result((outcome, now_us()))
            return
        error = outcome.to_error()
        error.attempts = action.attempts
        future.set_exception(error)
        if outcome.code == Overloaded.code:
            self._renew_now.set()

    def _fail(self, request: RequestId, error: CollabError) -> None:
        future = self._pending.get(request)
        if future is not None and not future.done():
            future.set_exception(error)

    def _arm(self) -> None:
        due_us = self._requester.next_wakeup_us()
        if due_us is None or due_us >= self._timer_us:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_us = due_us
        self._timer = self._loop.call_later(max(0.0, (due_us - now_us()) / 1e6), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_us = None, _NEVER_US
        self._perform(self._requester.tick(now_us()))


def _decode(payload: Payload) -> dict[str, Array]:
    return {tensor.spec.name: decode(tensor) for tensor in payload}
