"""The sending half of a link over CoAP/UDP: windowed blocks with loss recovery, sans-IO.

Every datagram has a number of its own, which comes back in the token of the response;
so a response tells what it answers, retransmissions are never confused with what they
replace, and round trips are exact.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, NamedTuple

from collab.transport.coap.recovery import Congestion, Pacer, RoundTrip
from collab.transport.coap.wire import NUMBERS, Body, Peer

_REORDERING: Final = 3
"""A datagram overtaken by so many is lost (RFC 9002 6.1.1)."""
_MAX_REORDERING: Final = 128
_PROBES: Final = 2
"""Datagrams sent when nothing was heard for a while (RFC 9002 6.2.4)."""
_PERSISTENT: Final = 3
"""Probes without an answer after which the window collapses (RFC 9002 7.6.1)."""
_LATE: Final = 1024
"""Datagrams believed lost whose answers are still understood."""
_UNDER_WAY: Final = NUMBERS // 4
"""More are never under way: tokens number datagrams in 16 bits."""
QUEUE_BYTES: Final = 512 * 1024
"""Frames accepted beyond the other end's window."""


class _Sent(NamedTuple):
    body: Body | None
    """None for a request that only asks."""
    block: int
    at: float


class Sender:
    """Frames in, datagrams out; learns from responses."""

    def __init__(self, peer: Peer, limit: int) -> None:
        self._peer = peer
        self._limit = limit
        self._spent = 0
        """Cost of all frames that were started."""
        self._queue: deque[Body] = deque()
        self.queued_bytes = 0
        """Cost of frames not started yet."""
        self._current: Body | None = None
        self._again: deque[tuple[Body, int]] = deque()
        self._under_way: dict[int, _Sent] = {}
        self._late: dict[int, _Sent] = {}
        self._next_number = 0
        self._next_frame = 0
        self._largest = -1
        self._reordering = _REORDERING
        self._unfinished = 0
        self._forced = 0
        self._ask = False
        self._probe_at: float | None = None
        self._overtaken_at: float | None = None
        self._tries = 0
        self.window_limit = 0
        """How far our own receiver's window reaches, told in requests that ask."""
        self.rtt = RoundTrip()
        self.congestion = Congestion()
        self._pacer = Pacer()
        self._paced_until: float | None = None
        self.lost = 0
        """Datagrams believed lost so far."""

    # --- what goes out --------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether every frame has arrived."""
        return not self._unfinished

    @property
    def waiting(self) -> bool:
        """Whether answers are due."""
        return bool(self._under_way)

    @property
    def asks(self) -> bool:
        """Whether a question waits to be sent."""
        return self._ask

    @property
    def sent(self) -> int:
        """Datagrams sent so far."""
        return self._next_number

    def has_room(self) -> bool:
        """Whether another frame may be queued."""
        return self.queued_bytes < QUEUE_BYTES

    def queue(self, data: bytes) -> None:
        """Take a frame; it belongs to this object from now on."""
        body = Body(self._next_frame, data)
        self._next_frame += 1
        self._queue.append(body)
        self.queued_bytes += body.cost
        self._unfinished += 1

    def ask(self) -> None:
        """Request an answer, which also tells the other end how far our window reaches."""
        self._ask = True

    def datagrams(self, now: float) -> list[bytes]:
        """What may leave now."""
        out: list[bytes] = []
        if self._ask:
            self._ask = False
            out.append(self._asked(now))
        congestion = self.congestion
        free = min(int(congestion.window), _UNDER_WAY) - len(self._under_way)
        room = max(free, self._forced)
        if room <= 0 or not (self._again or self._startable()):
            return out
        paced = self._pacer.allowed(now, congestion.window, self.rtt.smoothed_s, congestion.in_slow_start)
        room = max(min(room, paced), self._forced)
        self._forced = 0
        count = 0
        while count < room and (step := self._step()) is not None:
            body, block = step
            number = self._next_number
            body.places[block] = number
            self._under_way[number] = _Sent(body, block, now)
            self._next_number = number + 1
            out.append(body.datagram(self._peer, number, block))
            count += 1
        self._pacer.took(count)
        blocked = count == paced and (self._again or self._startable())
        self._paced_until = self._pacer.ready_at(now) if blocked else None
        if count:
            self._arm(now)
        return out

    def _asked(self, now: float) -> bytes:
        number = self._next_number
        self._next_number += 1
        self._under_way[number] = _Sent(None, 0, now)
        self._arm(now)
        return self._peer.ask(number, self.window_limit)

    def _startable(self) -> bool:
        if self._current is not None:
            return True
        return bool(self._queue) and self._spent + self._queue[0].cost <= self._limit

    def _step(self) -> tuple[Body, int] | None:
        """The next thing to send: what was lost before what is new."""
        while self._again:
            body, block = self._again.popleft()
            if body.places[block] != Body.ARRIVED:
                return body, block
        if self._current is None:
            if not self._startable():
                return None
            self._current = self._queue.popleft()
            self.queued_bytes -= self._current.cost
            self._spent += self._current.cost
        body, block = self._current, self._current.next_block
        body.next_block += 1
        if body.next_block == body.blocks:
            self._current = None
        return body, block

    # --- what comes back ------------------------------------------------------

    def limit(self, limit: int) -> None:
        """The other end's window reaches so far; older news change nothing."""
        self._limit = max(self._limit, limit)

    def _full(self, low: int) -> int:
        return self._next_number - ((self._next_number - low) % NUMBERS or NUMBERS)

    def _find(self, number: int) -> _Sent | None:
        return self._under_way.get(number) or self._late.get(number)

    def answered(self, low: int, now: float, upto: int = 0, missing: frozenset[int] = frozenset()) -> bool:
        """The datagram with these low bits arrived, and blocks before ``upto`` but the missing ones.

        Returns whether such a datagram was expected.
        """
        number = self._full(low)
        sent = self._find(number)
        if sent is None:
            return False
        before = len(self._under_way)
        if self._under_way.pop(number, None) is not None:
            self.rtt.sample(now - sent.at)
            self.congestion.measured(now - sent.at, number, self._next_number)
        else:
            # It was only late: wait longer for those that are overtaken.
            del self._late[number]
            if sent.body is not None:
                self._reordering = min(2 * self._reordering, _MAX_REORDERING)
                self.congestion.undo()
        if sent.body is not None:
            self._arrived(sent.body, sent.block)
            self._largest = max(self._largest, number)  # questions overtake blocks
            for block in range(sent.body.first, min(upto, sent.body.blocks)):
                if block not in missing:
                    self._arrived(sent.body, block)
        count = before - len(self._under_way)
        self.congestion.acknowledged(count, before, now, self.rtt.smoothed_s)
        self._tries = self._forced = 0
        self._find_lost(now)
        self._arm(now)
        return True

    def _arrived(self, body: Body, block: int) -> None:
        place = body.places[block]
        if place < 0:
            return
        body.places[block] = Body.ARRIVED
        self._under_way.pop(place, None)
        body.left -= 1
        while body.first < body.blocks and body.places[body.first] == Body.ARRIVED:
            body.first += 1
        if not body.left:
            self._unfinished -= 1

    def _find_lost(self, now: float) -> None:
        """Declare lost what was overtaken (RFC 9002 6.1)."""
        patience = self.rtt.reordering_s
        lost: list[int] = []
        self._overtaken_at = None
        for number, sent in self._under_way.items():
            if number >= self._largest:
                break
            if number > self._largest - self._reordering and sent.at + patience > now:
                self._overtaken_at = sent.at + patience
                break
            lost.append(number)
        missed, newest = 0, 0.0
        for number in lost:
            sent = self._under_way.pop(number)
            self._late[number] = sent
            if sent.body is None:
                self._ask = True
            elif sent.body.places[sent.block] == number:
                self._again.append((sent.body, sent.block))
                missed, newest = missed + 1, sent.at
        while len(self._late) > _LATE:
            del self._late[next(iter(self._late))]
        if missed:
            self.lost += missed
            self.congestion.lost(missed, newest, now)

    # --- time -----------------------------------------------------------------

    def _arm(self, now: float) -> None:
        self._probe_at = now + self.rtt.probe_s(self._tries) if self._under_way else None

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        times = [at for at in (self._probe_at, self._overtaken_at, self._paced_until) if at is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Time has passed: notice losses, probe when nothing is heard."""
        if self._paced_until is not None and now >= self._paced_until:
            self._paced_until = None
        if self._overtaken_at is not None and now >= self._overtaken_at:
            self._find_lost(now)
        if self._probe_at is None or now < self._probe_at:
            return
        self._tries += 1
        self._forced = _PROBES
        if self._tries == _PERSISTENT:
            self.congestion.collapse()
        for number, sent in self._oldest():
            if sent.body is None:
                # Ask afresh; the old question is forgotten.
                self._late[number] = self._under_way.pop(number)
                self._ask = True
            else:
                self._again.appendleft((sent.body, sent.block))
        self._arm(now)

    def _oldest(self) -> list[tuple[int, _Sent]]:
        """The first of those under way that nothing replaces, latest first."""
        current = (
            (number, sent)
            for number, sent in self._under_way.items()
            if sent.body is None or sent.body.places[sent.block] == number
        )
        return list(islice(current, _PROBES))[::-1]
