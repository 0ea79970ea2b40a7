"""What a rollout does next: an event and the time go in, orders come out.  Pure.

`HANDLERS` says what each event changes; then waves, thresholds and windows decide what may begin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from collab.updates.rollout.definition import Rollout, count_of
from collab.updates.rollout.state import (
    AHEAD,
    BAD,
    ENDED,
    FINAL,
    UNDER_WAY,
    Abort,
    Away,
    Event,
    Gone,
    LeftOut,
    Order,
    Pause,
    Phase,
    Restarted,
    Resume,
    RolloutState,
    Spoiled,
    Status,
    Step,
    TakeBack,
    Target,
    Tick,
    Update,
    Updated,
    WentBack,
)
from collab.updates.rollout.waves import opens_at

FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 600.0
_JITTER: Final = 0.2
"""Share by which pauses differ from target to target, so that a site that is back is not met all at once."""
_FAST: Final[frozenset[Phase]] = frozenset({"running", "open"})


def step(rollout: Rollout, state: RolloutState, event: Event, now_s: float) -> Step:
    """The state after an event, and what is to be done now."""
    state = HANDLERS[type(event)](state, event, now_s)
    state = _judged(rollout, state, now_s)
    orders, state = _orders(rollout, state, now_s)
    return Step(state, orders, _next_s(rollout, state, now_s))


def may_start(rollout: Rollout, state: RolloutState, now_s: float) -> bool:
    """Whether updates may begin at all."""
    return not state.paused_by and state.phase in _FAST and opens_at(rollout.windows, now_s) <= now_s


def had_turns(state: RolloutState, wave: int) -> bool:
    """Whether each target of a wave had its turn; one that was offline had."""
    return not any(
        one.status == "waiting" or (one.status == "updating" and not one.tries)
        for one in state.targets
        if one.wave == wave
    )


def is_healthy(rollout: Rollout, state: RolloutState, wave: int) -> bool:
    """Whether enough targets of a wave are, so that the next one may begin."""
    own = [one for one in state.targets if one.wave == wave and one.status != "excluded"]
    return _count(own, {"healthy"}) >= count_of(rollout.success, len(own))


def pause_s(name: str, tries: int) -> float:
    """How long a target that is offline is left alone."""
    draw = int.from_bytes(hashlib.sha256(f"{name}/{tries}".encode()).digest()[:4], "big") / 2**32
    longest = min(FIRST_PAUSE_S * 2 ** min(tries - 1, 16), LONGEST_PAUSE_S)
    return float(longest * (1 - _JITTER * draw))


# --- what an event changes --------------------------------------------------------


def _same(state: RolloutState, event: Tick, now_s: float) -> RolloutState:
    return state


def _updated(state: RolloutState, event: Updated, now_s: float) -> RolloutState:
    if state.target(event.name).status != "updating":
        return state
    order = 1 + max(one.order for one in state.targets)
    # What becomes healthy while all goes back has to follow.
    status: Status = "to go back" if state.phase == "going back" else "healthy"
    return _change(
        *(state, event.name, now_s),
        status=status,
        reason=event.reason,
        version=event.version,
        epoch=event.epoch,
        order=order,
        tries=0,
        due_s=0.0,
    )


def _spoiled(state: RolloutState, event: Spoiled, now_s: float) -> RolloutState:
    if state.target(event.name).status not in UNDER_WAY:
        return state
    told = {"version": event.version, "epoch": event.epoch}
    return _change(state, event.name, now_s, status=event.status, reason=event.reason, due_s=0.0, **told)


def _left_out(state: RolloutState, event: LeftOut, now_s: float) -> RolloutState:
    if state.target(event.name).status not in UNDER_WAY:
        return state
    return _change(state, event.name, now_s, status="excluded", reason=event.reason, version=event.version)


def _away(state: RolloutState, event: Away, now_s: float) -> RolloutState:
    known = state.target(event.name)
    if known.status not in UNDER_WAY:
        return state
    tries = known.tries + 1
    return _change(
        *(state, event.name, now_s),
        status="offline" if known.status == "updating" else "to go back",
        reason=event.reason,
        tries=tries,
        due_s=now_s + pause_s(event.name, tries),
    )


def _went_back(state: RolloutState, event: WentBack, now_s: float) -> RolloutState:
    if state.target(event.name).status != "going back":
        return state
    told = {"version": event.version, "epoch": event.epoch}
    return _change(state, event.name, now_s, status="gone back", reason="", order=0, tries=0, **told)


def _restarted(state: RolloutState, event: Restarted, now_s: float) -> RolloutState:
    for one in state.targets:
        if one.status in UNDER_WAY:
            again: Status = "to go back"
            if one.status == "updating":
                again = "offline" if one.tries else "waiting"
            state = _change(state, one.name, now_s, status=again, due_s=0.0)
    return state if event.wish is None else HANDLERS[type(event.wish)](state, event.wish, now_s)


def _pause(state: RolloutState, event: Pause, now_s: float) -> RolloutState:
    if state.phase in ENDED:
        return state
    return _replaced(state, paused_by=event.by)


def _resume(state: RolloutState, event: Resume, now_s: float) -> RolloutState:
    if state.phase in FINAL:
        return state
    state = _replaced(state, paused_by="")
    if state.phase != "halted":
        return state
    for one in state.targets:
        if one.status in BAD or one.status == "gone back":
            out = event.leave_out and one.status in BAD
            reason = f"{one.status}, left out by {event.by}: {one.reason}" if out else ""
            again: Status = "excluded" if out else "waiting"
            state = _change(state, one.name, now_s, status=again, reason=reason, tries=0, due_s=0.0)
    waves = [one.wave for one in state.targets if one.status == "waiting"]
    first = min([state.wave, *waves])
    return _replaced(state, phase="running", wave=first, rests_until_s=0.0, reason="", opened_s=0.0)


def _abort(state: RolloutState, event: Abort, now_s: float) -> RolloutState:
    reason = f"aborted by {event.by}"
    if event.back and state.phase != "closed":
        return _go_back(state, "aborted", reason, now_s)
    if state.phase in FINAL:
        return state
    return _replaced(state, phase="aborted", reason=reason, paused_by="")


def _gone(state: RolloutState, event: Gone, now_s: float) -> RolloutState:
    if state.phase in FINAL or state.phase == "going back":
        return state
    return _replaced(state, phase="closed", reason=event.reason, paused_by="")


HANDLERS: Final[Mapping[type[Any], Callable[[RolloutState, Any, float], RolloutState]]] = {
    Tick: _same,
    Updated: _updated,
    Spoiled: _spoiled,
    LeftOut: _left_out,
    Away: _away,
    WentBack: _went_back,
    Restarted: _restarted,
    Pause: _pause,
    Resume: _resume,
    Abort: _abort,
    Gone: _gone,
}


# --- thresholds -------------------------------------------------------------------


def _judged(rollout: Rollout, state: RolloutState, now_s: float) -> RolloutState:
    """The phase and the wave that follow from what the targets are."""
    if state.phase in _FAST and (trouble := _trouble(rollout, state)):
        if rollout.on_failure == "rollback":
            return _judged(rollout, _go_back(state, "halted", trouble, now_s), now_s)
        return _replaced(state, phase="halted", reason=trouble)
    if state.phase == "going back":
        left = _count(state.targets, {"updating", "to go back", "going back"})
        return state if left else _replaced(state, phase=state.after)
    if state.phase == "open":
        return _closed_if_late(rollout, state, now_s)
    if state.phase == "running" and not state.paused_by and had_turns(state, state.wave):
        return _after_wave(rollout, state, now_s)
    return state


def _trouble(rollout: Rollout, state: RolloutState) -> str:
    """Why it has to be halted; empty if it has not."""
    counted = [one for one in state.targets if one.status != "excluded"]
    bad = _count(counted, BAD)
    if counted and bad >= max(1, count_of(rollout.errors, len(counted))):
        last = max((one for one in counted if one.status in BAD), key=lambda one: one.since_s)
        return f"{bad} of {len(counted)} targets took no release; {last.name} {last.status}: {last.reason}"
    own = [one for one in counted if one.wave == state.wave]
    wanted = count_of(rollout.success, len(own))
    if _count(own, AHEAD | {"healthy"}) < wanted:
        bad = _count(own, BAD)
        return f"wave {state.wave + 1}: {bad} of {len(own)} took no release, {wanted} had to be healthy"
    return ""


def _after_wave(rollout: Rollout, state: RolloutState, now_s: float) -> RolloutState:
    """The next wave, once its rest is over; after the last one it is open for who is offline."""
    later = sorted({one.wave for one in state.targets if one.wave > state.wave and one.status in AHEAD})
    if not later:
        opened = _replaced(state, phase="open", opened_s=now_s, rests_until_s=0.0)
        return _closed_if_late(rollout, opened, now_s)
    if not is_healthy(rollout, state, state.wave):
        return state  # too many are offline: they are waited for
    if all(one.wave != state.wave or one.status == "excluded" for one in state.targets):
        return _stood_in_for(rollout, state, later[0], now_s)
    rests_until_s = state.rests_until_s or now_s + rollout.soak_s
    if now_s < rests_until_s:
        return _replaced(state, rests_until_s=rests_until_s)
    return _judged(rollout, _replaced(state, wave=later[0], rests_until_s=0.0), now_s)


def _stood_in_for(rollout: Rollout, state: RolloutState, later: int, now_s: float) -> RolloutState:
    """The release was for nobody in the wave and has shown nothing: one of the next takes its turn."""
    stand_in = next((one for one in state.targets if one.wave == later and one.status == "waiting"), None)
    if stand_in is not None:
        return _change(state, stand_in.name, now_s, wave=state.wave)
    return _judged(rollout, _replaced(state, wave=later, rests_until_s=0.0), now_s)


def _closed_if_late(rollout: Rollout, state: RolloutState, now_s: float) -> RolloutState:
    ahead = [one for one in state.targets if one.status in AHEAD]
    if not ahead:
        return _replaced(state, phase="done", reason="", paused_by="")
    late = now_s >= state.opened_s + rollout.close_after_s
    if late and not _count(ahead, {"updating"}):
        return _replaced(state, phase="done", reason=f"{len(ahead)} targets did not come back in time")
    return state


# --- orders -----------------------------------------------------------------------


def _orders(rollout: Rollout, state: RolloutState, now_s: float) -> tuple[tuple[Order, ...], RolloutState]:
    orders: list[Order] = []
    free = rollout.parallel - _count(state.targets, UNDER_WAY)
    if state.phase == "going back" and not state.paused_by:
        for one in _to_take_back(state, now_s)[: max(0, free)]:
            orders.append(TakeBack(one.name))
            state = _change(state, one.name, now_s, status="going back")
    elif may_start(rollout, state, now_s):
        for one in _to_update(state, now_s)[: max(0, free)]:
            orders.append(Update(one.name))
            state = _change(state, one.name, now_s, status="updating")
    return tuple(orders), state


def _to_take_back(state: RolloutState, now_s: float) -> list[Target]:
    due = [one for one in state.targets if one.status == "to go back" and one.due_s <= now_s]
    return sorted(due, key=lambda one: -one.order)


def _to_update(state: RolloutState, now_s: float) -> list[Target]:
    """Those of the wave that has its turn, and those of earlier ones that were offline."""
    turn = [one for one in state.targets if 0 <= one.wave <= state.wave]
    waiting = [one for one in turn if one.status == "waiting"]
    back = [one for one in turn if one.status == "offline" and one.due_s <= now_s]
    return [*waiting, *sorted(back, key=lambda one: one.due_s)]


def _next_s(rollout: Rollout, state: RolloutState, now_s: float) -> float | None:
    """When time alone may change something."""
    if state.phase in ENDED or state.paused_by:
        return None
    times = [state.rests_until_s] if state.rests_until_s > now_s else []
    if state.phase == "open":
        times.append(state.opened_s + rollout.close_after_s)
    times += [one.due_s for one in state.targets if one.status in ("offline", "to go back")]
    if state.phase in _FAST:
        times.append(opens_at(rollout.windows, now_s))
    return min((at for at in times if at > now_s), default=None)


# --- small things -----------------------------------------------------------------


def _go_back(state: RolloutState, after: str, reason: str, now_s: float) -> RolloutState:
    for one in state.targets:
        if one.status == "healthy":
            state = _change(state, one.name, now_s, status="to go back", tries=0, due_s=0.0)
    return _replaced(state, phase="going back", after=after, reason=reason, paused_by="", rests_until_s=0.0)


def _count(targets: Iterable[Target], statuses: frozenset[Status] | set[Status]) -> int:
    return sum(one.status in statuses for one in targets)


def _change(state: RolloutState, name: str, now_s: float, **fields: Any) -> RolloutState:
    targets = tuple(
        msgspec.structs.replace(one, since_s=now_s, **fields) if one.name == name else one
        for one in state.targets
    )
    return _replaced(state, targets=targets)


def _replaced(state: RolloutState, **fields: Any) -> RolloutState:
    return msgspec.structs.replace(state, **fields)
