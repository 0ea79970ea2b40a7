"""Reliable streams over lossy paths: what TCP does to messages, close enough that times match.

Slow start and CUBIC (RFC 9438), fast retransmission (RFC 5681), tail loss probes and
time-outs (RFC 8985, RFC 6298).  Acknowledgements are not sent as packets: they are back
after the usual delay of the way back.  Losses are known when three later packets have been
acknowledged, as far as those are sent in the same train.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from collab.emulation.clock import Clock
from collab.emulation.paths import Arrivals, Path, Train

INITIAL_WINDOW: Final = 10.0
"""Segments (RFC 6928)."""
_LEAST_WINDOW: Final = 2.0
_BETA: Final = 0.7
_CUBIC: Final = 0.4
"""RFC 9438 sections 4.6 and 5."""
_LEAST_SPREAD_US: Final = 200_000
"""Least that Linux adds to the round trip for a time-out."""
_HALVINGS: Final = 30
_MOST_TIMEOUT_US: Final = 120_000_000
_DELAYED_ACK_US: Final = 40_000
_TRAIN: Final = 16
"""Segments that are offered together at most where chance decides about each: acknowledgements come so."""
_DUPLICATES: Final = 3
"""Acknowledgements of later segments that tell of a loss."""
_MERGED: Final = 44
"""The same of merged trains: 64 KB, as segmentation offload cuts them."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a transport cuts messages into packets."""

    payload_bytes: int = 1448
    header_bytes: int = 52
    """IP and TCP with timestamps."""


@dataclass(slots=True)
class _Message:
    item: Any
    unsent: int
    missing: int
    last_bytes: int
    """Payload of its last segment."""
    done_us: float = 0.0


