"""What an agent has to remember of one family to do nothing twice, and what stands in its way.  Pure.

Everything that it begins is in here before it is begun; the store of releases says the rest.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import InputError
from collab.updates.policies.clauses import Action
from collab.updates.policies.memory import Memory
from collab.updates.policies.state import DeviceState
from collab.updates.release import Release
from collab.updates.store.state import State

FORMAT: Final = 1
MAX_REPORTS: Final = 50
MAX_TEXT: Final = 300
MAX_AGENDA_BYTES: Final = 1 << 20
MAX_TRIALS: Final = 3
"""Processes that may end while they judge one candidate."""
FIRST_RETRY_S: Final = 10.0
LAST_RETRY_S: Final = 3600.0

Result = Literal["healthy", "committed", "dropped", "rolled back", "failed", "round"]


class Report(Frozen, frozen=True, kw_only=True):
    """What came of something, for people and for who looks after many devices.

    Attributes:
        at: seconds since 1970.
        version: of the release that it is about; 0 for none.
        touched: requests that the candidate answered before it was judged.
        seconds: what it took.
    """

    at: float
    result: Result
    version: int = 0
    reason: str = ""
    epoch: int = 0
    touched: int = 0
    seconds: float = 0.0


class Round(Frozen, frozen=True, kw_only=True):
    """The last federated round that was asked for."""

    number: int
    began_s: float
    over_s: float | None = None
    """None: it is under way, or who asked for it ended before it did."""


class Agenda(Frozen, frozen=True, kw_only=True):
    """One family's.

    Attributes:
        checked_s: when the repository was last looked at.
        offered: the newest release that it had then.
        failures: looks, downloads and deployments in a row that failed.
        retry_s: nothing of that kind is begun before.
        trying: version that is judged now, in ``trials`` processes so far.
        carried: activation of the store that the plans were last brought to.
        reports: the last ones, oldest first.
    """

    format: int = FORMAT
    memory: Memory = Memory()
    checked_s: float | None = None
    offered: Release | None = None
    failures: int = 0
    retry_s: float = 0.0
    trying: int = 0
    trials: int = 0
    carried: int = 0
    round: Round | None = None
    reports: tuple[Report, ...] = ()


def decode_agenda(data: bytes) -> Agenda:
    """Read it; raises `InputError`."""
    try:
        return msgspec.json.decode(data, type=Agenda)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"agenda: {error}") from error


def checked(agenda: Agenda, offered: Release | None, now: float) -> Agenda:
    """The repository was looked at."""
    return msgspec.structs.replace(agenda, checked_s=now, offered=offered, failures=0, retry_s=0.0)


def failed(agenda: Agenda, now: float) -> Agenda:
    """A look, a download or a deployment did not come about: later again, and later each time."""
    wait = min(FIRST_RETRY_S * 2 ** min(agenda.failures, 20), LAST_RETRY_S)
    return msgspec.structs.replace(agenda, failures=agenda.failures + 1, retry_s=now + wait)


def succeeded(agenda: Agenda) -> Agenda:
    """It did."""
    return msgspec.structs.replace(agenda, failures=0, retry_s=0.0)


def trying(agenda: Agenda, version: int) -> Agenda:
    """A candidate is about to be judged by this process."""
    trials = agenda.trials + 1 if agenda.trying == version else 1
    return msgspec.structs.replace(agenda, trying=version, trials=trials)


def settled(agenda: Agenda, activation: int) -> Agenda:
    """Plans run what the store says."""
    return msgspec.structs.replace(succeeded(agenda), carried=activation, trying=0, trials=0)


def reported(agenda: Agenda, report: Report) -> Agenda:
    """Keep what came of something."""
    short = msgspec.structs.replace(report, reason=report.reason[:MAX_TEXT])
    return msgspec.structs.replace(agenda, reports=(*agenda.reports, short)[-MAX_REPORTS:])


def waits_until(agenda: Agenda, now: float) -> float:
    """When the next try may begin; ``now`` if it may at once, or the clock was put back."""
    return agenda.retry_s if now < agenda.retry_s <= now + LAST_RETRY_S else now


def round_due(agenda: Agenda, pause_s: float, now: float) -> float:
    """When the next round may be asked for."""
    last = agenda.round
    if last is None:
        return now
    since = last.began_s if last.over_s is None else last.over_s
    # A last round in the future is of a clock that was put back.
    return max(now, since + pause_s) if since <= now else now


def facing(state: DeviceState, store: State, agenda: Agenda) -> DeviceState:
    """The state with what the store and the repository say."""
    offered = agenda.offered
    # What was here once is not taken again, so it is no offer.
    if offered is not None and offered.version <= store.highest:
        offered = None
    running = 0 if store.active is None else store.active.version
    return msgspec.structs.replace(
        state,
        running=running,
        previous=store.previous[0].version if store.previous else None,
        offered=running if offered is None and agenda.offered is not None else _version(offered),
        offered_bytes=None if offered is None else offered.size,
        benefit=_benefit(offered, store.active),
        checked_s=agenda.checked_s,
    )


def promised(store: State) -> float | None:
    """The accuracy that what runs was signed with."""
    return None if store.active is None else store.active.custom.accuracy


def _benefit(offered: Release | None, active: Release | None) -> float | None:
    """Gain of accuracy that the publisher states; a loss is no gain."""
    if offered is None or active is None or offered.custom.accuracy is None or active.custom.accuracy is None:
        return None
    return max(0.0, offered.custom.accuracy - active.custom.accuracy)


def _version(release: Release | None) -> int | None:
    return None if release is None else release.version


def obstacles(
    agenda: Agenda, store: State, now: float, *, busy: str, away: str, rounds: str
) -> dict[Action, str]:
    """Actions that cannot be begun now, and why.

    Args:
        busy: what is under way; empty: nothing.
        away: which node cannot be reached; empty: all can.
        rounds: why no round can be asked for; empty: one can.
    """
    found: dict[Action, str] = {}
    if store.active is not None and not store.healthy:
        found["install"] = f"version {store.active.version} has not been called healthy yet"
    if store.pinned:
        found["install"] = found["rollback"] = f"{store.family} is pinned"
    if away:
        found["install"] = found["rollback"] = away
    if busy:
        found["check"] = found["install"] = found["rollback"] = f"{busy} is under way"
    until = waits_until(agenda, now)
    if until > now:
        text = f"the last try failed; again in {until - now:.0f} s"
        found.setdefault("check", text)
        found.setdefault("install", text)
    if rounds:
        found["round"] = rounds
    return found


def builtins(report: Report) -> dict[str, Any]:
    """As ``--json`` prints it."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report))
    return {"at": report.at, "result": report.result} | fields


prepare(Agenda)
