"""What a run does next, decided from what is known now.  One pure function over a scene."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

import msgspec

from collab.federated.agreeing import LEAST_SUMMED
from collab.federated.entries import Asked, Closed, Extended, Finished, Recorded, Restarted, Skipped
from collab.federated.ledger import Ledger
from collab.federated.orders import Capabilities
from collab.federated.selection import asked_for, choose, estimated_seconds, wanted_of
from collab.federated.task import Task


@dataclass(frozen=True, slots=True)
class Wait:
    """Too few clients are here to go on."""

    needed: int
    note: str = ""


Decision = Union[Asked, Closed, Extended, Skipped, Restarted, Recorded, Finished, Wait]


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a decision depends on."""

    task: Task
    ledger: Ledger
    present: Mapping[str, Capabilities]
    now: float
    opened_at: float
    deadline: float | None
    """Of the round that gathers."""
    waited: bool
    """The time to wait for missing clients has passed."""
    expected: int
    """Clients that a resumed run waits for, so that it chooses among the same as before."""
    evaluation: Mapping[str, float] | None
    """What the open evaluation has come to; None while it goes on."""
    open_bytes: int
    """Sent for open orders."""
    spent: str
    """Why no further round may be opened."""
    closed_to_more: bool = False
    """Nobody may come into the cohort any more, since it shares keys already."""

    @property
    def is_async(self) -> bool:
        """Whether rounds are buffers."""
        return self.task.mode == "async"

    @property
    def wanted(self) -> int:
        """Updates that close the round."""
        return self.task.buffered.buffer if self.is_async else self.ledger.wanted

    @property
    def quorum(self) -> int:
        """Updates without which it makes no model."""
        return self.task.round.quorum_of(self.wanted) if self.is_async else self.ledger.quorum

    @property
    def counted(self) -> int:
        """Updates that wanted and quorum are about; late ones only count in asynchronous rounds."""
        return len(self.ledger.counted) if self.is_async else self.ledger.fresh

    @property
    def connected(self) -> int:
        """Clients that are here, or are still to come back after a resume."""
        return max(len(self.present), self.expected)

    @property
    def least_summed(self) -> int:
        """Clients without which no masked updates are asked for."""
        secure = self.task.secure
        if secure is None:
            return 0
        return max(LEAST_SUMMED, secure.threshold if isinstance(secure.threshold, int) else 0)

    @property
    def left_s(self) -> float:
        """Until an order given now has to be answered."""
        if self.is_async or self.deadline is None:
            return self.task.round.deadline_s
        return self.deadline - self.now


def decide(scene: Scene) -> Decision | None:
    """The next step of the run, or None while there is nothing to do but wait for events."""
    ledger = scene.ledger
    if ledger.closing is not None or ledger.finished is not None:
        return None
    if ledger.unrecorded is not None:
        if scene.evaluation is not None:
            return _record(scene)
        return _ask_more(scene) if scene.is_async and not _too_few(scene) else None
    if (over := _finish(scene)) is not None:
        return over
    if scene.is_async:
        return _wait(scene) if _too_few(scene) else _gather(scene)
    return _gather(scene) if ledger.opened else _open(scene)


def _record(scene: Scene) -> Recorded | None:
    record = scene.ledger.unrecorded
    if record is None:
        return None
    out = {c for c, until in scene.ledger.quarantine.items() if until < 0 or until > record.round + 1}
    whole = msgspec.structs.replace(
        record,
        evaluation=dict(scene.evaluation or {}),
        quarantined=tuple(sorted(out)),
        resumed=scene.ledger.resumed,
    )
    return Recorded(record=whole)