class Stream:
    """Messages from one host to another, delivered whole and in order."""

    def __init__(
        self, clock: Clock, there: Path, back: Path, framing: Framing, deliver: Callable[[Any], None]
    ) -> None:
        self._clock, self._there, self._back = clock, there, back
        self._framing, self._deliver = framing, deliver
        self._window = INITIAL_WINDOW
        self._threshold = float("inf")
        self._most = 0.0
        """Window at the last loss."""
        self._reduced_us = -1.0
        """When the window was reduced last."""
        self._in_flight = 0
        self._acks: deque[tuple[float, int]] = deque()
        self._unsent: deque[_Message] = deque()
        self._undelivered: deque[_Message] = deque()
        self._delivered_us = 0.0
        self._sent_us = 0
        self._waits = False
        self._round_us = there.usual_us + back.usual_us
        self._life = 0

    def send(self, size_bytes: int, item: Any) -> None:
        """Send a message; ``deliver`` gets its item when all of it has arrived."""
        payload = self._framing.payload_bytes
        count = -(-size_bytes // payload) or 1
        message = _Message(item, count, count, size_bytes - (count - 1) * payload)
        self._unsent.append(message)
        self._undelivered.append(message)
        if not self._waits:
            self._pump(self._life)

    def reset(self) -> None:
        """The connection broke: what is under way is gone, and the next message opens a new one."""
        self._life += 1
        self._unsent.clear()
        self._undelivered.clear()
        self._acks.clear()
        self._in_flight, self._waits = 0, False
        self._window, self._threshold, self._reduced_us = INITIAL_WINDOW, float("inf"), -1.0

    # --- sending -----------------------------------------------------------------------

    def _pump(self, life: int) -> None:
        """Send what the window allows, and come again when more of it is acknowledged."""
        if life != self._life:
            return
        self._waits = False
        now = self._clock.now_us
        self._drain(now)
        if not self._in_flight:
            self._cool(now - self._sent_us)
        merges = self._there.merges
        most, parts = (_MERGED, 2) if merges else (_TRAIN, 4)
        while self._unsent and self._in_flight < int(self._window):
            message = self._unsent[0]
            room = int(self._window) - self._in_flight
            # Acknowledgements come by trains, so a message that fills the window goes in several.
            limit = most if message.unsent <= room else min(most, max(int(self._window) // parts, 4))
            count = min(message.unsent, room, limit)
            message.unsent -= count
            if not message.unsent:
                self._unsent.popleft()
            self._in_flight += count
            self._sent_us = now
            self._send(message, count, not message.unsent, 0, merges)
        self._wait()

    def _cool(self, idle_us: float) -> None:
        """Nothing was sent for a while: half the window for each time-out of it (RFC 2861, as Linux does)."""
        timeout_us = self._timeout_us
        if idle_us > timeout_us and self._window > INITIAL_WINDOW:
            self._threshold = max(self._threshold, 0.75 * self._window)
            self._window = max(self._window * 0.5 ** min(idle_us // timeout_us, _HALVINGS), INITIAL_WINDOW)

    def _wait(self) -> None:
        """Come again with the next acknowledgement; without one in sight `_arrived` calls this again."""
        if self._unsent and self._acks and not self._waits:
            self._waits = True
            self._clock.at(self._acks[0][0], self._pump, self._life)

    def _send(self, message: _Message, count: int, ends: bool, again: int, merged: bool) -> None:
        """Put a train of a message's segments on the way."""
        header, payload = self._framing.header_bytes, self._framing.payload_bytes
        full = payload + header
        now = self._clock.now_us
        last = header + message.last_bytes if ends else full
        if merged and count > 2:
            sizes = [full, (count - 2) * full + last]
        else:
            merged, sizes = False, [full] * (count - 1) + [last]
        train = Train(sizes, [float(now)] * len(sizes), merged, count, full)
        life = self._life

        def arrived() -> None:
            if life == self._life:
                self._arrived(message, train, now, ends, again)

        self._there.send(train, arrived)

    def _arrived(self, message: _Message, train: Train, sent_us: int, ends: bool, again: int) -> None:
        """Note what a train's packets came to."""
        times = train.times
        came = [at for at in times if at is not None]
        lost = train.packets - len(came) if not train.merged else 0 if came else train.packets
        if came:
            latest = max(came)
            message.done_us = max(message.done_us, latest)
            message.missing -= train.packets - lost
            back_us = latest + self._back.usual_us
            if self._acks:
                back_us = max(back_us, self._acks[-1][0])
            self._acks.append((back_us, train.packets - lost))
            if not again:
                self._round_us += (back_us - sent_us - self._round_us) / 8
            self._wait()
        if lost:
            self._lose(message, times, lost, sent_us, ends, again)
        self._hand_over()

    def _hand_over(self) -> None:
        """Deliver what is complete, in order."""
        while self._undelivered and not self._undelivered[0].missing:
            message = self._undelivered.popleft()
            self._delivered_us = max(self._delivered_us, message.done_us)
            self._clock.at(self._delivered_us, self._give, message.item, self._life)

    def _give(self, item: Any, life: int) -> None:
        if life == self._life:
            self._deliver(item)

    # --- losses ------------------------------------------------------------------------

    def _lose(
        self, message: _Message, times: Arrivals, lost: int, sent_us: int, ends: bool, again: int
    ) -> None:
        """Send lost segments again as soon as the sender can know."""
        behind = sorted(at for at in times[times.index(None) + 1 :] if at is not None)
        if again:
            known_us = sent_us + min(self._timeout_us * 2.0 ** min(again - 1, 10), _MOST_TIMEOUT_US)
        elif len(behind) >= _DUPLICATES:
            known_us = behind[_DUPLICATES - 1] + self._back.usual_us
        else:
            probe_us = 2 * self._round_us + (_DELAYED_ACK_US if self._in_flight <= 1 else 0)
            known_us = sent_us + min(probe_us, self._timeout_us)
        self._clock.at(known_us, self._send_again, message, lost, sent_us, ends, again, self._life)

    def _send_again(
        self, message: _Message, count: int, sent_us: int, ends: bool, again: int, life: int
    ) -> None:
        if life != self._life:
            return
        now = self._clock.now_us
        if sent_us > self._reduced_us:
            self._reduced_us = now
            self._most = self._window
            self._threshold = max(self._window * _BETA, _LEAST_WINDOW)
            self._window = self._threshold
        if again:
            self._window = _LEAST_WINDOW
        self._send(message, count, ends, again + 1, self._there.merges)

    @property
    def _timeout_us(self) -> float:
        return self._round_us + max(_LEAST_SPREAD_US, self._round_us)

    # --- acknowledgements --------------------------------------------------------------

    def _drain(self, now: int) -> None:
        """Take the acknowledgements that are back by now, and open the window."""
        while self._acks and self._acks[0][0] <= now:
            _, count = self._acks.popleft()
            used = self._in_flight >= int(self._window) or bool(self._unsent)
            self._in_flight -= count
            if used:
                self._grow(count, now)

    def _grow(self, count: int, now: int) -> None:
        if self._window < self._threshold:
            self._window += count
            return
        root = (self._most * (1 - _BETA) / _CUBIC) ** (1 / 3)
        since_s = (now + self._round_us - self._reduced_us) / 1e6
        target = _CUBIC * (since_s - root) ** 3 + self._most
        # No slower than Reno with the same reduction (RFC 9438 section 4.3).
        step = max((min(target, 1.5 * self._window) - self._window) / self._window, 0.53 / self._window)
        self._window += count * step
