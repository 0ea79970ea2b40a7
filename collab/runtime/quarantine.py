"""Which members of an ensemble are in good standing: a window of agreement for each, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from collab.core.plan import Quarantine, most_out

Pick = int | None
"""The class that a member gives its largest score; None where it has given nothing."""


def majority(picks: Sequence[Pick], voters: Collection[int]) -> Pick:
    """The class that over half of the voters that came pick, and two of them at least; None without one.

    The combiner's own answer is no judge: one member that is sure of itself can move a mean
    or a maximum, and would then agree with it while the honest ones do not.
    """
    cast = [pick for i in voters if (pick := picks[i]) is not None]
    if not cast:
        return None
    pick, count = Counter(cast).most_common(1)[0]
    return pick if count >= 2 and 2 * count > len(cast) else None


class Change(NamedTuple):
    """A member was put into quarantine, or taken in again."""

    member: int
    out: bool
    agreed: int
    """In how many of the last requests it agreed; those of the window that it has not seen yet count."""


class Watch:
    """Members' agreement with the majority over their last requests, and who is left out for it.

    A member is judged by the requests in which it gave an answer and the members in good
    standing had a majority.  It is put out when it has disagreed so often that, whatever it
    says next, a full window is below its least; so a broken one is found before the window is
    full.  From then on a new window is counted, and when that is full and not below, it is
    taken in again.  So it changes sides at most once in a window.  Not for several threads.
    """

    def __init__(self, rule: Quarantine) -> None:
        self._rule = rule
        self.window = rule.window
        """Requests over which a member is judged."""
        count = len(rule.least)
        self._most_out = most_out(count)
        self._seen: list[deque[bool]] = [deque(maxlen=rule.window) for _ in range(count)]
        self._misses = [0] * count
        self._out: set[int] = set()

    @property
    def out(self) -> frozenset[int]:
        """Members in quarantine."""
        return frozenset(self._out)

    def observe(self, picks: Sequence[Pick]) -> list[Change]:
        """Take in what each member picked for one request; returns who changes sides.

        Of several that fall below at once the one furthest below goes first, and never so many
        that those left are not over half of all.
        """
        voters = [i for i in range(len(picks)) if i not in self._out]
        answer = majority(picks, voters)
        if answer is None:
            return []
        for member, pick in enumerate(picks):
            if pick is not None:
                self._count(member, pick == answer)
        return [*self._take_in(), *self._put_out()]

    def _count(self, member: int, agrees: bool) -> None:
        seen = self._seen[member]
        if len(seen) == seen.maxlen:
            self._misses[member] -= not seen[0]
        seen.append(agrees)
        self._misses[member] += not agrees

    def _short(self, member: int) -> int:
        """How many agreements a member lacks of its least; 0 and below is none."""
        return self._misses[member] - (self._rule.window - self._rule.least[member])

    def _take_in(self) -> list[Change]:
        back = [
            i for i in sorted(self._out) if len(self._seen[i]) == self._rule.window and self._short(i) <= 0
        ]
        self._out -= set(back)
        return [Change(i, False, self._rule.window - self._misses[i]) for i in back]

    def _put_out(self) -> list[Change]:
        below = [i for i in range(len(self._misses)) if i not in self._out and self._short(i) > 0]
        below.sort(key=self._short, reverse=True)
        changes = []
        for member in below[: self._most_out - len(self._out)]:
            changes.append(Change(member, True, self._rule.window - self._misses[member]))
            self._out.add(member)
            self._seen[member].clear()
            self._misses[member] = 0
        return changes
