"""Which frame is next, without I/O: frames, results and the time in; each frame is counted once."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Final, Generic, Literal, TypeVar

from collab.core.streams import FramePolicy

T = TypeVar("T")

Outcome = Literal["answered", "failed", "dropped"]

_US: Final = 1_000_000


@dataclass(slots=True)
class Counts:
    """Frames so far: ``captured`` is the sum of the others, of those that wait and of those under way."""

    captured: int = 0
    answered: int = 0
    dropped: int = 0
    failed: int = 0

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Numbered(Generic[T]):
    """A frame that was taken in, by its number from 0 on."""

    sequence: int
    frame: T


class Intake(Generic[T]):
    """Frames between a source and a plan.

    Args:
        policy: what happens to frames that come while others are under way.
        fps: most frames that are taken in a second; None for no bound.
        at_a_time: most that are under way.
        most: frames that are taken in before the end; None for all that come.
    """

    def __init__(
        self, policy: FramePolicy, fps: float | None = None, at_a_time: int = 1, most: int | None = None
    ) -> None:
        self.counts = Counts()
        self._policy = policy
        self._interval_us = 0 if fps is None else round(_US / fps)
        self._at_a_time = at_a_time
        self._most = most
        self._waiting: deque[Numbered[T]] = deque()
        self._under_way: set[int] = set()
        self._due_us: int | None = None
        self._ended = False

    # --- what it is like -------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Frames that wait."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Frames that were taken and are not settled."""
        return len(self._under_way)

    @property
    def open(self) -> bool:
        """Whether further frames are taken in at all."""
        return not self._ended and (self._most is None or self.counts.captured < self._most)

    @property
    def room(self) -> bool:
        """Whether a frame may be offered now; without room the source has to wait."""
        return self.open and (self._policy.drops or len(self._waiting) < self._policy.waiting)

    @property
    def over(self) -> bool:
        """Whether no frame is left and none will come."""
        return not (self.open or self._waiting or self._under_way)

    # --- frames ------------------------------------------------------------------------

    def offer(self, frame: T) -> Numbered[T] | None:
        """Take a frame in; gives the one that it has pushed out.  Only where there is `room`."""
        assert self.room, "offered without room"
        taken = Numbered(self.counts.captured, frame)
        self.counts.captured += 1
        pushed = None
        if len(self._waiting) >= self._policy.waiting:
            pushed = self._waiting.popleft()
            self.counts.dropped += 1
        self._waiting.append(taken)
        return pushed

    def fail(self) -> int:
        """Count a frame that came and could not be read; its number."""
        self.counts.captured += 1
        self.counts.failed += 1
        return self.counts.captured - 1

    def take(self, now_us: int) -> Numbered[T] | None:
        """The next frame to ask for, the oldest that waits; None if none waits or it is not time yet."""
        if not self._waiting or len(self._under_way) >= self._at_a_time:
            return None
        if self._due_us is not None and now_us < self._due_us:
            return None
        # Paced by the schedule, not by when the loop came to it; but nothing is caught up.
        due_us = self._due_us
        if due_us is None or now_us - due_us >= self._interval_us:
            due_us = now_us
        self._due_us = due_us + self._interval_us
        frame = self._waiting.popleft()
        self._under_way.add(frame.sequence)
        return frame

    def next_us(self) -> int | None:
        """When `take` may give a frame that waits for its time; None if it does not wait for that."""
        if not self._waiting or len(self._under_way) >= self._at_a_time:
            return None
        return self._due_us

    def settle(self, frame: Numbered[T], outcome: Outcome) -> None:
        """What became of a frame that was taken; once for each."""
        self._under_way.remove(frame.sequence)
        setattr(self.counts, outcome, getattr(self.counts, outcome) + 1)

    def end(self) -> None:
        """The source has ended: no frame comes any more."""
        self._ended = True

    def drop_waiting(self) -> int:
        """Drop what waits, as where its user has seen enough; how many there were."""
        dropped = len(self._waiting)
        self._waiting.clear()
        self.counts.dropped += dropped
        return dropped
