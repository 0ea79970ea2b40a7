"""A federated run in virtual time: real machines, journal and weights; toy training."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import get_args

import numpy as np

from collab.core.ids import Digest
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated import participant as part
from collab.federated.actions import Action
from collab.federated.journal import Blobs, FileJournal
from collab.federated.masked import MaskedUpdates
from collab.federated.orders import Capabilities, OrderId, UpdateRef, Work
from collab.federated.privacy.identities import name_signer, name_verifier
from collab.federated.privacy.masking import Masking, encode_invitation, invite
from collab.federated.privacy.sessions import ClientSession, ServerSession
from collab.federated.record_file import RecordFile
from collab.federated.records import RoundRecord
from collab.federated.rounds import Rounds
from collab.federated.sums import MeanOfSum, pack_sum, unpack_sum
from collab.federated.task import Task
from tests.unit.federated.disks import Killed, MemoryDisk

ACTIONS = get_args(Action)
INITIAL = np.linspace(-1, 1, 5)
MASKING, SHAPES = Masking(), {"w": INITIAL.shape}


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


@dataclass
class Client:
    """One device.  Its residual is error feedback: a lost or doubled commit changes every later update."""

    name: str
    world: World
    samples: int = 10
    seconds: float = 1.0
    """Of training."""
    poison: bool = False
    refusal: str = ""
    here: bool = True
    machine: part.Participant = field(default_factory=part.Participant)
    trainings: dict[OrderId, int] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    residual: np.ndarray = field(default_factory=lambda: np.zeros_like(INITIAL))
    staged: dict[OrderId, np.ndarray] = field(default_factory=dict)
    settled: list[tuple[OrderId, bool]] = field(default_factory=list)
    standing: part.Standing | None = None
    model: bytes = b""
    session: tuple[OrderId, ClientSession] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(samples=self.samples)

    def take(self, event: part.ClientEvent) -> None:
        for action in self.machine.handle(event, self.world.now):
            self._perform(action)

    def _perform(self, action: part.ClientAction) -> None:
        tell = self.world.to_server
        match action:
            case part.Accept(order):
                tell(on.Accepted(self.name, order))
            case part.Decline(order, reason):
                tell(on.Declined(self.name, order, reason))
            case part.Train(order, work):
                training = sum(c.machine.phase == "training" for c in self.world.clients.values())
                self.world.most_training = max(self.world.most_training, training)
                self.world.later(self.seconds, lambda: self._trained(order, work))
            case part.Announce(order, digest, size):
                tell(on.Announced(self.name, order, digest, size))
            case part.Tell(order, reason):
                tell(on.Failed(self.name, order, reason))
            case part.Settle(order, keep):
                self.settled.append((order, keep))
                staged = self.staged.pop(order, None)
                if keep and staged is not None:
                    self.residual = staged
            case part.Remember(standing):
                self.standing = standing
            case part.Free(digest):
                self.blobs.pop(digest, None)
            case part.Stop(_):
                pass

    def _trained(self, order: OrderId, work: Work) -> None:
        if self.machine.phase != "training" or self.machine.order != order:
            return
        self.trainings[order] = self.trainings.get(order, 0) + 1
        chance = np.random.default_rng(work.training.seed)
        weights = np.frombuffer(self.model)
        exact = (chance.normal(size=weights.size) - weights) / 3 + self.residual
        delta = np.round(exact, 2)
        self.staged[order] = exact - delta
        data = (np.full_like(delta, np.nan) if self.poison else delta).tobytes()
        if self.world.task.secure is not None:
            self.staged.pop(order)
            if self.session is None or self.session[0] != order:
                self.take(part.Broke(order, "holds no keys"))
                return
            data = self.session[1].masked({"w": delta}, self.samples)
        digest = digest_of(data)
        self.blobs[digest] = data
        self.take(part.Finished(order, digest, len(data)))

    @property
    def state(self) -> bytes:
        """Its residual; if it was not told what became of its last update, as the next offer would tell."""
        staged = self.staged.get(self.standing.order) if self.standing is not None else None
        return (self.residual if staged is None else staged).tobytes()

    def restart(self) -> None:
        """The client's process dies and begins anew with what it kept."""
        self.machine = part.Participant(self.standing)


