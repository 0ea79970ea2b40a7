"""What a sink is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Sink(ABC):
    """Takes answers, each one JSON object in UTF-8 without a line's end.

    One thread at a time calls these methods, which block; `stop` may come from any other.  What
    waits for it, and how often it is tried, is `Outbox`'s business.
    """

    batch = 1
    """Answers that one `write` may take."""
    waiting = 1024
    """Answers that may wait."""
    loses = True
    """Whether the oldest that waits makes room for a newer one, and is lost; else the stream waits."""
    tries = 4
    """Of one answer."""

    @abstractmethod
    def open(self) -> None:
        """Get ready; called before the first `write` and again after a `PeerError`.

        Raises:
            PeerError: it is away, and may come back.
            InputError, Refused, StoreError: it cannot work; says what to do.
        """

    @abstractmethod
    def write(self, answers: Sequence[bytes]) -> None:
        """Deliver answers, in their order; returns when they are out of this process.

        Raises:
            PeerError: none of them is known to be delivered; the same may be tried again, so a
                receiver may get an answer twice.
            CollabError: they will never be taken, and are lost.
        """

    def stop(self) -> None:  # noqa: B027 - most never wait for long
        """Have a `write` that waits return soon; safe to repeat, never blocks."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds; safe to repeat, never raises."""
