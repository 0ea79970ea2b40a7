"""A node: links, session, workers and store, joined in one event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

from collab.codec.envelope import EnvelopeLimits, decode_envelope, encode_envelope
from collab.codec.verbs import DRAINING
from collab.codec.wire import Buffer
from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.core.token import Fault, Kind, Token
from collab.errors import (
    CollabError,
    LimitExceeded,
    NotLoaded,
    Overloaded,
    ProtocolError,
    StoreError,
)
from collab.link.link import Handler, Link
from collab.link.links import Links
from collab.link.relay import relay_address
from collab.link.suspicion import Health
from collab.node.config import NodeConfig
from collab.node.control import NodeControl
from collab.node.deployments import check_tensors
from collab.node.device import Device, describe_device
from collab.node.feedback import NodeFeedback
from collab.node.first_run import FirstRuns
from collab.node.flow import unknown
from collab.node.lives import Kept
from collab.node.membership import MakeDiscoveries, Membership
from collab.node.program import monotonic_us
from collab.node.proving import Proving
from collab.node.reporting import Reporter
from collab.node.serving import ReleaseFiles
from collab.node.session import Action, Compute, Computed, Drop, Send, Session, SessionLimits, Work
from collab.node.stage_times import StageTimes
from collab.node.stages import Stages
from collab.node.store import Store
from collab.node.tally import Tally
from collab.node.training import NodeTraining
from collab.node.training_work import MakeTrainer
from collab.node.trials import Trials
from collab.node.verbs import Caller, Dispatcher
from collab.runtime.base import Backend
from collab.transport.aio import timeout

if TYPE_CHECKING:
    from collab.node.streaming import NodeStreams
    from collab.security.identity import Credentials

log = logging.getLogger("collab.node")
_NEVER_US = 1 << 62
_QUIET_US = 300_000
"""A draining node stays this long after the last token that it took: others may be on their way."""
_LINK_WAIT_S = 2.0
"""How long preparing waits for links of the plan's transports; without them others carry its tokens."""
_TELL_S = 2.0

MakeLinks = Callable[[Handler], Links]


