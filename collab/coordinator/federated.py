"""The server of a federated run over links: performs what its `Rounds` decide.

Journal and weights are written by one thread, in the order of the decisions.  What
concerns one client is a task of its own; a lost link ends it without a word, and the client
is offered its order again when it is back.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from collab.client.remote_client import RemoteClient
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.coordinator.federated_clients import Clients
from collab.coordinator.federated_evaluation import EvaluateHere, Evaluations
from collab.coordinator.federated_masking import SecureRounds
from collab.coordinator.federated_tasks import RunTasks
from collab.core.ids import Digest
from collab.errors import CollabError, IntegrityError, LinkLost, PeerUnreachable
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated.children import read_children
from collab.federated.journal import Blobs, Journal
from collab.federated.orders import OrderId, SumRules
from collab.federated.records import RoundRecord, Swap
from collab.federated.rounds import Rounds
from collab.federated.server_work import Broadcast, ServerWork
from collab.federated.task import Task
from collab.federated.update import Parameters

if TYPE_CHECKING:
    from collab.coordinator.swap import Swapper

_AWAY: Final = (LinkLost, PeerUnreachable)
_UNSIGNED: Final = (
    "secure_aggregation without identities: nobody signs keys, so updates are hidden from a server that "
    "keeps to the rules, and from no other; see 'collab cluster init'"
)


@dataclass(frozen=True)
class Begin:
    """What a new run begins with."""

    run: str
    task: Digest
    model: Digest
    model_bytes: int
    control: Digest | None = None
    """The first control variate (SCAFFOLD)."""


class Watcher:
    """Told what happens, for people and files; does nothing by itself."""

    def notice(self, notice: do.Notify) -> None:
        """One line about the run."""

    def record(self, record: RoundRecord) -> None:
        """A round is over; one of the same round replaces it.  May block: it is not called in the loop."""

    def swapped(self, swap: Swap) -> None:
        """A round's model was put into the plan that runs, or was not.  May block, as `record`."""

    def clients(self, clients: Sequence[RemoteClient]) -> None:
        """What clients are at has changed."""


