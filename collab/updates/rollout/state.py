"""What is known of a rollout, what may happen to it, and what it asks for.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Union

import msgspec

from collab.core.plan import Frozen
from collab.updates.rollout.definition import Labels, Rollout
from collab.updates.rollout.waves import NO_WAVE, in_waves

Status = Literal[
    "waiting",
    "updating",
    "healthy",
    "dropped",
    "rolled back",
    "failed",
    "offline",
    "excluded",
    "to go back",
    "going back",
    "gone back",
]
BAD: Final[frozenset[Status]] = frozenset({"dropped", "rolled back", "failed"})
AHEAD: Final[frozenset[Status]] = frozenset({"waiting", "updating", "offline"})
"""Nothing is decided yet."""
UNDER_WAY: Final[frozenset[Status]] = frozenset({"updating", "going back"})

Phase = Literal["running", "open", "going back", "done", "halted", "aborted", "closed"]
"""``open``: all waves are over, and targets that are offline are waited for.  ``going back``: taking back
what was done, then ``halted`` or ``aborted``.  ``closed``: the release was taken back by its publisher."""
ENDED: Final[frozenset[Phase]] = frozenset({"done", "halted", "aborted", "closed"})
FINAL: Final[frozenset[Phase]] = frozenset({"done", "aborted", "closed"})
"""Not even `Resume` leads out of these."""


class Target(Frozen, frozen=True, kw_only=True):
    """One plan of the rollout.

    Attributes:
        name: the plan's.
        file: the plan's file, as it was found.
        status: what became of it, ``reason`` why.
        version, epoch: what it runs, as far as that was told; empty and 0: nobody has.
        tries: how often it was offline, one after the other.
        due_s: when it is looked for again.
        since_s: when its status last changed.
        order: of becoming healthy, from 1; it is gone back from in the reverse order.
    """

    name: str
    file: str = ""
    labels: Labels = msgspec.field(default_factory=dict)
    wave: int = NO_WAVE
    status: Status = "waiting"
    reason: str = ""
    version: str = ""
    epoch: int = 0
    tries: int = 0
    due_s: float = 0.0
    since_s: float = 0.0
    order: int = 0

    @property
    def decided(self) -> bool:
        """Whether nothing more happens with it by itself."""
        return self.status not in AHEAD and self.status not in ("to go back", "going back")


class RolloutState(Frozen, frozen=True, kw_only=True):
    """All of it, as the journal keeps it.

    Attributes:
        targets: by wave, in the order in which they have their turn.
        wave: the one that has its turn, from 0.
        rests_until_s: end of the rest after it; 0 while it is not over.
        reason: why it is in its phase.
        paused_by: who paused it; empty: nobody has.
        after: what follows ``going back``.
        opened_s: when the last wave was over.
        wish: number of the last wish of another process that was heard.
    """

    targets: tuple[Target, ...]
    phase: Phase = "running"
    wave: int = 0
    rests_until_s: float = 0.0
    reason: str = ""
    paused_by: str = ""
    after: Literal["halted", "aborted"] = "halted"
    opened_s: float = 0.0
    begun_s: float = 0.0
    wish: int = 0

    def target(self, name: str) -> Target:
        """A target by its plan's name; raises `KeyError`."""
        for one in self.targets:
            if one.name == name:
                return one
        raise KeyError(name)


def begin(rollout: Rollout, found: Mapping[str, tuple[str, Labels]], now_s: float) -> RolloutState:
    """A rollout in which nothing has happened yet.

    Args:
        found: file and labels of each target, by its plan's name.
    """
    waves = in_waves(rollout, {name: labels for name, (_, labels) in found.items()})
    targets = [
        Target(
            name=name,
            file=found[name][0],
            labels=found[name][1],
            wave=wave,
            since_s=now_s,
            status="excluded" if wave == NO_WAVE else "waiting",
            reason="no wave reaches it" if wave == NO_WAVE else "",
        )
        for name, wave in waves.items()
    ]
    return RolloutState(targets=tuple(targets), begun_s=now_s)


# --- what happens --------------------------------------------------------------


class Tick(msgspec.Struct, frozen=True):
    """Time went on."""


class Updated(msgspec.Struct, frozen=True):
    """A target runs the release, and it is healthy there."""

    name: str
    version: str = ""
    epoch: int = 0
    reason: str = ""


class Spoiled(msgspec.Struct, frozen=True):
    """A target does not take the release."""

    name: str
    status: Literal["dropped", "rolled back", "failed"]
    reason: str
    version: str = ""
    epoch: int = 0


class LeftOut(msgspec.Struct, frozen=True):
    """The release is not for a target."""

    name: str
    reason: str
    version: str = ""


class Away(msgspec.Struct, frozen=True):
    """A target's nodes could not be reached."""

    name: str
    reason: str


class WentBack(msgspec.Struct, frozen=True):
    """A target runs what it ran before the rollout."""

    name: str
    version: str = ""
    epoch: int = 0


class Pause(msgspec.Struct, frozen=True):
    """Somebody wants nothing new to begin."""

    by: str


class Resume(msgspec.Struct, frozen=True):
    """Somebody wants it to go on; targets that failed are tried again, or left out."""

    by: str
    leave_out: bool = False


class Abort(msgspec.Struct, frozen=True):
    """Somebody wants no more of it, or all of it back."""

    by: str
    back: bool = False


class Restarted(msgspec.Struct, frozen=True):
    """Another process takes over: what was under way is so no longer; and what somebody wants of it first."""

    wish: Union[Pause, Resume, Abort, None] = None


class Gone(msgspec.Struct, frozen=True):
    """The release was taken back, or there is a newer one."""

    reason: str


Event = Union[Tick, Updated, Spoiled, LeftOut, Away, WentBack, Restarted, Pause, Resume, Abort, Gone]


# --- what is to be done ---------------------------------------------------------


class Update(msgspec.Struct, frozen=True):
    """Put the release into a target, unless it runs it already."""

    name: str


class TakeBack(msgspec.Struct, frozen=True):
    """Put back into a target what it ran before."""

    name: str


Order = Union[Update, TakeBack]


class Step(msgspec.Struct, frozen=True):
    """What an event leads to.

    Attributes:
        orders: to be carried out once the state is on the disk.
        wait_until_s: when a `Tick` may change something; None: only other events can.
    """

    state: RolloutState
    orders: tuple[Order, ...] = ()
    wait_until_s: float | None = None
