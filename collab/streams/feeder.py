"""The thread that reads a source, and opens it again when it was lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final, Protocol

from collab.errors import CollabError, InputError, LimitExceeded, PeerError, Refused
from collab.streams.backoff import pause_s
from collab.streams.frames import Frame
from collab.streams.sources.base import Source

log = logging.getLogger("collab.streams")

STOP_S: Final = 6.0
"""How long a source may take to notice that it is stopped; then its thread is left behind."""


class Listener(Protocol):
    """Who takes what a feeder brings, in the event loop."""

    def arrived(self, frame: Frame | CollabError) -> None:
        """A frame, or why one cannot be used; the next is read after `Feeder.go_on`."""
        ...

    def opened(self) -> None:
        """Frames may come from now on."""
        ...

    def lost(self, error: CollabError) -> None:
        """None come until it is opened again."""
        ...

    def ended(self, error: CollabError | None) -> None:
        """No more will come: the source has ended, or cannot work."""
        ...


class Feeder:
    """Reads one source.  ``start`` it once, ``stop`` it in the end.

    Args:
        patient: whether a source that cannot be opened at first is tried again, as later on it
            always is.
    """

    def __init__(
        self, source: Source, listener: Listener, *, patient: bool, rng: Random | None = None
    ) -> None:
        self._source = source
        self._listener = listener
        self._patient = patient
        self._rng = rng or Random()
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collab-source", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def go_on(self) -> None:
        """The frame that came last was taken; read the next."""
        self._go.set()

    async def stop(self) -> None:
        """End the thread; never raises."""
        self._stopped.set()
        self._go.set()
        self._source.stop()
        if self._thread.ident is None:
            return
        await asyncio.to_thread(self._thread.join, STOP_S)
        if self._thread.is_alive():
            log.warning("a source does not notice that it is stopped; its thread is left behind")

    # --- in the thread ---------------------------------------------------------------

    def _run(self) -> None:
        error: CollabError | None = None
        try:
            self._feed()
        except CollabError as failure:
            error = failure
        except Exception as failure:  # a third party's source raises whatever it raises
            log.exception("a source failed")
            error = InputError(f"the source failed: {type(failure).__name__}: {failure}")
        finally:
            self._source.close()
            self._tell(self._listener.ended, error)

    def _feed(self) -> None:
        failures = 0
        was_open = False
        while not self._stopped.is_set():
            try:
                self._source.open()
                self._tell(self._listener.opened)
                was_open = True
                while not self._stopped.is_set():
                    frame = self._next()
                    if frame is None:
                        return
                    failures = 0
                    self._go.clear()
                    if self._stopped.is_set():
                        return  # else what `stop` has set might just have been cleared
                    self._tell(self._listener.arrived, frame)
                    self._go.wait()
            except (PeerError, Refused) as error:
                # Rules may change, as a broker's access list.
                if not was_open and not self._patient:
                    raise
                failures += 1
                self._source.close()
                self._tell(self._listener.lost, error)
                self._stopped.wait(pause_s(failures, self._rng))

    def _next(self) -> Frame | CollabError | None:
        try:
            return self._source.read()
        except (InputError, LimitExceeded) as error:
            return error

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        # The loop may be closed while a thread that was left behind still ends.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *arguments)
