"""A federated run in one place: the server's machine and rules, the clients' machines, real training.

What decides is what runs over links: `Rounds`, `ServerWork`, `Participant`, and the node's own training
function.  Simulated are the links (a rate and a round trip) and, in virtual time, how long training takes.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from collab.core.ids import Digest
from collab.emulation.fleet.device import Device, Shelf
from collab.emulation.fleet.holdings import Holdings
from collab.emulation.fleet.labour import Errand, Labour, Outcome, Ticket
from collab.emulation.fleet.secure import FleetSums
from collab.errors import CollabError
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated import participant as part
from collab.federated.disk import Folder
from collab.federated.journal import Blobs, FileJournal
from collab.federated.orders import Capabilities, OrderId, Work
from collab.federated.records import RoundRecord
from collab.federated.rounds import Rounds
from collab.federated.selection import steps_of
from collab.federated.server_work import Rules, ServerWork
from collab.federated.task import Task
from collab.federated.update import Parameters
from collab.node.training_files import Made
from collab.node.training_work import Job, Product


@dataclass(frozen=True)
class Conditions:
    """How fast devices and links are, and how often they fail."""

    virtual: bool = True
    """Time passes as devices and links would take; otherwise training takes what it takes here."""
    step_s: float = 0.02
    """A training step on a device in the middle; in virtual time only."""
    spread: float = 0.0
    """Sigma of the log-normal law of devices' speeds."""
    down_bytes_s: float = 1.25e6
    up_bytes_s: float = 1.25e6
    rtt_s: float = 0.05
    drop_outs: float = 0.0
    """Share of orders during which a device goes away, until the round's deadline has passed."""


class Quick(Folder):
    """A folder that does not wait for the disk: a simulation that is killed is begun anew."""

    def sync(self, name: str) -> None:
        """See `Disk.sync`."""

    def sync_names(self) -> None:
        """See `Disk.sync_names`."""


