"""A stream: frames of a source through a plan, answers to sinks."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from collab.core.streams import LATEST, FramePolicy, Reading
from collab.errors import CollabError, Overloaded
from collab.streams.feeder import Feeder
from collab.streams.frames import Frame
from collab.streams.intake import Counts, Intake, Numbered, Outcome
from collab.streams.outbox import Outbox
from collab.streams.reading import FrameReader, Inputs, answered
from collab.streams.sources.base import Source
from collab.telemetry.histogram import Histogram

KEPT_LATENCIES: Final = 10_000
"""Of the last frames that were answered."""
GRACE_S: Final = 3.0
"""How long frames under way may finish, and answers be delivered, once a stream is stopped."""
_BUSY_S: Final = 0.05
"""Before a frame is tried again that found no credit."""


class Answer(Protocol):
    """What a plan gives for one request."""

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """Tensors by name."""
        ...

    @property
    def via(self) -> str:
        """Who answered: the plan, an alternative, a local model."""
        ...

    @property
    def path(self) -> Sequence[str]:
        """The node of each stage."""
        ...

    @property
    def absent(self) -> str | None:
        """Why there are no outputs, if so."""
        ...


class Ask(Protocol):
    """Asks the plan."""

    async def __call__(self, inputs: Inputs, deadline_s: float) -> Answer:
        """One inference; raises `CollabError`."""
        ...


class Stream:
    """Runs one stream; `run` it once.

    Args:
        name: what answers say that they are of.
        source: where the frames come from.
        reader: makes requests of them.
        ask: asks the plan.
        sinks: where the answers go; not started.
        policy: None is `latest` for sources whose frames come by themselves, else a queue of 8 that
            the source waits for.
        most: frames after which it ends.
        patient: see `Feeder`.
        tell: called after every frame that is settled.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        reader: FrameReader,
        ask: Ask,
        sinks: Sequence[Outbox],
        *,
        policy: FramePolicy | None = None,
        fps: float | None = None,
        most: int | None = None,
        deadline_s: float = 10.0,
        at_a_time: int = 1,
        reading: Reading | None = None,
        top: int = 3,
        patient: bool = False,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.trouble = "not open yet"
        """Why no frames come at present; empty while they may."""
        self.sinks = tuple(sinks)
        self.latencies_ms: deque[float] = deque(maxlen=KEPT_LATENCIES)
        """From a frame's arrival to its answer, of the last frames."""
        self.seconds = Histogram()
        """The same of all of them."""
        self.paths: dict[str, int] = {}
        """Answers by who gave them."""
        self.last_error = ""
        self._source, self._reader, self._ask = source, reader, ask
        self._policy = policy or (LATEST if source.lasts else FramePolicy(8, False))
        self._intake: Intake[tuple[Frame, float]] = Intake(self._policy, fps, at_a_time, most)
        self._deadline_s = deadline_s
        self._reading, self._top = reading, top
        self._patient = patient
        self._tell = tell
        self._held: Frame | CollabError | None = None
        self._changed = asyncio.Event()
        self._stopped = False
        self._failure: CollabError | None = None
        self._feeder: Feeder | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="collab-frames")

    @property
    def policy(self) -> FramePolicy:
        """What happens to frames that come while others are under way."""
        return self._policy

    @property
    def counts(self) -> Counts:
        """Frames so far."""
        return self._intake.counts

    @property
    def waiting(self) -> int:
        """Frames that wait."""
        return self._intake.waiting

    def stop(self) -> None:
        """Take no further frame, and end when those under way have; safe to repeat."""
        self._stopped = True
        self._intake.end()
        self._changed.set()

    async def run(self) -> None:
        """Until the source has ended and everything is settled, or it is stopped.

        Raises what opening the source or a sink raises, if it cannot work.
        """
        started: list[Outbox] = []
        self._feeder = Feeder(self._source, self, patient=self._patient)
        try:
            for sink in self.sinks:
                await sink.start()
                started.append(sink)
            self._feeder.start()
            await self._pump()
            await self._finish()
        finally:
            await self._end(started)
        if self._failure is not None:
            raise self._failure

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped and not (self._intake.over and self._held is None):
            self._changed.clear()
            self._admit()
            now_us = int(loop.time() * 1e6)
            while (frame := self._intake.take(now_us)) is not None:
                self._admit()
                task = loop.create_task(self._serve(frame))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if not self._intake.open:
                self._source.stop()
            due_us = self._intake.next_us()
            timer = (
                None
                if due_us is None
                else loop.call_later(max(0.0, due_us / 1e6 - loop.time()), self._changed.set)
            )
            try:
                if not (self._intake.over and self._held is None):
                    await self._changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _admit(self) -> None:
        """Take in the frame that was read, if there is room; the next is read then."""
        held = self._held
        if held is None or self._feeder is None:
            return
        if not self._intake.open:
            self._held = None  # it came after the last one that was wanted
            return
        if isinstance(held, CollabError):
            self._put_later(self._failed(self._intake.fail(), "", held))
        elif self._intake.room:
            self._intake.offer((held, time.monotonic()))
        else:
            return
        self._held = None
        self._tell()
        self._feeder.go_on()

    async def _finish(self) -> None:
        """Where it was stopped: what waits is dropped, what is under way may end."""
        self._intake.drop_waiting()
        self._held = None
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)

    async def _end(self, started: Sequence[Outbox]) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._feeder is not None:
            await self._feeder.stop()
        # All that waits is delivered where the stream has come to its end by itself.
        within_s = GRACE_S if self._stopped or self._failure is not None else 60.0
        await asyncio.gather(*(sink.close(within_s) for sink in started))
        self._intake.end()
        self._intake.drop_waiting()
        self._decoder.shutdown(wait=False)
        self._tell()

    # --- one frame ---------------------------------------------------------------------

    async def _serve(self, taken: Numbered[tuple[Frame, float]]) -> None:
        frame, arrived = taken.frame
        outcome: Outcome = "failed"
        try:
            loop = asyncio.get_running_loop()
            requests = await loop.run_in_executor(self._decoder, self._reader.requests, frame)
            for example, inputs in enumerate(requests):
                answer = await self._asked(inputs)
                self.paths[answer.via] = self.paths.get(answer.via, 0) + 1
                latency_ms = (time.monotonic() - arrived) * 1000
                told = self._told(taken.sequence, frame, latency_ms)
                if len(requests) > 1:
                    told["example"] = example
                line = await loop.run_in_executor(self._decoder, self._line, told, answer)
                await self._put(line)
            outcome = "answered"
            took_s = time.monotonic() - arrived
            self.latencies_ms.append(took_s * 1000)
            self.seconds.observe(int(took_s * 1e6))
        except CollabError as error:
            await self._put(_encode(self._failed(taken.sequence, frame.name, error)))
        finally:
            self._intake.settle(taken, outcome)
            self._changed.set()
            self._tell()

    async def _asked(self, inputs: Inputs) -> Answer:
        """The answer; waits for a credit for as long as the deadline allows."""
        until = time.monotonic() + self._deadline_s
        while True:
            left_s = until - time.monotonic()
            try:
                return await self._ask(inputs, max(left_s, 0.001))
            except Overloaded:
                if left_s <= 2 * _BUSY_S:
                    raise
            await asyncio.sleep(_BUSY_S)

    def _told(self, sequence: int, frame: Frame, latency_ms: float) -> dict[str, Any]:
        return {
            "stream": self.name,
            "sequence": sequence,
            "input": frame.name,
            "captured_ms": frame.captured_ms,
            "latency_ms": round(latency_ms, 3),
        }

    def _line(self, told: dict[str, Any], answer: Answer) -> bytes:
        told |= {"via": answer.via, "path": [str(node) for node in answer.path]}
        if answer.absent is not None:
            return _encode(told | {"absent": answer.absent})
        return _encode(told | answered(answer.outputs, self._reading, self._top))

    def _failed(self, sequence: int, name: str, error: CollabError) -> dict[str, Any]:
        self.last_error = str(error)
        fault = {"code": error.code, "message": str(error)}
        return {"stream": self.name, "sequence": sequence, "input": name, "error": fault}

    async def _put(self, line: bytes) -> None:
        for sink in self.sinks:
            await sink.put(line)

    def _put_later(self, told: Mapping[str, Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._put(_encode(told)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what the feeder tells -------------------------------------------------------------

    def arrived(self, frame: Frame | CollabError) -> None:
        """See `Listener`."""
        self._held = frame
        self._changed.set()

    def opened(self) -> None:
        """See `Listener`."""
        self.trouble = ""

    def lost(self, error: CollabError) -> None:
        """See `Listener`."""
        self.trouble = str(error)
        self._tell()

    def ended(self, error: CollabError | None) -> None:
        """See `Listener`."""
        # Whatever it has brought was taken in before it went on to the end.
        self._failure = self._failure or error
        self.trouble = "" if error is None else str(error)
        self._intake.end()
        self._changed.set()


def _encode(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False, allow_nan=False).encode(errors="replace")