class World:
    """Runs until the server finishes or nothing is left to happen."""

    def __init__(
        self,
        task: Task,
        names: list[str],
        *,
        delay: float = 0.0,
        spent: Callable[[int], str] = lambda models: "",
    ) -> None:
        self.task = task
        self.now = 0.0
        self.delay = delay
        self._spent = spent
        self.most_training = 0
        self.disk = MemoryDisk()
        self.weights = MemoryDisk(self.disk.fuse)
        self.clients = {name: Client(name, self, seconds=1 + i / 8) for i, name in enumerate(names)}
        self.finish: do.Finish | None = None
        self.files = MemoryDisk(self.disk.fuse)
        self.notices: list[do.Notify] = []
        self.acknowledged: list[tuple[str, OrderId, bool]] = []
        self.aggregated: list[do.Aggregate] = []
        self.evaluated: list[do.Evaluate] = []
        self.kills = 0
        self.sessions: set[str] = set()
        self._times = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._queue: deque[Action | on.Event] = deque()
        self._incarnation = 0
        self.rounds: Rounds | None = None

    # --- time -----------------------------------------------------------------------

    def later(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._times), what))

    def run(self, until: float = 1e6) -> World:
        if self.rounds is None:
            self.guarded(self._start)
        while self.finish is None:
            assert self.rounds is not None
            wake = self.rounds.wake_at
            if self._heap and (wake is None or self._heap[0][0] <= wake):
                at, _, what = heapq.heappop(self._heap)
            elif wake is not None:
                at, what = wake, lambda: self.feed(on.Tick())
            else:
                break
            if at > until:
                break
            self.now = max(self.now, at)
            self.guarded(what)
        return self

    def deliver(self) -> None:
        """Let what was sent to clients by now arrive."""
        while self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()

    def guarded(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Killed:
            self.kill()

    def kill(self) -> None:
        """The server dies and is started again."""
        self.kills += 1
        assert self.kills < 100
        self._queue.clear()
        self.guarded(self._start)

    # --- the server -------------------------------------------------------------------

    def _start(self) -> None:
        self._incarnation += 1
        self._sums: MaskedUpdates | None = None
        self.journal, self.blobs = FileJournal(self.disk), Blobs(self.weights)
        self.rounds = Rounds(self.task, self.journal.read(), spent=self._spent)
        model = self.blobs.put(INITIAL.tobytes())
        self._queue.extend(self.rounds.begin("run", Digest("0" * 64), model, INITIAL.nbytes, self.now))
        self._work()
        for client in self.clients.values():
            if client.here:
                self.feed(on.Joined(client.name, client.capabilities))

    def to_server(self, event: on.Event) -> None:
        """A message that is lost if the server dies before it comes."""
        incarnation = self._incarnation

        def arrive() -> None:
            if incarnation == self._incarnation and self.clients[event.client].here:
                self.feed(event)

        self.later(self.delay, arrive)

    def feed(self, event: on.Event) -> None:
        self._queue.append(event)
        self._work()

    def _work(self) -> None:
        while self._queue and self.finish is None:
            item = self._queue.popleft()
            if isinstance(item, ACTIONS):
                self._perform(item)
            else:
                self._queue.extendleft(reversed(self.rounds.handle(item, self.now)))

    def _perform(self, action: Action) -> None:
        match action:
            case do.Persist(step, entry, compact):
                self.journal.append(entry)
                self._queue.extendleft(reversed(self.rounds.handle(on.Persisted(step), self.now)))
                if compact:
                    self.journal.compact(self.rounds.snapshot())
            case do.Offer(client, order, work):
                self._to(client, part.Offered(order, work, self.clients[client].refusal))
            case do.Send(client, order, model):
                data = self.blobs.get(model)
                self.later(self.delay, lambda: self._sent(client, order, data))
            case do.Fetch(client, order, digest):
                self.later(self.delay, lambda: self._fetched(client, order, digest, self._incarnation))
            case do.Agree(round_, clients, attempt):
                self._queue.append(on.Agreed(round_, self._agree(round_, clients, attempt), attempt))
            case do.Sum(round_, clients):
                self._queue.append(on.Summed(round_, self._sum(clients)))
            case do.Acknowledge(client, order, counted):
                if self._sums is not None:
                    self._sums.settled(client, order, counted)
                self.acknowledged.append((client, order, counted))
                self._to(client, part.Acknowledged(order, counted))
            case do.Cancel(client, order, reason):
                self._to(client, part.Cancelled(order, reason))
            case do.Aggregate():
                self.aggregated.append(action)
                self._aggregate(action)
            case do.Evaluate(round_, _, clients):
                self.evaluated.append(action)
                for client in clients or ("",):
                    self._queue.append(on.Evaluated(round_, client, 10, {"accuracy": round_ / 10}))
            case do.Keep(digests):
                self.blobs.keep(digests)
            case do.Record(record):
                RecordFile(self.files).write(record)
            case do.Notify():
                self.notices.append(action)
            case do.Finish():
                self.finish = action

    def _to(self, name: str, event: part.ClientEvent) -> None:
        client = self.clients[name]
        self.later(self.delay, lambda: client.take(event) if client.here else None)

    def _sent(self, name: str, order: OrderId, data: bytes) -> None:
        client = self.clients[name]
        if client.here:
            client.model = data
            client.take(part.ModelCame(order))
            self.to_server(on.Sent(name, order, len(data)))

    def _fetched(self, name: str, order: OrderId, digest: Digest, incarnation: int) -> None:
        client = self.clients[name]
        data = client.blobs.get(digest)
        if not client.here or incarnation != self._incarnation or data is None:
            return
        if self._sums is not None:
            self.feed(self._sums.judge(name, order, digest, data, samples=client.samples))
            return
        values = np.frombuffer(data)
        if not np.isfinite(values).all():
            self.feed(on.Refused(name, order, "w", "is not finite", len(data)))
            return
        assert self.blobs.put(data) == digest
        self.feed(on.Arrived(name, order, UpdateRef(digest, len(data), client.samples, loss=1.0)))

    def _agree(self, round_: int, clients: tuple[str, ...], attempt: int) -> tuple[str, ...]:
        assert self.rounds is not None
        orders = {name: self.rounds.ledger.asked[name] for name in clients}
        threshold = self.task.secure.threshold_of(len(clients))
        session = f"run/{round_}/{attempt}"
        assert session not in self.sessions, "a session is begun once"
        self.sessions.add(session)
        invited = invite(session, clients, threshold, MASKING.length(SHAPES), bytes(32), MASKING)
        server, data = ServerSession(invited, name_verifier()), encode_invitation(invited)
        for name in clients:
            one = ClientSession(name, data, lambda _: bytes(32), name_signer(name), name_verifier())
            self.clients[name].session = orders[name], one
            server.take(name, one.again(data))
        self._phase(server, self._phase(server, server.close()), take=False)
        self._sums = MaskedUpdates(server, orders)
        return clients

    def _phase(
        self, server: ServerSession, messages: dict[str, bytes], take: bool = True
    ) -> dict[str, bytes]:
        said = {name: self.clients[name].session[1].take(data) for name, data in messages.items()}
        for name, data in said.items() if take else ():
            server.take(name, data)
        return server.close() if take else {}

    def _sum(self, clients: tuple[str, ...]) -> Digest:
        assert self._sums is not None
        survivors = self._sums.close(clients)
        self._phase(self._sums.session, self._phase(self._sums.session, survivors))
        found = self._sums.outcome()
        return self.blobs.put(pack_sum(MASKING, SHAPES, found.total, len(found.survivors)))

    def _aggregate(self, action: do.Aggregate) -> None:
        weights = np.frombuffer(self.blobs.get(action.model))
        momentum = np.frombuffer(self.blobs.get(action.state)) if action.state else np.zeros_like(weights)
        total = sum(update.samples for update in action.updates)
        if action.total is not None:
            vector, clients = unpack_sum(self.blobs.get(action.total), MASKING.encoding)
            momentum = momentum + MeanOfSum(MASKING, SHAPES, vector, clients).combined()["w"]
        for update in action.updates if action.total is None else ():
            share = update.samples / total / (1 + update.staleness)
            momentum = momentum + share * np.frombuffer(self.blobs.get(update.digest))
        model = (weights + momentum).tobytes()
        digest = self.blobs.put(model)
        state = self.blobs.put((momentum / 2).tobytes())
        self._queue.append(on.Aggregated(action.round, digest, len(model), state))

    # --- after it -----------------------------------------------------------------------

    @property
    def records(self) -> dict[int, RoundRecord]:
        return {record.round: record for record in RecordFile(self.files).read()}

    @property
    def model(self) -> bytes:
        assert self.finish is not None
        return self.blobs.get(self.finish.model)