class FleetWorld:
    """One run.

    Args:
        task: A checked one.
        rules: What it says about weights.
        holdings: The clients' data and trainers.
        labour: Who trains.
        folder: For all files; states of clients may make it large.
        conditions: Of devices and links.
        watch: Told each round's record and each notice.
        spent: Why no further round may begin after so many models; empty: one may.
    """

    def __init__(
        self,
        task: Task,
        rules: Rules,
        holdings: Holdings,
        labour: Labour,
        folder: Path,
        conditions: Conditions = Conditions(),
        watch: Callable[[RoundRecord | do.Notify], None] = lambda told: None,
        spent: Callable[[int], str] = lambda models: "",
    ) -> None:
        self._task = task
        self._rules = rules
        self._holdings = holdings
        self._labour = labour
        self._folder = folder
        self._conditions = conditions
        self._watch = watch
        self._blobs = Blobs(Quick(folder / "weights"))
        self._journal = FileJournal(Quick(folder / "journal"))
        self._work = ServerWork(rules, self._blobs, folder)
        self._rounds = Rounds(task, self._journal.read(), spent=spent)
        self._index = {name: index for index, name in enumerate(holdings.owners)}
        self._enrolled = dict(zip(holdings.owners, holdings.sizes, strict=True))
        self._shelf = Shelf(folder / "clients")
        self._shelf.folder.mkdir(parents=True, exist_ok=True)
        self._devices: dict[str, Device] = {}
        self._tickets = count()
        self._numbers = count()
        self._came: dict[Ticket, Outcome] = {}
        self._wanted: dict[Ticket, Callable[[Outcome], None]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._todo: deque[do.Action] = deque()
        self._in_use: dict[Ticket, frozenset[Digest]] = {}
        self._now = 0.0
        self._began = time.monotonic()
        self._finish: do.Finish | None = None
        self._secure: FleetSums | None = None
        if task.secure is not None:
            self._secure = FleetSums(
                task, self._work, self._rounds.snapshot, self._later, self._feed, self._trip_s
            )

    def run(self, name: str, task: Digest) -> do.Finish:
        """Go on until the run is over."""
        initial = self._holdings.initial()
        model, size = self._work.put_model(initial)
        self._began = time.monotonic()
        begin = self._rounds.begin(name, task, model, size, self.now(), self._work.first_control(initial))
        # All are there before the first decision: each would otherwise be one for nothing.
        for client in self._index:
            self._rounds.handle(on.Joined(client, self._capabilities(client)), self.now())
        self._perform_all(begin)
        while self._finish is None:
            self._step()
        return self._finish

    def model(self, digest: Digest) -> Parameters:
        """Weights of the run that are kept."""
        return self._work.model(digest)

    def now(self) -> float:
        """Seconds since the run began."""
        return self._now if self._conditions.virtual else time.monotonic() - self._began

    def tell(self, event: on.Event) -> None:
        """A message to the server arrives half a round trip later."""
        self._later(self._conditions.rtt_s / 2, lambda: self._feed(event))

    # --- time ------------------------------------------------------------------------

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now() + delay_s, next(self._numbers), what))

    def _step(self) -> None:
        """Let the next thing happen."""
        wake = self._rounds.wake_at
        at = self._heap[0][0] if self._heap else None
        due = min((moment for moment in (wake, at) if moment is not None), default=None)
        if not self._conditions.virtual and not self._passed(due):
            return
        if due is None:
            raise CollabError("the simulated run has stopped: nothing is left to happen")
        self._now = max(self._now, due)
        if at is not None and at <= due:
            heapq.heappop(self._heap)[2]()
        else:
            self._feed(on.Tick())

    def _passed(self, due: float | None) -> bool:
        """In real time: wait for a moment, or for an outcome, which is then used at once."""
        left = 60.0 if due is None else max(0.0, due - self.now())
        if self._wanted and (came := self._labour.ready(left)) is not None:
            ticket, outcome = came
            self._in_use.pop(ticket, None)
            self._wanted.pop(ticket)(outcome)
            return False
        if not self._wanted and left > 0 and due is not None:
            time.sleep(left)
        return due is not None and self.now() >= due

    def _outcome(self, ticket: Ticket) -> Outcome:
        """In virtual time: whatever the labour still has to do for it."""
        while ticket not in self._came:
            came, outcome = self._labour.next()
            self._came[came] = outcome
        self._in_use.pop(ticket, None)
        return self._came.pop(ticket)

    def _labours(self, errand: Errand, seconds: float, then: Callable[[Outcome], None]) -> None:
        ticket = next(self._tickets)
        control = errand.job.control if errand.job is not None else None
        used = [errand.model, *([Digest(control.name)] if control is not None else [])]
        self._in_use[ticket] = frozenset(used)
        self._labour.submit(ticket, errand)
        if self._conditions.virtual:
            self._later(seconds, lambda: then(self._outcome(ticket)))
        else:
            self._wanted[ticket] = then

    # --- clients -----------------------------------------------------------------------

    def _device(self, name: str) -> Device:
        if name not in self._devices:
            self._devices[name] = Device(self._index[name], name, self._shelf, self)
        return self._devices[name]

    def _step_s(self, name: str) -> float:
        chance = random.Random(f"{self._task.seed}/speed/{name}")
        return self._conditions.step_s * chance.lognormvariate(0.0, self._conditions.spread)

    def _capabilities(self, name: str) -> Capabilities:
        links = self._conditions
        return Capabilities(
            samples=self._enrolled[name],
            step_s=self._step_s(name) if links.virtual else None,
            down_bytes_s=links.down_bytes_s,
            up_bytes_s=links.up_bytes_s,
            rtt_s=links.rtt_s,
        )

    def train(self, device: Device, order: OrderId, work: Work) -> None:
        """A device trains, or goes away meanwhile."""
        steps = steps_of(self._capabilities(device.name), work.training)
        seconds = steps * self._step_s(device.name)
        chance = random.Random(f"{self._task.seed}/away/{device.name}/{order.round}/{order.attempt}")
        if chance.random() < self._conditions.drop_outs:
            self._goes_away(device, order, chance.random() * seconds)
            return
        private = self._rules.privacy
        local = private if private is not None and private.place == "local" else None
        job = Job(
            client=device.name,
            order=order,
            training=work.training,
            encoding=self._rules.up,
            clip=local.clip if local is not None else 0.0,
            noise_multiplier=local.noise_multiplier if local is not None else 0.0,
            weights=self._path(work.model),
            control=None if work.control is None else self._path(work.control),
            state=device.state(),
        )

        def over(outcome: Outcome) -> None:
            if isinstance(outcome, Product) and self._secure is not None:
                outcome = self._masked(self._secure, device.name, order, outcome)
            if isinstance(outcome, Product):
                took = seconds if self._conditions.virtual else outcome.made.seconds
                device.trained(order, outcome, took)
            else:
                device.take(part.Broke(order, str(outcome)))

        self._labours(Errand(device.index, work.model, job.weights, job), seconds, over)

    @staticmethod
    def _masked(secure: FleetSums, name: str, order: OrderId, product: Product) -> Outcome:
        try:
            return replace(product, update=secure.masked(name, order, product.update))
        except CollabError as error:
            return error

    def _trip_s(self, size: int) -> float:
        """Of a message to a client, and of a short answer."""
        return self._conditions.rtt_s + size / self._conditions.down_bytes_s

    def _goes_away(self, device: Device, order: OrderId, after_s: float) -> None:
        name = device.name

        def gone() -> None:
            self._devices.pop(name, None)
            if self._secure is not None:
                self._secure.gone(name)
            self._feed(on.Left(name))

        def back() -> None:
            if self._secure is not None:
                self._secure.back(name)
            self._feed(on.Joined(name, self._capabilities(name)))

        self._later(after_s, gone)
        self._later(after_s + self._task.round.deadline_s, back)

    def _path(self, digest: Digest) -> Path:
        return self._folder / "weights" / digest

    # --- the server ----------------------------------------------------------------------

    def _feed(self, event: on.Event) -> None:
        self._perform_all(self._rounds.handle(event, self.now()))

    def _perform_all(self, actions: Iterable[do.Action]) -> None:
        """Perform actions and what follows from writing the journal."""
        self._todo.extend(actions)
        while self._todo and self._finish is None:
            action = self._todo.popleft()
            if isinstance(action, do.Persist):
                self._journal.append(action.entry)
                more = self._rounds.handle(on.Persisted(action.step), self.now())
                if action.compact:
                    self._journal.compact(self._rounds.snapshot())
                self._todo.extendleft(reversed(more))
            elif isinstance(action, do.Finish):
                self._finish = action
            else:
                _PERFORM[type(action)](self, action)

    def _offer(self, action: do.Offer) -> None:
        event = part.Offered(action.order, action.work)
        self._later(self._conditions.rtt_s / 2, lambda: self._device(action.client).take(event))

    def _send(self, action: do.Send) -> None:
        size = len(self._work.broadcast(action.model, action.holds).data)
        size += 0 if action.control is None else len(self._blobs.get(action.control))

        def there() -> None:
            self.tell(on.Sent(action.client, action.order, size))
            self._device(action.client).take(part.ModelCame(action.order))

        self._later(self._conditions.rtt_s / 2 + size / self._conditions.down_bytes_s, there)

    def _fetch(self, action: do.Fetch) -> None:
        def here() -> None:
            device = self._device(action.client)
            ledger, came = self._rounds.ledger, (action.client, action.order, action.digest, device.update())
            if self._secure is not None:
                verdict = self._secure.judge(*came, self._enrolled[action.client])
            else:
                self._work.enter_round(ledger.round, ledger.model, self._enrolled, list(ledger.counted))
                verdict = self._work.judge(*came)
            if isinstance(verdict, on.Arrived):
                verdict = replace(verdict, update=replace(verdict.update, seconds=device.seconds))
            self._feed(verdict)

        self._later(self._conditions.rtt_s + action.bytes / self._conditions.up_bytes_s, here)

    def _acknowledge(self, action: do.Acknowledge) -> None:
        if self._secure is not None:
            self._secure.settled(action.client, action.order, action.counted)
        self._to(action.client, part.Acknowledged(action.order, action.counted))

    def _cancel(self, action: do.Cancel) -> None:
        self._to(action.client, part.Cancelled(action.order, action.reason))

    def _to(self, name: str, event: part.Acknowledged | part.Cancelled) -> None:
        """Tell a client how an order ended; one with nothing else to do is forgotten until it is asked."""

        def there() -> None:
            device = self._devices.get(name)
            if device is None:
                return
            device.take(event)
            if device.machine.phase in ("idle", "done"):
                self._devices.pop(name)

        self._later(self._conditions.rtt_s / 2, there)

    def _agree(self, action: do.Agree) -> None:
        assert self._secure is not None
        self._secure.agree(action)

    def _sum(self, action: do.Sum) -> None:
        assert self._secure is not None
        self._secure.open(action)

    def _aggregate(self, action: do.Aggregate) -> None:
        try:
            event: on.Event = self._work.aggregate(action, len(self._enrolled), self._rounds.ledger.models)
        except CollabError as error:
            event = on.AggregationFailed(action.round, str(error))
        self._later(0.0, lambda: self._feed(event))

    def _evaluate(self, action: do.Evaluate) -> None:
        for name in action.clients or ("",):
            self._evaluate_at(action, name)

    def _evaluate_at(self, action: do.Evaluate, name: str) -> None:
        index = self._index[name] if name else None

        def over(outcome: Outcome) -> None:
            if isinstance(outcome, Made):
                self._feed(on.Evaluated(action.round, name, outcome.samples, outcome.metrics))
            else:
                self._feed(on.EvaluationFailed(action.round, name, str(outcome)))

        self._labours(Errand(index, action.model, self._path(action.model)), 0.0, over)

    def _keep(self, action: do.Keep) -> None:
        used: frozenset[Digest] = frozenset().union(*self._in_use.values())
        self._blobs.keep(action.digests | used)

    def _record(self, action: do.Record) -> None:
        self._watch(action.record)

    def _notify(self, action: do.Notify) -> None:
        self._watch(action)


_PERFORM: dict[type, Callable[[FleetWorld, Any], None]] = {
    do.Offer: FleetWorld._offer,
    do.Send: FleetWorld._send,
    do.Agree: FleetWorld._agree,
    do.Sum: FleetWorld._sum,
    do.Fetch: FleetWorld._fetch,
    do.Acknowledge: FleetWorld._acknowledge,
    do.Cancel: FleetWorld._cancel,
    do.Aggregate: FleetWorld._aggregate,
    do.Evaluate: FleetWorld._evaluate,
    do.Keep: FleetWorld._keep,
    do.Record: FleetWorld._record,
    do.Notify: FleetWorld._notify,
}
