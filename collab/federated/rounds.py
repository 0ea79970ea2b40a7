"""The server's side of federated rounds: events in, actions out, no I/O and no clock.

What must survive a crash is an entry of the journal.  A decision is first persisted, then
becomes part of the ledger, and only then is acted on; a resumed server begins with the same
ledger and repeats what it cannot know to have been done.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from collab.core.ids import Digest
from collab.core.plan import Frozen
from collab.errors import ConfigError
from collab.federated import entries, events
from collab.federated.actions import (
    Action,
    Aggregate,
    Agree,
    Cancel,
    Evaluate,
    Finish,
    Keep,
    Notify,
    Persist,
    Record,
    Sum,
)
from collab.federated.agreeing import Agreeing
from collab.federated.decide import Scene, Wait, decide, explained, unmade
from collab.federated.dispatch import Dispatch, Steps
from collab.federated.evaluating import Evaluating, evaluators, is_due
from collab.federated.ledger import Ledger
from collab.federated.task import Task

Actions = list[Action]

_DECISIONS: Final = (
    entries.Started,
    entries.Resumed,
    entries.Asked,
    entries.Extended,
    entries.Skipped,
    entries.Restarted,
    entries.Closed,
    entries.Summed,
    entries.Made,
    entries.Recorded,
    entries.Finished,
)
"""Entries that are about the whole run: one at a time is under way."""


class Rounds:
    """A run's server.

    Args:
        task: A checked one.
        ledger: What the journal told; a new one for a new run.
        spent: Asked with the number of models made before a round opens: why there may be no more
            (a privacy budget), or nothing.
    """

    def __init__(
        self,
        task: Task,
        ledger: Ledger | None = None,
        *,
        spent: Callable[[int], str] = lambda models: "",
    ) -> None:
        self.ledger = ledger if ledger is not None else Ledger()
        self._task = task
        self._spent = spent
        self._spent_at, self._reason_spent = -1, ""
        self._agreeing = Agreeing(task.secure is not None)
        self._clients = Dispatch(task, self.ledger, self._agreeing)
        self._pending: dict[int, entries.Entry] = {}
        self._step = 0
        self._deciding = False
        self._ending = False
        """The last entry is on its way."""
        self._over = False
        self._closed_at = 0.0
        self._waiting: float | None = None
        """When to give up on clients that are missing."""
        self._expected = 0
        """Clients that a resumed run waits for before it chooses among them."""
        self._out = frozenset(self.ledger.quarantine)
        self._evaluating: Evaluating | None = None

    # --- outside ------------------------------------------------------------------

    def begin(
        self,
        run: str,
        task: Digest,
        model: Digest,
        model_bytes: int,
        now: float,
        control: Digest | None = None,
    ) -> Actions:
        """Begin, or go on with what the ledger tells of.

        Args:
            run: A random name; a resumed run keeps the one that it has.
            task: Digest of the task.
            model: The initial weights.
            model_bytes: Their size when they are sent whole.
            now: Time of the monotonic clock that `handle` is given.
            control: The first control variate (SCAFFOLD).

        Raises `ConfigError` if the ledger is of another task.
        """
        if self.ledger.run and self.ledger.task != task:
            raise ConfigError(
                "task: it has changed since the run began; name another checkpoint, or undo that"
            )
        if self.ledger.finished is not None:
            self._over = True
            return [*self._last_record(), self._finish(self.ledger.finished)]
        if not self.ledger.run:
            return self._persist(
                entries.Started(run=run, task=task, model=model, model_bytes=model_bytes, control=control)
            )
        self._expected = self.ledger.present
        return self._persist(entries.Resumed())

    def handle(self, event: events.Event, now: float) -> Actions:
        """Take one event; what is to be done, in order."""
        if self._over or (self._ending and not isinstance(event, events.Persisted)):
            return []
        actions = _HANDLERS[type(event)](self, event, now)
        return [*actions, *self._advance(now)]

    def snapshot(self) -> Ledger:
        """What may stand in the journal for all entries that were told to be persisted."""
        return self.ledger

    @property
    def wake_at(self) -> float | None:
        """When a `Tick` is due."""
        if self._over or self._deciding:
            return None
        times = [self._waiting, self._agreeing.until]
        if self.ledger.closing is None:
            times.append(self._clients.deadline)
        if self._evaluating is not None:
            times.append(self._evaluating.until)
        if self._clients.is_async:
            times.append(self._clients.flights.next_expiry)
        return min((time for time in times if time is not None), default=None)

    # --- clients ------------------------------------------------------------------

    def _client(self, event: events.ClientEvent, now: float) -> Actions:
        return self._steps(_ABOUT_ORDERS[type(event)](self._clients, event, now))

    def _left(self, event: events.Left, now: float) -> Actions:
        if self._evaluating is not None:
            self._evaluating.gave_up(event.client)
        return self._client(event, now)

    def _steps(self, steps: Steps) -> Actions:
        """Number the entries among what is to be done."""
        actions: Actions = []
        for step in steps:
            actions += self._persist(step) if isinstance(step, Frozen) else [step]
        return actions

    def _released(self, event: events.Released, now: float) -> Actions:
        return self._persist(entries.Let(client=event.client))

    def _stop(self, event: events.StopAsked, now: float) -> Actions:
        self._over = True
        ledger = self.ledger
        return [Finish("stopped", 1, "stopped; resume it with 'fed resume'", ledger.model, ledger.models)]

    # --- the whole run ----------------------------------------------------------------

    def _aggregated(self, event: events.Aggregated, now: float) -> Actions:
        closing = self.ledger.closing
        if closing is None or closing.round != event.round or self._deciding:
            return []
        return self._persist(
            entries.Made(
                round=event.round,
                model=event.model,
                model_bytes=event.model_bytes,
                state=event.state,
                control=event.control,
                seconds=now - self._closed_at,
                metrics=event.metrics or {},
            )
        )

    def _not_aggregated(self, event: events.AggregationFailed, now: float) -> Actions:
        closing = self.ledger.closing
        closed = closing is not None and closing.round == event.round
        if self._deciding or not (closed or self._agrees(event.round, event.attempt)):
            return []
        return self._persist(unmade(self._scene(now), event.round, event.reason[:500]))

    def _agrees(self, round_: int, attempt: int) -> bool:
        """Whether the cohort of this attempt is at its keys."""
        ledger = self.ledger
        here = ledger.opened and (round_, attempt) == (ledger.round, ledger.attempt)
        return here and self._agreeing.state == "agreeing"

    def _summed(self, event: events.Summed, now: float) -> Actions:
        ledger = self.ledger
        if ledger.closing is None or ledger.closing.round != event.round or self._deciding or ledger.total:
            return []
        return self._persist(entries.Summed(round=event.round, total=event.total))

    def _evaluated(self, event: events.Evaluated, now: float) -> Actions:
        record = self.ledger.unrecorded
        if self._evaluating is not None and record is not None and record.round == event.round:
            enrolled = self._clients.present.get(event.client)
            most = enrolled.samples if enrolled is not None else event.samples
            self._evaluating.answered(event.client, min(event.samples, most), event.metrics)
        return []

    def _not_evaluated(self, event: events.EvaluationFailed, now: float) -> Actions:
        record = self.ledger.unrecorded
        if self._evaluating is not None and record is not None and record.round == event.round:
            self._evaluating.gave_up(event.client)
        return []

    def _agreed_on(self, event: events.Agreed, now: float) -> Actions:
        if not self._agrees(event.round, event.attempt):
            return []
        self._agreeing.state = "agreed"
        return self._steps(self._clients.agreed(event.clients))

    def _tick(self, event: events.Tick, now: float) -> Actions:
        return []

    # --- the journal --------------------------------------------------------------

    def _persist(self, entry: entries.Entry) -> Actions:
        self._step += 1
        self._pending[self._step] = entry
        self._deciding = self._deciding or isinstance(entry, _DECISIONS)
        self._ending = self._ending or isinstance(entry, entries.Finished)
        return [Persist(self._step, entry, compact=isinstance(entry, entries.Recorded))]

    def _persisted(self, event: events.Persisted, now: float) -> Actions:
        entry = self._pending.pop(event.step, None)
        if entry is None:
            return []
        if isinstance(entry, _DECISIONS):
            self._deciding = False
        ends = isinstance(entry, _ENDS)
        open_before = dict(self.ledger.asked) if ends else {}
        self.ledger.apply(entry)
        if ends:
            self._clients.flights.follow(self.ledger.asked)
        actions: Actions = [
            Cancel(client, order, f"round {order.round} is over")
            for client, order in sorted(open_before.items())
            if client not in self.ledger.asked
        ]
        return actions + _FOLLOWS[type(entry)](self, entry, now)

    # --- what follows when an entry is durable ------------------------------------

    def _after_start(self, entry: entries.Started, now: float) -> Actions:
        return []

    def _after_resume(self, entry: entries.Resumed, now: float) -> Actions:
        ledger = self.ledger
        under_way = ledger.opened or ledger.closing is not None
        # A sum that is opened must not be opened again, of others: the difference would be single updates.
        if self._agreeing.needed and under_way and ledger.unrecorded is None and ledger.total is None:
            return self._last_record() + self._persist(
                entries.Restarted(round=ledger.closing.round if ledger.closing else ledger.round)
            )
        self._clients.flights.follow(ledger.asked, self._clients.expiry(now))
        if ledger.opened or self._clients.is_async:
            self._clients.gather_from(now)
        self._closed_at = now
        return [*self._last_record(), *self._aggregate()]

    def _last_record(self) -> Actions:
        return [Record(self.ledger.recorded)] if self.ledger.recorded is not None else []

    def _after_restart(self, entry: entries.Restarted, now: float) -> Actions:
        self._agreeing.forget()
        self._clients.deadline = None
        if entry.reason:
            return [Notify("lack", f"round {entry.round} begins anew: {entry.reason}")]
        return [Notify("round", f"round {entry.round} begins anew: its keys were lost")]

    def _after_ask(self, entry: entries.Asked, now: float) -> Actions:
        actions: Actions = []
        self._waiting, self._expected = None, 0
        if self._clients.deadline is None and self.ledger.unrecorded is None:
            self._clients.gather_from(now)
        for client in entry.clients:
            flight = self._clients.flights.add(client, self.ledger.asked[client], self._clients.expiry(now))
            actions += self._steps(self._clients.offer(client, flight, now))
        if not self._clients.is_async:
            asked = f"asks {len(entry.clients)} clients for {entry.wanted} updates"
            actions.append(Notify("round", f"round {entry.round} {asked}"))
        self._agreeing.opened(now, self._task.round.deadline_s)
        return actions

    def _after_count(self, entry: entries.Counted, now: float) -> Actions:
        return self._steps(self._clients.after_count(entry))

    def _after_drop(self, entry: entries.Dropped, now: float) -> Actions:
        return self._steps(self._clients.after_drop(entry))

    def _after_extension(self, entry: entries.Extended, now: float) -> Actions:
        self._clients.deadline = now + self._task.round.deadline_s
        text = f"round {entry.round} lacks its quorum and goes on for {self._task.round.deadline_s:g} s"
        return [Notify("lack", text)]

    def _after_skip(self, entry: entries.Skipped, now: float) -> Actions:
        self._clients.deadline = None
        self._agreeing.forget()
        return [Notify("lack", f"round {entry.round} is skipped: {entry.reason}")]

    def _after_close(self, entry: entries.Closed, now: float) -> Actions:
        self._clients.deadline, self._closed_at = None, now
        self._agreeing.until = None
        return [*self._aggregate(), *self._steps(self._clients.drop_stale())]

    def _aggregate(self) -> Actions:
        ledger = self.ledger
        if ledger.closing is None:
            return []
        updates = tuple(sorted(ledger.gathered, key=lambda update: (update.client, update.order)))
        if self._agreeing.needed and ledger.total is None:
            return [Sum(ledger.closing.round, tuple(update.client for update in updates))]
        return [
            Aggregate(
                ledger.closing.round,
                ledger.model,
                ledger.state,
                ledger.control,
                updates,
                ledger.closing.wanted,
                ledger.total,
            )
        ]

    def _after_sum(self, entry: entries.Summed, now: float) -> Actions:
        return self._aggregate()

    def _after_make(self, entry: entries.Made, now: float) -> Actions:
        self._agreeing.forget()
        return []

    def _after_record(self, entry: entries.Recorded, now: float) -> Actions:
        self._evaluating = None
        if self._clients.is_async:
            self._clients.gather_from(now)
        back = sorted(set(self._out) - self.ledger.quarantine.keys())
        self._out = frozenset(self.ledger.quarantine)
        actions: Actions = [Notify("returned", f"{client} may be asked again", client) for client in back]
        return [Record(entry.record), Keep(self.ledger.blobs()), *actions]

    def _after_release(self, entry: entries.Let, now: float) -> Actions:
        return [Notify("returned", f"{entry.client} may be asked again", entry.client)]

    def _after_end(self, entry: entries.Finished, now: float) -> Actions:
        self._over = True
        ledger = self.ledger
        cancels: Actions = [Cancel(c, order, "the run is over") for c, order in sorted(ledger.asked.items())]
        return [*cancels, self._finish(entry)]

    def _finish(self, entry: entries.Finished) -> Finish:
        return Finish(entry.outcome, entry.exit_code, entry.reason, self.ledger.model, self.ledger.models)

    # --- deciding -------------------------------------------------------------------

    def _advance(self, now: float) -> Actions:
        if self._over or self._deciding or not self.ledger.run:
            return []
        actions = [*self._expire(now), *self._agree(now)]
        evaluation = self._evaluate(now)
        decision = evaluation if isinstance(evaluation, Wait) else decide(self._scene(now))
        if not isinstance(evaluation, Wait):
            actions += evaluation
        if isinstance(decision, Wait):
            return [*actions, *self._wait(decision, now)]
        self._waiting = None
        return actions if decision is None else [*actions, *self._persist(decision)]

    def _wait(self, decision: Wait, now: float) -> Actions:
        if self._waiting is not None:
            return []
        self._waiting = now + self._task.clients.wait_s
        return [Notify("waiting", explained(self._scene(now), decision))]

    def _expire(self, now: float) -> Actions:
        """Give up waiting: for orders whose own time has passed, and for clients that do not come back."""
        if self._expected and self._waiting is not None and now >= self._waiting:
            self._expected, self._waiting = 0, None
        return self._steps(self._clients.expire(now))

    def _agree(self, now: float) -> Actions:
        """Begin the phases of secure aggregation when all have answered, or long enough was waited."""
        cohort = self._clients.cohort(now)
        return [Agree(self.ledger.round, cohort, self.ledger.attempt)] if cohort else []

    def _evaluate(self, now: float) -> Actions | Wait:
        """Begin the evaluation that is open, once those are back who are to be asked."""
        record, rules = self.ledger.unrecorded, self._task.evaluation
        if record is None or self._evaluating is not None:
            return []
        if not is_due(rules, record.round, self._task.rounds):
            self._evaluating = Evaluating((), now)
            return []
        if rules.where == "server":
            self._evaluating = Evaluating(("",), now + rules.deadline_s)
            return [Evaluate(record.round, record.model, ())]
        if len(self._clients.present) < self._expected:
            return Wait(self._expected, f"evaluation of round {record.round}")
        sound = self._clients.present.keys() - self.ledger.quarantine.keys()
        chance = random.Random(f"{self._task.seed}/evaluation/{record.round}")
        clients = evaluators(rules, sound, chance)
        self._evaluating = Evaluating(clients, now + rules.deadline_s)
        return [Evaluate(record.round, record.model, clients)] if clients else []

    def _why_spent(self) -> str:
        """Asked once a model, since accounting takes long."""
        if self._spent_at != self.ledger.models:
            self._spent_at, self._reason_spent = self.ledger.models, self._spent(self.ledger.models)
        return self._reason_spent

    def _scene(self, now: float) -> Scene:
        open_ = self._evaluating
        return Scene(
            task=self._task,
            ledger=self.ledger,
            present=self._clients.present,
            now=now,
            opened_at=self._clients.opened_at,
            deadline=self._clients.deadline,
            waited=self._waiting is not None and now >= self._waiting,
            expected=self._expected,
            evaluation=open_.outcome() if open_ is not None and open_.is_over(now) else None,
            open_bytes=self._clients.flights.down_bytes,
            spent=self._why_spent(),
            closed_to_more=self._agreeing.closed,
        )


_ENDS: Final = (entries.Closed, entries.Skipped, entries.Restarted)
"""Entries with which orders can end that nobody has answered."""

_ABOUT_ORDERS: Final[dict[type, Callable[..., Steps]]] = {
    events.Joined: Dispatch.joined,
    events.Left: Dispatch.left,
    events.Accepted: Dispatch.accepted,
    events.Declined: Dispatch.declined,
    events.Sent: Dispatch.sent,
    events.Announced: Dispatch.announced,
    events.Arrived: Dispatch.arrived,
    events.Refused: Dispatch.refused,
    events.Failed: Dispatch.failed,
}

_HANDLERS: Final[dict[type, Callable[..., Actions]]] = {
    **dict.fromkeys(_ABOUT_ORDERS, Rounds._client),
    events.Left: Rounds._left,
    events.Agreed: Rounds._agreed_on,
    events.Summed: Rounds._summed,
    events.Aggregated: Rounds._aggregated,
    events.AggregationFailed: Rounds._not_aggregated,
    events.Evaluated: Rounds._evaluated,
    events.EvaluationFailed: Rounds._not_evaluated,
    events.Persisted: Rounds._persisted,
    events.Tick: Rounds._tick,
    events.Released: Rounds._released,
    events.StopAsked: Rounds._stop,
}

_FOLLOWS: Final[dict[type, Callable[..., Actions]]] = {
    entries.Started: Rounds._after_start,
    entries.Resumed: Rounds._after_resume,
    entries.Asked: Rounds._after_ask,
    entries.Counted: Rounds._after_count,
    entries.Dropped: Rounds._after_drop,
    entries.Extended: Rounds._after_extension,
    entries.Skipped: Rounds._after_skip,
    entries.Restarted: Rounds._after_restart,
    entries.Closed: Rounds._after_close,
    entries.Summed: Rounds._after_sum,
    entries.Made: Rounds._after_make,
    entries.Recorded: Rounds._after_record,
    entries.Let: Rounds._after_release,
    entries.Finished: Rounds._after_end,
}
