"""Plans that are served: opened, offered by name, withdrawn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from collab.client.follow import Opened as Client
from collab.client.runner import Result
from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.errors import CollabError, DeadlineExceeded, NotLoaded, Overloaded, PeerError, UsageError
from collab.serving.statistics import Statistics
from collab.telemetry.context import SERVED
from collab.transport.aio import timeout

log = logging.getLogger("collab.serving")

MAX_WAITING: Final = 1024
"""Requests that wait for a credit of one plan; more are refused."""
DRAIN_S: Final = 10.0
"""How long requests under way have to finish when a plan is withdrawn."""
_AGAIN_S: Final = 0.5
_LONGEST_AGAIN_S: Final = 5.0


class Opened(NamedTuple):
    """An open plan, and what closes it."""

    client: Client
    close: Callable[[], Awaitable[None]]


ReadPlan = Callable[[Path], Awaitable[Plan]]
OpenPlan = Callable[[Plan], Awaitable[Opened]]


class Offer:
    """A plan that takes requests: as many at a time as it has credits, the others in turn."""

    def __init__(self, opened: Opened) -> None:
        self.client = opened.client
        self.statistics = Statistics()
        self._close = opened.close
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def plan(self) -> Plan:
        """What is asked now."""
        return self.client.plan

    @property
    def version(self) -> str:
        """The plan's epoch, as the protocol's version of the model."""
        return str(self.client.epoch)

    async def run(
        self, inputs: Mapping[str, Array], deadline_s: float, priority: Priority, only: str
    ) -> Result:
        """One inference; waits for a credit first.  Raises what the client raises."""
        now = asyncio.get_running_loop().time
        begun_s = now()
        await self._enter(deadline_s)
        try:
            waited_s = now() - begun_s
            left_s = max(deadline_s - waited_s, 0.0)
            result = await self.client.run(inputs, left_s, priority, only=only, trace=SERVED.get())
            self.statistics.answered(waited_s, result)
            return result
        finally:
            self._leave()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a call by how it ends; one that its client withdraws is neither success nor failure."""
        now = asyncio.get_running_loop().time
        begun_s = now()
        try:
            yield
        except Exception:
            self.statistics.ended("fail", now() - begun_s, time.time())
            raise
        self.statistics.ended("success", now() - begun_s, time.time())

    async def _enter(self, deadline_s: float) -> None:
        if self._under_way < max(1, self.client.granted) and not self._waiting:
            self._under_way += 1
            self._idle.clear()
            return
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} requests wait for plan {self.plan.name!r}; try again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with timeout(deadline_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._leave()  # its turn came at the same moment
            else:
                with suppress(ValueError):
                    self._waiting.remove(turn)
            if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
                raise DeadlineExceeded(
                    f"no credit of plan {self.plan.name!r} was free within {deadline_s * 1000:g} ms"
                ) from None
            raise

    def _leave(self) -> None:
        self._under_way -= 1
        while self._waiting and self._under_way < max(1, self.client.granted):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._under_way += 1
        if not self._under_way:
            self._idle.set()

    async def close(self) -> None:
        """Let requests under way finish, for `DRAIN_S` at most, then close the plan."""
        with suppress(TimeoutError, asyncio.TimeoutError):
            async with timeout(DRAIN_S):
                await self._idle.wait()
        await self._close()


@dataclass(slots=True)
class _Entry:
    file: Path
    offer: Offer | None = None
    reason: str = ""
    wanted: bool = True
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Listed(NamedTuple):
    """A plan as the repository's index names it; ``state`` is READY or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str


class Offers:
    """Plans by name.  ``start`` before use, ``close`` after."""

    def __init__(self, files: Sequence[Path], read: ReadPlan, open_plan: OpenPlan) -> None:
        self._files = tuple(files)
        self._read = read
        self._open = open_plan
        self._entries: dict[str, _Entry] = {}
        self._retrying: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open all plans; those whose nodes cannot be reached are tried again until they can.

        Raises what reading a plan or opening it raises otherwise, and `UsageError` for a name that
        is there twice.
        """
        try:
            for file in self._files:
                plan = await self._read(file)
                if plan.name in self._entries:
                    raise UsageError(
                        f"{file}: plan {plan.name!r} is given twice; a server offers one of a name"
                    )
                entry = self._entries[plan.name] = _Entry(file)
                try:
                    entry.offer = Offer(await self._open(plan))
                except PeerError as error:
                    entry.reason = str(error)
                    log.warning("plan %r is not ready yet: %s", plan.name, error)
        except BaseException:
            await self.close()
            raise
        self._retrying = asyncio.ensure_future(self._retry())

    async def close(self) -> None:
        """Withdraw all of them."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.gather(self._retrying, return_exceptions=True)
        offers = [entry.offer for entry in self._entries.values() if entry.offer is not None]
        self._entries.clear()
        await asyncio.gather(*self._leaving, *(offer.close() for offer in offers))

    async def _let_go(self, offer: Offer) -> None:
        """Close an offer, whether or not who asked for it stays to hear of it."""
        task = asyncio.ensure_future(offer.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.shield(task)

    async def _retry(self) -> None:
        pause_s = _AGAIN_S
        while True:
            await asyncio.sleep(pause_s)
            missing = [name for name, e in self._entries.items() if e.wanted and e.offer is None]
            pause_s = min(2 * pause_s, _LONGEST_AGAIN_S) if missing else _AGAIN_S
            for name in missing:
                with suppress(CollabError):  # the reason stands in the index
                    await self.load(name)

    @property
    def ready(self) -> bool:
        """Whether every plan that is offered can be asked."""
        return all(entry.offer is not None for entry in self._entries.values() if entry.wanted)

    def get(self, name: str, version: str = "") -> Offer:
        """The plan of a name; raises `NotLoaded`."""
        offer = self._entry(name).offer
        if offer is None:
            raise NotLoaded(f"model {name!r} is not ready: {self._entries[name].reason or 'it was unloaded'}")
        if version not in ("", offer.version):
            raise NotLoaded(
                f"model {name!r}: version {version[:40]!r} is not served; it is at {offer.version}, its epoch"
            )
        return offer

    def some(self, name: str, version: str = "") -> list[Offer]:
        """The plan of a name, or all that can be asked where it is empty; raises `NotLoaded`."""
        if name:
            return [self.get(name, version)]
        return [entry.offer for entry in self._entries.values() if entry.offer is not None]

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether the plan of a name can be asked; raises `NotLoaded` for a name that is not known."""
        offer = self._entry(name).offer
        return offer is not None and version in ("", offer.version)

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(map(repr, self._entries)) or "none"
            raise NotLoaded(f"model {name[:80]!r} is not served here; there is {known}")
        return entry

    def index(self, only_ready: bool = False) -> list[Listed]:
        """All plans, or those that can be asked."""
        listed = [
            Listed(name, e.offer.version, "READY", "")
            if e.offer is not None
            else Listed(name, "", "UNAVAILABLE", e.reason or "unloaded")
            for name, e in self._entries.items()
        ]
        return [one for one in listed if not only_ready or one.state == "READY"]

    async def load(self, name: str) -> None:
        """Offer a plan as its file says now; one that is offered already is opened anew.

        Raises `NotLoaded` for a name that no file given at the start has, and what opening raises; then
        what was offered before stays.
        """
        entry = self._entry(name)
        async with entry.lock:
            before = entry.offer
            try:
                plan = await self._read(entry.file)
                if plan.name != name:
                    raise NotLoaded(f"{entry.file.name}: is plan {plan.name!r} by now, not {name!r}")
                entry.offer = Offer(await self._open(plan))
            except CollabError as error:
                entry.reason = str(error)
                raise
            entry.wanted, entry.reason = True, ""
        if before is not None:
            await self._let_go(before)

    async def unload(self, name: str) -> None:
        """Offer a plan no longer; what is under way finishes.  Nothing changes on its nodes."""
        entry = self._entry(name)
        async with entry.lock:
            offer, entry.offer = entry.offer, None
            entry.wanted, entry.reason = False, ""
        if offer is not None:
            await self._let_go(offer)