def _finish(scene: Scene) -> Finished | None:
    ledger, target = scene.ledger, scene.task.target
    if target is not None and target.reached(ledger.evaluation):
        value = ledger.evaluation[target.metric]
        return Finished(outcome="done", exit_code=0, reason=f"{target.metric} {value:.4g} reached its target")
    if ledger.made >= scene.task.rounds:
        if target is not None:
            reason = f"target: {target.metric} {target.value:g} was not reached in {ledger.made} rounds"
            return Finished(outcome="failed", exit_code=1, reason=reason)
        if not ledger.models:
            return Finished(outcome="failed", exit_code=1, reason="no round had a quorum")
        return Finished(outcome="done", exit_code=0, reason=f"{ledger.made} rounds")
    if scene.spent:
        return Finished(outcome="spent", exit_code=4, reason=scene.spent)
    return None


def _candidates(scene: Scene) -> dict[str, Capabilities]:
    """Who could be asked now."""
    ledger = scene.ledger
    # In asynchronous rounds one that is done may begin again at once.
    done = set() if scene.is_async else {u.client for u in ledger.counted if not u.staleness}
    return {
        client: capabilities
        for client, capabilities in scene.present.items()
        if capabilities.willing
        and client not in ledger.quarantine
        and client not in ledger.asked
        and client not in ledger.tried
        and client not in done
    }


def _too_few(scene: Scene) -> bool:
    """Whether a run waits before it chooses at all."""
    at_first = scene.ledger.round == 1 and not scene.ledger.opened
    least = max(scene.expected, scene.task.clients.minimum if at_first else 0)
    return len(scene.present) < least


def _open(scene: Scene) -> Decision:
    """Ask the first clients of a synchronous round."""
    if _too_few(scene):
        return _wait(scene)
    cohort = scene.task.cohort
    candidates = _candidates(scene)
    wanted = wanted_of(cohort, len(candidates))
    quorum = scene.task.round.quorum_of(wanted)
    chosen = _chosen(scene, candidates, asked_for(cohort, wanted))
    if scene.task.secure is not None:
        least = scene.task.secure.threshold_of(len(chosen))
        wanted, quorum = max(wanted, least), max(quorum, least)
    if len(chosen) < max(quorum, scene.least_summed):
        slow = len(candidates) - len(chosen) if cohort.select == "deadline" else 0
        note = f"{slow} too slow for round.deadline_s {scene.task.round.deadline_s:g}" if slow else ""
        return _wait(scene, quorum, note)
    return Asked(
        round=scene.ledger.round,
        attempt=scene.ledger.attempt,
        clients=tuple(chosen),
        wanted=wanted,
        quorum=quorum,
        present=len(scene.present),
    )


def _wait(scene: Scene, quorum: int = 1, note: str = "") -> Wait | Finished:
    at_first = scene.ledger.round == 1 and not scene.ledger.opened
    minimum = scene.task.clients.minimum if at_first else 0
    needed = max(quorum, minimum, scene.expected, scene.least_summed)
    wait = Wait(needed, note)
    if not scene.waited:
        return wait
    return Finished(
        outcome="failed",
        exit_code=1 if len(scene.present) >= needed else 3,
        reason=f"{explained(scene, wait)}, after clients.wait_s {scene.task.clients.wait_s:g}",
    )


def explained(scene: Scene, wait: Wait) -> str:
    """What a run waits for, in words."""
    out = sum(client in scene.ledger.quarantine for client in scene.present)
    unwilling = sum(not capabilities.willing for capabilities in scene.present.values())
    notes = [f"{len(scene.present)} connected"]
    notes += [f"{out} in quarantine"] if out else []
    notes += [f"{unwilling} not willing"] if unwilling else []
    notes += [wait.note] if wait.note else []
    return f"round {scene.ledger.round} needs {wait.needed} clients: {', '.join(notes)}"


def _gather(scene: Scene) -> Decision | None:
    if scene.counted >= scene.wanted:
        return _close(scene)
    if scene.deadline is not None and scene.now >= scene.deadline:
        return _close(scene, at_deadline=True) if scene.counted >= scene.quorum else _lack(scene)
    return _ask_more(scene) or _settle(scene)


