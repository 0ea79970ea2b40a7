"""What a source is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from collab.streams.frames import Frame


class Source(ABC):
    """Gives frames, one after another.

    One thread calls `open`, `read` and `close`, and may open a source again that it has closed;
    `stop` may come from any other.  These methods block; the event loop never calls them, but `stop`.
    """

    lasts = False
    """Whether its frames come by themselves, as a camera's: those that nobody takes are gone.  Then
    `latest` is the policy unless another is said."""

    @abstractmethod
    def open(self) -> None:
        """Get ready.

        Raises:
            PeerError: what gives the frames is away, and may come back: it is tried again.
            InputError, Refused, BackendError: it cannot work; says what to do.
        """

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame, in the order in which they were taken; None at the end, and after `stop`.

        Frames are neither repeated nor left out, but for those that came while nobody read (where
        it `lasts`) and while it was lost.

        Raises:
            InputError, LimitExceeded: this frame cannot be used; the next one may be read.
            PeerError: it is lost; it may be closed and opened again.
        """

    @abstractmethod
    def stop(self) -> None:
        """Have a `read` that waits return soon, within 5 seconds; safe to repeat, never blocks."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds; safe to repeat, never raises."""