class FederatedServer:
    """One run.  `run` returns when it is over, or stopped."""

    def __init__(
        self,
        cluster: Cluster,
        task: Task,
        rounds: Rounds,
        journal: Journal,
        blobs: Blobs,
        work: ServerWork,
        trainable: tuple[Digest, bytes],
        scratch: Path,
        watcher: Watcher,
        evaluate_here: EvaluateHere | None = None,
        swaps: Swapper | None = None,
    ) -> None:
        self._secured = cluster.security is not None
        self._task = task
        self._rounds = rounds
        self._journal = journal
        self._blobs = blobs
        self._work = work
        self._watcher = watcher
        self._swaps = swaps
        self._swapping: set[asyncio.Task[None]] = set()
        self._last: RoundRecord | None = None
        self._offered_round = 0
        self._run = ""
        self._events: asyncio.Queue[on.Event] = asyncio.Queue()
        self._tasks = RunTasks(self.stop)
        self._off_loop = self._tasks.off_loop
        self._clients = Clients(
            cluster.links,
            task.transports,
            trainable,
            scratch,
            self._tell,
            self._notify,
            lambda: self._rounds.ledger.begun,
        )
        self._evaluations = Evaluations(
            self._clients,
            self._broadcast,
            task.evaluation.deadline_s,
            evaluate_here,
            self._off_loop,
            swaps,
        )
        self._unsettled: set[Digest] = set()
        """Updates that were fetched and are not in the journal yet."""
        self._sums = SumRules(aggregation=task.aggregation, gate=task.gate, seed=task.seed)
        self._trained: dict[tuple[str, OrderId], pb.TrainingState] = {}
        """What was told of updates that are not fetched yet."""
        self._secure: SecureRounds | None = None
        if task.secure is not None:
            terms = (task, task.secure, trainable[0], cluster.security)
            self._secure = SecureRounds(self._clients, *terms, work, self._off_loop, self._left_out)
        self._agreement: asyncio.Task[None] | None = None

    # --- outside -------------------------------------------------------------------

    async def run(self, begin: Begin, peers: Sequence[str], release: Sequence[str] = ()) -> do.Finish:
        """Go on until the run is over; raises `StoreError` when the disk fails.

        Clients of ``release`` are taken out of quarantine.
        """
        self._run = self._rounds.ledger.run or begin.run
        if self._secure is not None and not self._secured:
            self._notify(do.Notify("warning", _UNSIGNED))
        try:
            for address in peers:
                self._tasks.spawn(self._clients.follow(address, self._run))
            actions = self._rounds.begin(
                begin.run, begin.task, begin.model, begin.model_bytes, _now(), begin.control
            )
            finish = await self._perform(actions)
            for name in release:
                self._tell(on.Released(name))
            while finish is None:
                finish = await self._perform(self._rounds.handle(await self._next(), _now()))
            self._tasks.check()
            await self._say_goodbye(finish)
            await self._swap_last(finish)
            return finish
        finally:
            await self._tasks.close()

    def stop(self) -> None:
        """End soon, so that the run can be resumed."""
        self._events.put_nowait(on.StopAsked())

    async def _next(self) -> on.Event:
        wake = self._rounds.wake_at
        with suppress(TimeoutError, asyncio.TimeoutError):
            left = None if wake is None else max(0.0, wake - _now())
            return await asyncio.wait_for(self._events.get(), left)
        return on.Tick()

    async def _say_goodbye(self, finish: do.Finish) -> None:
        """Let clients forget a run that cannot be resumed."""
        if finish.outcome == "stopped":
            return
        order = OrderId(self._run, self._rounds.ledger.round)
        leaving = (client.leave(order) for client in self._clients.everyone())
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*leaving, return_exceptions=True), 2.0)

    # --- actions -----------------------------------------------------------------------

    async def _perform(self, actions: Sequence[do.Action]) -> do.Finish | None:
        """Perform actions and what follows from writing the journal; the end of the run if it has come."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, do.Finish):
                return action
            if isinstance(action, do.Persist):
                await self._off_loop(self._journal.append, action.entry)
                more = self._rounds.handle(on.Persisted(action.step), _now())
                if action.compact:
                    await self._off_loop(self._journal.compact, self._rounds.snapshot())
                todo.extendleft(reversed(more))
            elif isinstance(action, do.Record):
                await self._off_loop(self._watcher.record, action.record)
                self._last = action.record
                if self._swaps is not None and self._swaps.due(action.record):
                    await self._begin_swap(action.record)
            else:
                _PERFORM[type(action)](self, action)
        self._watcher.clients(self._clients.everyone())
        return None

    def _keep(self, action: do.Keep) -> None:
        kept = action.digests | self._unsettled | (self._swaps.holds if self._swaps is not None else set())
        self._tasks.spawn_quietly(self._off_loop(self._blobs.keep, kept))

    def _notify(self, action: do.Notify) -> None:
        self._watcher.notice(action)

    def _offer(self, action: do.Offer) -> None:
        self._for_order(action.client, action.order, self._offered(action))

    async def _offered(self, action: do.Offer) -> None:
        client, order = self._clients[action.client], action.order
        if client.gateway and self._work.rules.refuses_sums:
            self._tell(on.Declined(action.client, order, self._work.rules.refuses_sums))
            return
        encoding, private = self._task.compression.up, self._task.privacy
        masked = self._secure is not None
        state = await client.offer(order, action.work, encoding, private, self._sums, masked)
        client.state = state.state
        if state.state == "declined":
            self._tell(on.Declined(action.client, order, state.reason))
        elif state.state == "accepted":
            self._tell(on.Accepted(action.client, order))
        else:
            await self._watch(client, order)

    def _send(self, action: do.Send) -> None:
        self._for_order(action.client, action.order, self._sent(action))

    async def _sent(self, action: do.Send) -> None:
        client = self._clients[action.client]
        client.state = "receives the model"
        sent = await client.send(action.order, self._broadcast)
        self._tell(on.Sent(action.client, action.order, sent))
        await self._watch(client, action.order)

    async def _broadcast(self, digest: Digest, holds: tuple[Digest, ...]) -> Broadcast:
        return await self._off_loop(self._work.broadcast, digest, holds)

    async def _watch(self, client: RemoteClient, order: OrderId) -> None:
        """See an order through to its update."""

        def progress(state: pb.TrainingState) -> None:
            client.state = f"trains, {state.steps} steps" if state.state == "training" else state.state
            self._watcher.clients(self._clients.everyone())

        state = await client.outcome(order, progress)
        if state.state == "done":
            self._trained[client.name, order] = state
            self._tell(on.Announced(client.name, order, Digest(state.update), int(state.update_bytes)))
        elif state.state == "unknown":
            # It was started again so quickly that its link was not missed.
            self._tell(on.Left(client.name))
            self._tell(on.Joined(client.name, await client.enrol()))
        else:
            self._tell(on.Failed(client.name, order, state.reason or state.state))

    def _fetch(self, action: do.Fetch) -> None:
        self._for_order(action.client, action.order, self._fetched(action))

    async def _fetched(self, action: do.Fetch) -> None:
        client, ledger = self._clients[action.client], self._rounds.ledger
        client.state = "sends its update"
        try:
            data = await client.fetch(action.digest, action.bytes)
        except IntegrityError as error:
            reason = str(error)
            self._tell(on.Refused(action.client, action.order, "update", reason, action.bytes))
            return
        told = self._trained.pop((action.client, action.order), pb.TrainingState())
        judge: Callable[..., on.Arrived | on.Refused] = self._work.judge
        if self._secure is not None:
            judge = functools.partial(self._secure.judge, samples=self._clients.samples[action.client])
        else:
            entering = (ledger.round, ledger.model, self._clients.samples, list(ledger.counted))
            await self._off_loop(self._work.enter_round, *entering)
            self._unsettled.add(action.digest)
        if client.gateway:
            judge = functools.partial(self._work.judge_sum, samples=int(told.samples))
        verdict = await self._off_loop(judge, action.client, action.order, action.digest, data)
        if isinstance(verdict, on.Arrived):
            update = replace(verdict.update, seconds=told.seconds)
            if client.gateway:
                loss = next((metric.value for metric in told.metrics if metric.name == "loss"), None)
                update = replace(update, loss=loss, children=read_children(told.children))
            verdict = replace(verdict, update=update)
        client.state = "done"
        self._tell(verdict)

    def _acknowledge(self, action: do.Acknowledge) -> None:
        self._ended(action.client, action.order, action.counted)

    def _cancel(self, action: do.Cancel) -> None:
        self._tasks.cancel((action.client, action.order))
        self._ended(action.client, action.order, False)

    def _ended(self, name: str, order: OrderId, counted: bool) -> None:
        self._trained.pop((name, order), None)
        if self._secure is not None:
            self._secure.settled(name, order, counted)
        client = self._clients.get(name)
        if client is not None:
            client.state = "counted" if counted else ""
            self._tasks.spawn_quietly(client.end(order, counted))

    def _aggregate(self, action: do.Aggregate) -> None:
        self._tasks.spawn(self._aggregated(action))

    async def _aggregated(self, action: do.Aggregate) -> None:
        clients = max(len(self._clients.samples), len(action.updates))
        try:
            models = self._rounds.ledger.models
            self._tell(await self._off_loop(self._work.aggregate, action, clients, models))
        except CollabError as error:
            self._tell(on.AggregationFailed(action.round, str(error)))
        self._unsettled.difference_update(update.digest for update in action.updates)

    def _agree(self, action: do.Agree) -> None:
        if self._agreement is not None:
            self._agreement.cancel()
        self._agreement = self._tasks.spawn(self._agreed(action))

    async def _agreed(self, action: do.Agree) -> None:
        assert self._secure is not None
        self._tell(await self._secure.agree(action, self._rounds.ledger))

    def _sum(self, action: do.Sum) -> None:
        self._tasks.spawn(self._summed(action))

    async def _summed(self, action: do.Sum) -> None:
        assert self._secure is not None
        self._tell(await self._secure.open(action, self._rounds.ledger))

    def _left_out(self, name: str, why: str) -> None:
        self._notify(do.Notify("failed", f"{name}: {why}", name))

    def _evaluate(self, action: do.Evaluate) -> None:
        for name in action.clients or ("",):
            self._tasks.spawn(self._evaluated(action, name))

    async def _evaluated(self, action: do.Evaluate, name: str) -> None:
        self._tell(await self._evaluations.at(action, name))

    # --- swaps -------------------------------------------------------------------------

    async def _begin_swap(self, record: RoundRecord) -> None:
        """Have a round's model tried while the run goes on; its weights are read before they may go."""
        self._offered_round = record.round
        weights = await self._off_loop(self._work.model, record.model)
        task = self._tasks.spawn(self._swap(record, weights))
        self._swapping.add(task)
        task.add_done_callback(self._swapping.discard)

    async def _swap(self, record: RoundRecord, weights: Parameters) -> None:
        assert self._swaps is not None
        swap = await self._swaps.offer(record, weights)
        if swap is not None:
            await self._off_loop(self._watcher.swapped, swap)

    async def _swap_last(self, finish: do.Finish) -> None:
        """At the end of a run its last model is tried, and what is under way is waited for."""
        last = self._last
        over = finish.outcome in ("done", "spent")
        if self._swaps is not None and last is not None and over and self._offered_round < last.round:
            await self._begin_swap(last)
        if finish.outcome != "stopped":
            await asyncio.gather(*self._swapping)
        self._tasks.check()

    # --- tasks -------------------------------------------------------------------------

    def _tell(self, event: on.Event) -> None:
        self._events.put_nowait(event)

    def _for_order(self, name: str, order: OrderId, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.spawn(self._guarded(name, order, work), (name, order))

    async def _guarded(self, name: str, order: OrderId, work: Awaitable[None]) -> None:
        """A lost link says nothing: the client is offered its order again; other errors end the order."""
        try:
            await work
        except _AWAY as error:
            client = self._clients[name]
            if client.link is not None and client.link.ended is None:
                self._tell(on.Failed(name, order, str(error)))
        except CollabError as error:
            self._tell(on.Failed(name, order, str(error)))


_PERFORM: Final[dict[type, Callable[[FederatedServer, Any], None]]] = {
    do.Offer: FederatedServer._offer,
    do.Send: FederatedServer._send,
    do.Agree: FederatedServer._agree,
    do.Sum: FederatedServer._sum,
    do.Fetch: FederatedServer._fetch,
    do.Acknowledge: FederatedServer._acknowledge,
    do.Cancel: FederatedServer._cancel,
    do.Aggregate: FederatedServer._aggregate,
    do.Evaluate: FederatedServer._evaluate,
    do.Keep: FederatedServer._keep,
    do.Notify: FederatedServer._notify,
}


def _now() -> float:
    return time.monotonic()
