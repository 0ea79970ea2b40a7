"""Federated training on a node: performs what its `Participant` decides, and answers for its orders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest
from collab.errors import BackendError, CollabError, NotLoaded, Refused
from collab.federated import participant as machine
from collab.federated.compression.settings import ABILITIES
from collab.federated.orders import OrderId
from collab.node.store import Store
from collab.node.training_config import TrainingConfig
from collab.node.training_errand import Errand
from collab.node.training_files import TrainingFiles
from collab.node.training_masked import MaskedOrder
from collab.node.training_offer import Ask, unsuited
from collab.node.training_policy import Look, Refusal, look, refusal
from collab.node.training_thread import Guard, TrainingThread, energy_meter
from collab.node.training_weights import OffLoop, TrainingWeights
from collab.node.training_work import Enrolled, Job, MakeTrainer, Part, Product, evaluate, train
from collab.node.verbs import Caller
from collab.telemetry.catalogue import TRAINING_CAUSES

if TYPE_CHECKING:
    from collab.node.gateway import Gateway
    from collab.security.identity import Credentials

log = logging.getLogger("collab.training")

MAX_WAIT_S: Final = 20.0
"""Longest that a question for the state of an order waits; calls end after 30 s."""
_WATCH_S: Final = 1.0
"""Between two looks at the policy while training."""


class NodeTraining:
    """One order at a time; a run's weights, updates and states live in the node's store."""

    def __init__(
        self,
        name: str,
        config: TrainingConfig,
        store: Store,
        off_loop: OffLoop,
        trainers: Mapping[str, MakeTrainer],
        read_device: Look = look,
        gateway: Gateway | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.config = config
        self.draining = False
        self._name = name
        self._store = store
        self._off_loop = off_loop
        self._trainers = trainers
        self._look = read_device
        self._gateway = gateway
        """Where others train in this node's place."""
        self._files = TrainingFiles(store.training)
        self._weights = TrainingWeights(store, self._files, off_loop, self.used_digests)
        self._masked = MaskedOrder(name, credentials)
        self._machine = machine.Participant()
        self._thread = TrainingThread()
        self._deciding = asyncio.Lock()
        self._errand: Errand | None = None
        self._at_work: Guard | None = None
        """Of the training that the thread is at; it may be of an order that was given up."""
        self._trial: Errand | None = None
        """The latest evaluation."""
        self._enrolled: tuple[Digest, Enrolled] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.declined = dict.fromkeys(TRAINING_CAUSES, 0)
        """Orders that were declined or given up for the settings' sake, by cause."""

    # --- life ------------------------------------------------------------------

    async def start(self) -> None:
        """Go on where the node ended: an update that was made can still be fetched."""
        kept = await self._off_loop(self._files.standing)
        if kept is not None:
            standing, made = kept
            self._machine = machine.Participant(standing)
            errand = Errand(standing.order, None, "training", made=made)
            errand.announce(standing.digest, standing.bytes)
            self._errand = errand
            await self._weights.held(standing.order.run)

    async def close(self) -> None:
        """End training at its next step; a server offers it again."""
        for errand in (self._errand, self._trial):
            if errand is not None:
                errand.stop("the node stops")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._thread.close()

    def used_digests(self) -> list[Digest]:
        """Blobs that must stay in the store."""
        used = list(self._weights.latest)
        for errand in (self._errand, self._trial):
            if errand is not None:
                used += errand.used_digests
        return used

    @property
    def _trains(self) -> bool:
        return bool(self.config.data) or self._gateway is not None

    @property
    def round(self) -> int | None:
        """Round of the latest order; None before the first."""
        return self._errand.order.round if self._errand is not None else None

    def is_update(self, sha256: Digest) -> bool:
        """Whether a blob is the update that was made last."""
        return self._errand is not None and self._errand.update == sha256

    def check(self, caller: Caller, verb: str) -> None:
        """Refuse a node that is no gateway of this one; raises `Refused`."""
        if caller.role != "node" or caller.name in self.config.gateways:
            return
        log.warning("%s of %s (%s) is refused", verb, caller.name, caller.role)
        raise Refused(
            f"{verb}: {caller.name!r} may not have {self._name!r} train; "
            f"name it in training.gateways there, which has {', '.join(self.config.gateways) or 'nobody'}"
        )

    # --- verbs -----------------------------------------------------------------

    async def describe(self, run: str, trainable: Digest | None) -> pb.DescribeTrainingReply:
        """What this node can do in a run."""
        reply = pb.DescribeTrainingReply(refusal=(await self._refusal()).reason, encodings=sorted(ABILITIES))
        if not self._trains:
            return reply
        reply.children = len(self.config.children)
        reply.trainer = self.config.trainer
        reply.ready = trainable is not None and bool(await self._weights.holding([trainable]))
        if reply.ready and trainable is not None:
            if self._gateway is not None:
                reply.samples = await self._gateway.enrol(run, await self._trainable(trainable))
                reply.refusal = reply.refusal or ("" if reply.samples else "none of its children is there")
            else:
                reply.samples = (await self._trainer(trainable)).samples
            reply.step_s = await self._off_loop(self._files.step_s, trainable)
        if run:
            reply.holds.extend(await self._weights.held(run))
        return reply

    async def offer(self, ask: Ask) -> pb.OfferTrainingReply:
        """Take an order or decline it; again, and it stands where it stood."""
        refused = await self._refusal()
        if not refused.cause:
            refused = Refusal("unsuited", unsuited(self.config, ask))
        if ask.evaluate:
            state = self._offer_trial(ask, refused.reason)
        else:
            async with self._deciding:
                state = await self._offer_order(ask, refused.reason)
        if state.state == "declined":
            # What stands in the way where the settings allow it is another order.
            self.declined[refused.cause if refused.reason else "busy"] += 1
        reply = pb.OfferTrainingReply(state=state)
        if state.state == "accepted":
            holding = await self._weights.holding(ask.blobs)
            reply.lacks.extend([digest for digest in ask.blobs if digest not in holding])
            reply.holds.extend(await self._weights.held(ask.order.run))
        return reply

    def _offer_trial(self, ask: Ask, refused: str) -> pb.TrainingState:
        trial = self._trial
        if trial is not None and trial.order == ask.order and trial.state in ("training", "done"):
            return trial.message()
        if refused:
            return pb.TrainingState(state="declined", reason=refused)
        if trial is not None:
            trial.stop("another evaluation was asked for")
        self._trial = Errand(ask.order, ask, "accepted")
        return self._trial.message()

    async def _offer_order(self, ask: Ask, refused: str) -> pb.TrainingState:
        before = self._errand
        actions = self._machine.handle(machine.Offered(ask.order, ask.work, refused), _now())
        fresh = any(isinstance(action, machine.Accept) for action in actions)
        if fresh and (before is None or before.order != ask.order or before.over.is_set()):
            # What is freed and settled below is the former order's.
            await self._perform([a for a in actions if not isinstance(a, machine.Accept)])
            for digest in await self._off_loop(self._files.enter, ask.order.run):
                await self._off_loop(self._store.drop, [digest])
            self._errand = Errand(ask.order, ask, "accepted")
            self._spawn(self._watch(self._errand))
            return self._errand.message()
        declined = [action for action in actions if isinstance(action, machine.Decline)]
        if declined:
            return pb.TrainingState(state="declined", reason=declined[0].reason)
        await self._perform(actions)
        assert self._errand is not None
        return self._errand.message()

    async def begin(self, order: OrderId, evaluating: bool, parts: Sequence[Part]) -> pb.TrainingState:
        """Make weights of the blobs that came, then do the work."""
        errand = self._found(order, evaluating)
        if errand is None or errand.ask is None:
            raise NotLoaded(f"order {order.round} of run {order.run!r} is not known here; offer it")
        if errand.state != "accepted":
            return errand.message()
        await self._weights.restore(errand.ask, parts)
        if evaluating:
            if errand.state == "accepted":
                errand.state = "training"
                self._spawn(self._evaluate(errand, errand.ask))
        else:
            async with self._deciding:
                await self._perform(self._machine.handle(machine.ModelCame(order), _now()))
        return errand.message()

    async def mask(self, order: OrderId, message: bytes) -> bytes:
        """The answer to a message of a secure sum."""
        ask = self._errand.ask if self._errand is not None else None
        said: bytes = await self._off_loop(self._masked.answer, ask, order, message)
        return said

    async def status(self, order: OrderId, evaluating: bool, wait_s: float) -> pb.TrainingState:
        """Where an order stands, as soon as it is over or after so long."""
        errand = self._found(order, evaluating)
        if errand is None:
            return pb.TrainingState(state="unknown")
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(errand.over.wait(), min(wait_s, MAX_WAIT_S))
        return errand.message()

    async def end(self, order: OrderId, evaluating: bool, counted: bool, leave: bool) -> None:
        """The server has what it wanted of an order, or wants it no more."""
        if evaluating:
            errand = self._found(order, True)
            if errand is not None:
                errand.stop("the server wants it no more")
        else:
            async with self._deciding:
                event: machine.ClientEvent = machine.Cancelled(order, "the server wants it no more")
                if self._machine.phase == "uploading":
                    event = machine.Acknowledged(order, counted)
                await self._perform(self._machine.handle(event, _now()))
        if leave:
            await self._leave(order.run)

    async def _leave(self, run: str) -> None:
        if self._errand is not None and self._errand.order.run == run:
            dropped = [self._errand.update] if self._errand.update is not None else []
            self._errand = None
            await self._off_loop(self._store.drop, dropped)
        if self._gateway is not None:
            self._spawn(self._gateway.leave(run))
        self._masked.forget(run)
        self._weights.forget(run)
        if self._trial is not None and self._trial.order.run == run:
            self._trial = None
        await self._off_loop(self._store.drop, await self._off_loop(self._files.leave, run))

    # --- deciding ----------------------------------------------------------------

    def _found(self, order: OrderId, evaluating: bool) -> Errand | None:
        errand = self._trial if evaluating else self._errand
        return errand if errand is not None and errand.order == order else None

    async def _refusal(self) -> Refusal:
        """Why nothing is begun here now; an empty one where it may be."""
        if not self._trains:
            text = f"{self._name!r} does not train; set training.data in its settings"
            return Refusal("not_set_up", text)
        if self.draining:
            return Refusal("draining", f"{self._name!r} drains")
        guard = self._errand.guard if self._errand is not None else None
        if self._at_work is not None and self._at_work.hangs:
            return Refusal("hangs", "the training before hangs; start the node again")
        try:
            await self._off_loop(energy_meter, self.config)
        except Refused as error:
            return Refusal("energy", str(error))
        return refusal(self.config, await self._off_loop(self._look), at_work=guard is not None)

    async def _perform(self, actions: Iterable[machine.ClientAction]) -> None:
        for action in actions:
            await self._perform_one(action)

    async def _perform_one(self, action: machine.ClientAction) -> None:
        errand = self._errand
        if isinstance(action, machine.Settle):
            await self._off_loop(self._files.settle, action.order.run, action.keep)
            if self._gateway is not None:
                self._spawn(self._gateway.settle(action.order, action.keep))
        elif isinstance(action, machine.Free):
            await self._off_loop(self._store.drop, [action.digest])
        elif errand is None:
            return
        elif isinstance(action, machine.Train):
            assert errand.ask is not None
            errand.state = "training"
            errand.guard = Guard(self.config)
            self._spawn(self._train(errand, errand.ask, errand.guard))
        elif isinstance(action, machine.Stop):
            errand.stop("the server asks for something else")
            errand.end("failed", "cancelled")
        elif isinstance(action, machine.Remember):
            await self._off_loop(self._files.remember, action.standing, errand.made)
        elif isinstance(action, machine.Announce):
            errand.announce(action.digest, action.bytes)
        elif isinstance(action, machine.Tell):
            errand.end("failed", action.reason)

    async def _decide(self, event: machine.ClientEvent) -> None:
        async with self._deciding:
            await self._perform(self._machine.handle(event, _now()))

    async def _watch(self, errand: Errand) -> None:
        """End an order whose time has passed, or that the policy forbids by now."""
        while not errand.over.is_set():
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(errand.over.wait(), _WATCH_S)
            if errand.over.is_set():
                return
            now = await self._off_loop(self._look)
            cause, forbidden = refusal(self.config, now, at_work=True)
            if forbidden:
                self.declined[cause] += 1
                errand.end("failed", forbidden)
                await self._decide(machine.Cancelled(errand.order, forbidden))
            due_s = self._machine.wake_at
            if due_s is not None and due_s <= _now():
                await self._decide(machine.Tick())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- working -----------------------------------------------------------------

    async def _train(self, errand: Errand, ask: Ask, guard: Guard) -> None:
        event: machine.ClientEvent
        try:
            product = await self._product(ask, guard)
            errand.made = product.made
            digest = await self._off_loop(self._store.add, product.update, self.used_digests())
            await self._off_loop(self._files.stage, ask.order.run, product.state)
            step_s = product.made.seconds / max(1, product.made.steps)
            await self._off_loop(self._files.keep_step_s, ask.trainable, step_s)
            event = machine.Finished(ask.order, digest, len(product.update))
        except Exception as error:
            event = machine.Broke(ask.order, guard.reason or self._said(error))
        errand.guard = None
        await self._decide(event)

    async def _product(self, ask: Ask, guard: Guard) -> Product:
        """What training comes to, here or at the children."""
        state = await self._off_loop(self._files.client, ask.order.run)
        if self._gateway is not None:
            weights = await self._weights.read(ask.work.model)
            return await self._gateway.train(ask, await self._trainable(ask.trainable), weights, state)
        job = Job(
            self._name,
            ask.order,
            ask.work.training,
            ask.encoding,
            ask.clip,
            ask.noise_multiplier,
            weights=await self._weights.path(ask.work.model),
            control=await self._weights.path(ask.work.control) if ask.work.control is not None else None,
            state=state,
            mask=self._masked.masking(ask.order) if ask.masked else None,
        )
        enrolled = await self._trainer(ask.trainable)

        def work() -> Product:
            self._at_work = guard
            try:
                guard.begin()
                return train(job, enrolled, guard)
            finally:
                self._at_work = None

        return await self._thread.run(work)

    async def _evaluate(self, errand: Errand, ask: Ask) -> None:
        try:
            if self._gateway is not None:
                weights = await self._weights.read(ask.work.model)
                trainable = await self._trainable(ask.trainable)
                errand.made = await self._gateway.evaluate(ask, trainable, weights)
            else:
                path = await self._weights.path(ask.work.model)
                errand.made = await self._thread.run(evaluate, await self._trainer(ask.trainable), path)
            errand.end("done")
        except Exception as error:
            errand.end("failed", self._said(error))

    def _said(self, error: Exception) -> str:
        """An error in one line; a third party's is logged whole."""
        if isinstance(error, CollabError):
            return str(error)
        log.error("trainer %r fails", self.config.trainer, exc_info=error)
        return f"trainer {self.config.trainer!r} fails with {type(error).__name__}; see the node's log"

    async def _trainable(self, digest: Digest) -> tuple[Digest, bytes]:
        return digest, await self._weights.read(digest)

    async def _trainer(self, trainable: Digest) -> Enrolled:
        if self._enrolled is None or self._enrolled[0] != trainable:
            make = self._trainers.get(self.config.trainer)
            if make is None:
                known = ", ".join(sorted(self._trainers))
                raise BackendError(f"training.trainer: {self.config.trainer!r} is not known; use {known}")
            path = await self._weights.path(trainable)
            self._enrolled = (trainable, await self._thread.run(make, path, self.config))
        return self._enrolled[1]


def _now() -> float:
    return time.monotonic()