def _settle(scene: Scene) -> Decision | None:
    """End a synchronous round early when nobody is left who could send an update."""
    if scene.closed_to_more and scene.counted + scene.ledger.at_work < scene.quorum:
        return _lack(scene)
    if scene.is_async or scene.ledger.at_work:
        return None
    if scene.counted >= scene.quorum:
        return _close(scene)
    return _lack(scene) if scene.task.round.on_lack != "extend" else None


def _close(scene: Scene, at_deadline: bool = False) -> Closed:
    return Closed(
        round=scene.ledger.round,
        present=scene.connected,
        seconds=scene.now - scene.opened_at,
        extensions=scene.ledger.extensions,
        drop_open=_drops_open(scene.task),
        at_deadline=at_deadline,
        open_bytes=scene.open_bytes if _drops_open(scene.task) else 0,
        wanted=scene.wanted,
    )


def _drops_open(task: Task) -> bool:
    return task.mode == "sync" and task.round.late.policy == "drop"


def _lack(scene: Scene) -> Decision:
    """A round whose quorum has not come."""
    rules, ledger = scene.task.round, scene.ledger
    in_time = scene.deadline is not None and scene.now < scene.deadline
    reason = f"{scene.counted} of {scene.quorum} updates" + ("" if in_time else " by the deadline")
    if in_time and scene.ledger.at_work:
        reason += f", and only {ledger.at_work} clients are left who could send one"
    if rules.on_lack == "extend" and scene.task.secure is None and ledger.extensions < rules.extensions:
        return Extended(round=ledger.round)
    return unmade(scene, ledger.round, reason)


def unmade(scene: Scene, round_: int, reason: str) -> Skipped | Restarted | Finished:
    """What follows when no model comes of a round."""
    rules, closing = scene.task.round, scene.ledger.closing
    if rules.on_lack == "skip":
        return skipped(scene, round_, reason)
    extensions = closing.extensions if closing is not None else scene.ledger.extensions
    if scene.task.secure is not None and rules.on_lack == "extend" and extensions < rules.extensions:
        return Restarted(round=round_, reason=reason)
    return Finished(outcome="failed", exit_code=1, reason=f"round {round_}: {reason}")


def skipped(scene: Scene, round_: int, reason: str) -> Skipped:
    """A round that leaves the model as it is."""
    return Skipped(
        round=round_,
        reason=reason,
        present=scene.connected,
        seconds=scene.now - scene.opened_at,
        drop_open=_drops_open(scene.task),
    )


def _ask_more(scene: Scene) -> Asked | None:
    """Keep as many at work as the mode wants: concurrency, or replacements for those that failed."""
    ledger = scene.ledger
    if scene.closed_to_more:
        return None
    if scene.is_async:
        need = scene.task.buffered.concurrency - len(ledger.asked)
    else:
        need = asked_for(scene.task.cohort, ledger.wanted) - scene.counted - ledger.at_work
    chosen = _chosen(scene, _candidates(scene), need) if need > 0 else []
    if not chosen:
        return None
    return Asked(
        round=ledger.round,
        attempt=ledger.attempt + scene.is_async,
        clients=tuple(chosen),
        wanted=scene.wanted,
        quorum=scene.quorum,
        present=scene.connected,
    )


def _chosen(scene: Scene, candidates: Mapping[str, Capabilities], count: int) -> list[str]:
    task, ledger = scene.task, scene.ledger
    down, up = ledger.model_bytes, ledger.update_bytes or ledger.model_bytes
    estimates = (
        {c: estimated_seconds(found, task.training, down, up) for c, found in candidates.items()}
        if task.cohort.select == "deadline"
        else {}
    )
    seed = f"{task.seed}/{ledger.round}/{ledger.attempt}/{len(ledger.tried)}"
    return choose(
        task.cohort,
        candidates,
        count,
        random.Random(seed),
        misses=ledger.misses,
        estimates=estimates,
        left_s=scene.left_s,
    )