class NodeService(Handler):
    """Performs what the session decides.  Use as an asynchronous context manager."""

    def __init__(
        self,
        config: NodeConfig,
        store: Store,
        backends: Mapping[str, Backend],
        make_links: MakeLinks,
        security: Credentials | None = None,
        make_discoveries: MakeDiscoveries | None = None,
        trainers: Mapping[str, MakeTrainer] = MappingProxyType({}),
        first_run: Sequence[str] = (),
    ) -> None:
        self.name = NodeName(config.name)
        self.security = security
        self.config = config
        self.endpoints: list[str] = []
        self.draining = False
        self.device: Device | None = None
        """What this node runs on; known once it has started."""
        self.streams: NodeStreams | None = None
        """What runs streams here; None where the settings declare none."""
        self.on_serving: Callable[[bool], Awaitable[None]] | None = None
        """Told when the node begins and stops to take requests."""
        limits = SessionLimits(reservation_us=int(config.reservation_s * 1e6))
        runs = FirstRuns(first_run, store.first_runs, config.runtime) if first_run else None
        self.stages = Stages(self.name, store, backends, self._computed, runs, config.condition.samples_s)
        expected = self.stages.expected_us if config.refuse_hopeless else unknown
        self.session = Session(self.name, limits, expected)
        self.proving = Proving(self.name, store.plans, self.stages.off_loop, self.session.plans)
        self.reporter = Reporter(self.stages.off_loop)
        self.backends = backends
        self.links = make_links(self)
        children, gateway = config.training.children, None
        if children:
            # Few nodes are gateways, and what it needs takes memory.
            from collab.node.gateway import Gateway

            gateway = Gateway(
                children, self.links, self.stages.off_loop, store.training.with_name("downloads")
            )
        settings = (config.training, store, self.stages.off_loop, trainers)
        self.training = NodeTraining(self.name, *settings, gateway=gateway, credentials=security)
        self.releases = ReleaseFiles(config.serve_releases)
        self.membership = Membership(self.links, security, make_discoveries)
        self.feedback = NodeFeedback(self.name, config, self.stages, self.links.all)
        self.trials = Trials(lambda name: self.session.current(name) is not None, time.monotonic)
        self.dispatcher = Dispatcher(NodeControl(self).implementations())
        self._envelope_limits = EnvelopeLimits(tensor_bytes=config.max_tensor_bytes)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = _NEVER_US
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self.tally = Tally(self.name)
        self._times = StageTimes()
        self._heard_us = -_QUIET_US
        self._preparing = asyncio.Lock()

    @property
    def default_backend(self) -> Backend:
        """The back end that plans use unless they say otherwise."""
        return self.backends.get("litert") or next(iter(self.backends.values()))

    @property
    def schemes(self) -> list[str]:
        """Transports by which this node can be reached or can reach others."""
        return self.links.schemes

    @property
    def state(self) -> str:
        """``serving``; ``draining``, or ``offline`` while no neighbour in its plans is linked."""
        return "draining" if self.draining else "offline" if self._alone() else "serving"

    def _alone(self) -> bool:
        """Whether its plans need others, and none of them can be reached."""
        names: set[NodeName] = set()
        for info in self.session.plans():
            plan = self.stages.plan(info.plan, info.epoch) if info.state == "serving" else None
            names.update(plan.neighbours(self.name) if plan is not None else ())
        links = [self.links.get(name) for name in names]
        return bool(names) and all(link is None or link.health is Health.SUSPECTED for link in links)

    # --- life ------------------------------------------------------------------

    async def __aenter__(self) -> NodeService:
        await self.links.__aenter__()
        try:
            self.device = await self.stages.off_loop(describe_device, self.default_backend)
            for remark in self.device.remarks:
                log.warning("%s", remark)
            reports, config = self.stages.store.reports, self.config
            await self.reporter.open(reports, config.max_reports, config.report_bytes)
            await self.training.start()
            await self._restore()
            await self.feedback.open()
            for address in self.config.addresses(secured=self.security is not None):
                self.endpoints.append(await self.links.listen(address))
            self.endpoints += [relay_address(address, self.name) for address in self.config.join]
            self.links.set_endpoints(tuple(self.endpoints))
            if self.on_serving is not None:
                await self.on_serving(True)
            for address in self.config.join:
                self.links.keep(address, self._join_failed)
            self.membership.start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.membership.stop()
        if self._timer is not None:
            self._timer.cancel()
        await self.links.__aexit__(None, None, None)
        await self.reporter.close()
        await self.training.close()
        await self.feedback.close()
        await self.stages.unload_all()
        # Not before: one that cannot even be unloaded has not ended well.
        await self.proving.close()
        await self.stages.close()

    async def drain_and_wait(self) -> int:
        """Admit nothing more, wait for what is under way; returns what is still left then."""
        self.drain()
        deadline_us = monotonic_us() + int(self.config.drain_s * 1e6)
        while (now := monotonic_us()) < deadline_us:
            left_us = _QUIET_US if self._in_flight() else self._heard_us + _QUIET_US - now
            if left_us <= 0:
                break
            self._idle.clear()
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), min(left_us, deadline_us - now) / 1e6)
        return self._in_flight()

    def drain(self) -> None:
        """Admit nothing more, and tell requesters to go elsewhere."""
        if not self.draining:
            for link in self.links.all():
                self._tell_drained(link)
        self.draining = self.training.draining = True
        self.session.drain()
        if self.on_serving is not None:
            self._spawn(self.on_serving(False))

    def _tell_drained(self, link: Link) -> None:
        async def tell() -> None:
            with suppress(CollabError):  # one of an older release, or that is gone, learns it from a refusal
                await link.call(DRAINING, timeout_s=_TELL_S)

        if link.peer.role != "node":
            self._spawn(tell())

    def used_digests(self) -> list[Digest]:
        """Blobs that must stay in the store."""
        kept = self.stages.store.plans.sheltered
        return [*self.stages.used_digests(), *self.training.used_digests(), *kept]

    def _in_flight(self) -> int:
        return sum(info.in_flight for info in self.session.plans())

    async def _restore(self) -> None:
        """Load what was current when the node last ran."""
        kept, broken = await self.stages.off_loop(self.stages.store.plans.all)
        for text in broken:
            log.warning("a kept plan cannot be read and is left out: %s", text)
        for one in kept:
            await self._restore_one(one)

    async def _restore_one(self, kept: Kept) -> None:
        entry = await self.proving.choose(kept)
        plan, epoch = (kept.current.plan, kept.current.epoch) if entry is None else (entry.plan, entry.epoch)
        try:
            if entry is not None:
                self.check_fits(plan)
                await self.stages.load(plan, epoch)
                self.session.restore(plan, epoch, monotonic_us())
                self._reach(plan)
            self.session.remember(plan.name, kept.newest, monotonic_us())
        except CollabError as error:
            log.warning("plan %r epoch %d is not loaded: %s", plan.name, epoch, error)
            return
        if entry is not None and entry.lives is not None:
            self._spawn(self.proving.begin(plan.name, epoch))

    def _join_failed(self, address: str, error: CollabError) -> None:
        log.warning("cannot join %s: %s", address, error)

    # --- deploying ---------------------------------------------------------------

    def check_fits(self, plan: Plan) -> None:
        """Refuse a plan whose tensors are too large for this node; raises `LimitExceeded`."""
        check_tensors(plan, self.name, self.config.max_tensor_bytes)

    async def prepare(self, name: PlanName, epoch: Epoch, digest: Digest, holder: str) -> None:
        """Load the stages of a reserved epoch; see `Session.reserve`."""
        async with self._preparing:
            if self.session.current(name) == (epoch, digest):
                return
            plan = self.session.reserved(name, epoch, digest, holder, monotonic_us())
            await self.stages.load(plan, epoch)
            try:
                await self.stages.off_loop(self.stages.store.plans.write, plan, epoch)
                self._perform(self.session.prepare(name, epoch, digest, holder, monotonic_us()))
            except CollabError:
                await self.stages.unload(name, epoch)
                raise
        wanted = self._reach(plan)
        with suppress(TimeoutError, asyncio.TimeoutError):
            async with timeout(_LINK_WAIT_S):
                await asyncio.gather(*(self.links.wait_for(*link) for link in wanted))

    async def commit(self, name: PlanName, epoch: Epoch, digest: Digest, holder: str) -> None:
        """Make a prepared epoch current, and remember it over restarts."""
        previous = self.session.current(name)
        self.session.commit(name, epoch, digest, holder, monotonic_us())
        if previous == (epoch, digest):
            return
        if previous is not None:
            self._spawn(self._retire_later(name, previous[0]))
        for old in self.session.epochs(name)[: -self.config.max_epochs]:
            await self.unload(name, old)
        self.proving.superseded(name, epoch)
        try:
            await self.stages.off_loop(self.stages.store.plans.keep, name, epoch)
        except StoreError as error:
            # The other nodes have it too, and it serves: too late to say no.
            log.warning("plan %r epoch %d serves, but not after a restart: %s", name, epoch, error)
        else:
            self._spawn(self.proving.begin(name, epoch))

    async def abort(self, name: PlanName, epoch: Epoch, digest: Digest, holder: str) -> None:
        """Give a reservation back; unload what was loaded under it."""
        self._perform(self.session.abort(name, epoch, digest, holder, monotonic_us()))
        if not self.session.loaded(name, epoch):
            await self.stages.off_loop(self.stages.store.plans.drop, name, epoch)

    async def retire(self, name: PlanName, epoch: Epoch) -> None:
        """Admit nothing more to an epoch, and do not load it at the next start."""
        self.session.retire(name, epoch)
        self.proving.gone(name, epoch)
        await self.stages.off_loop(self.stages.store.plans.forget, name, epoch)

    async def unload(self, name: PlanName, epoch: Epoch) -> None:
        """Free an epoch."""
        self._perform(self.session.unload(name, epoch, monotonic_us()))
        if self.session.current(name) is None:
            self.trials.forget(name)

    async def _retire_later(self, name: PlanName, epoch: Epoch) -> None:
        """The previous epoch stays for requests that were admitted to it."""
        await asyncio.sleep(self.config.retire_s)
        await self.unload(name, epoch)

    def _reach(self, plan: Plan) -> list[tuple[NodeName, str]]:
        """Keep links to the nodes that this node's edges lead to or come from; names and transports."""
        endpoints = plan.endpoints()
        return [
            (name, self.links.keep_peer(name, endpoints[name], kind))
            for name, kinds in plan.neighbours(self.name).items()
            for kind in kinds
            if endpoints.get(name)
        ]

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- data ----------------------------------------------------------------------

    def tensors(self, link: Link, message: Buffer) -> None:
        """An envelope arrived."""
        now = monotonic_us()
        token = decode_envelope(message, now, link.rtt_us // 2, self._envelope_limits)
        if token.kind is Kind.VALUE and not self._fits(token):
            self.tally.count("payload_mismatch")
            raise ProtocolError(f"edge {token.edge} of plan {token.key.plan!r} does not carry these tensors")
        forged = self.session.forged
        actions = self.session.receive(link.peer.name, token, now)
        if self.session.forged != forged:
            log.warning(
                "a token from %s is forged and dropped: edge %d of plan %.80r for %.80r is not its to send",
                *(link.peer.name, token.edge, token.key.plan, token.requester),
            )
        if not self.draining or any(not _is_refusal(action) for action in actions):
            self._heard_us = now
        self._perform(actions)

    def _fits(self, token: Token) -> bool:
        """Whether a value carries exactly the tensors that the plan puts on its edge."""
        expected = self.stages.specs(token.key.plan, token.key.epoch, token.edge)
        return expected is None or expected == tuple(tensor.spec for tensor in token.payload)

    def _computed(self, work: Work, result: Computed | Fault) -> None:
        if isinstance(result, Computed):
            self._times.add(work, result.hop, self.session.loaded(work.key.plan, work.key.epoch))
            proven = self.proving.computed(work.key.plan, work.key.epoch)
            if proven is not None:
                self._spawn(proven)
        plan = self.stages.plan(work.key.plan, work.key.epoch)
        if plan is not None and self.session.loaded(work.key.plan, work.key.epoch):
            self.tally.computed(work, result, plan, self.session.trace(work.key))
        if plan is not None and plan.offline:
            self.reporter.computed(work, result, plan, self._alone())
        self._perform(self.session.computed(work, result, monotonic_us()))

    def _perform(self, actions: list[Action]) -> None:
        while actions:
            failed: list[Token] = []
            doubtful: list[Token] = []
            for action in actions:
                if isinstance(action, Send):
                    link = self._send(action.peer, action.token)
                    if link is None:
                        failed.append(action.token)
                    elif link.health is Health.SUSPECTED:
                        doubtful.append(action.token)
                elif isinstance(action, Compute):
                    self._compute(action)
                elif isinstance(action, Drop):
                    self.stages.drop(action.work)
                else:
                    self._times.forget(action.plan, action.epoch)
                    self.proving.gone(action.plan, action.epoch)
                    if not self.session.epochs(action.plan):
                        self.tally.unloaded(action.plan)
                    self._spawn(self.stages.unload(action.plan, action.epoch))
            actions = [more for token in failed for more in self.session.undeliverable(token, monotonic_us())]
            actions += [more for token in doubtful for more in self.session.doubtful(token)]
        if self.draining and not self._in_flight():
            self._idle.set()
        self._arm()

    def _send(self, peer: NodeName, token: Token) -> Link | None:
        """The link that took a token; None if there is none, or it is full."""
        key = token.key
        link = self.links.get(peer, self.stages.kind(key.plan, key.epoch, token.edge))
        if link is None:
            return None
        try:
            link.send_tensors(encode_envelope(token, monotonic_us()))
        except CollabError as error:
            log.debug("token for %s not sent: %s", peer, error)
            return None
        self.tally.sent(token, self.stages.plan(key.plan, key.epoch))
        return link

    async def _wake(self, action: Compute) -> None:
        await self.proving.wake(action.plan, action.epoch)
        self._compute(action)

    def _compute(self, action: Compute) -> None:
        if self.proving.rests(action.plan, action.epoch):
            self._spawn(self._wake(action))
            return
        worker = self.stages.worker(action.plan, action.epoch, action.stage)
        try:
            if worker is None:
                raise NotLoaded(f"stage {action.stage} was unloaded")
            worker.submit(action.work, action.inputs, action.deadline_us, action.priority, action.requester)
        except (NotLoaded, Overloaded) as error:
            fault = Fault(error.code, str(error))
            self._perform(self.session.computed(action.work, fault, monotonic_us()))

    def _arm(self) -> None:
        """Wake up when the session next has something to do by itself."""
        due_us = self.session.next_wakeup_us()
        if due_us is None or due_us >= self._timer_us:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_us = due_us
        self._timer = self._loop.call_later(max(0.0, (due_us - monotonic_us()) / 1e6), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_us = None, _NEVER_US
        self._perform(self.session.tick(monotonic_us()))

    # --- links -----------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A peer can be found."""
        peer, address = link.peer, link.connection.address
        log.info("link up: %s (%s) at %s", peer.name, peer.role, address, extra={"peer": peer.name})
        if self.draining:
            self._tell_drained(link)

    def link_down(self, link: Link, error: CollabError) -> None:
        """A link ended; its peer is lost unless another link to it lives."""
        broke_rules = isinstance(error, (ProtocolError, LimitExceeded))
        log.log(logging.WARNING if broke_rules else logging.INFO, "link down: %s: %s", link.peer.name, error)
        self.tally.link_ended(link)
        if self.links.get(link.peer.name) is None:
            self._perform(self.session.peer_lost(link.peer.name, monotonic_us()))

    def link_suspected(self, link: Link) -> None:
        """A peer is silent: tell who waits for what it was given, unless another link to it is well."""
        other = self.links.get(link.peer.name)
        if other is None or other.health is Health.SUSPECTED:
            self._perform(self.session.peer_suspected(link.peer.name, monotonic_us()))

    async def call(self, link: Link, verb: str, body: memoryview) -> bytes:
        """Serve a control verb."""
        return await self.dispatcher.call(Caller(link.peer.name, link.peer.role), verb, body)

    # --- counters ----------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Everything counted on this node, by name.

        ``stage_us:PLAN/EPOCH/STAGE`` and ``stage_runs:…`` of each loaded stage that has run;
        ``quarantined:PLAN/STAGE/MEMBER``, requests that a member was left out of.
        """
        stages = self._times.counters(self.stages.plan)
        stages |= {f"quarantined:{where}": n for where, n in self.stages.left_out().items()}
        stages["codec_fallbacks"] = self.stages.codec_fallbacks
        return {**self.session.counters, **self.tally.counters, **stages}


def _is_refusal(action: Action) -> bool:
    return isinstance(action, Send) and action.token.kind is Kind.FAILED
