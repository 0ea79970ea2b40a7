"""Notes what offline alternatives answer, and hands it out to who asks; the disk is another thread's."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from collab.codec.tensors import Payload, decode
from collab.core.ids import REQUESTER
from collab.core.plan import Plan
from collab.core.token import Fault
from collab.errors import CollabError
from collab.node.actions import Computed, Work
from collab.node.reports import Record, ReportLog

log = logging.getLogger("collab.node")

MAX_TAKEN: Final = 1_000
"""Reports in one reply."""
MAX_UNWRITTEN: Final = 1_024
"""Answers that wait to be written, with their tensors."""

OffLoop = Callable[..., Awaitable[Any]]
"""Runs a blocking function in the thread that uses the disk."""


class _Noted(NamedTuple):
    record: Record
    outputs: Payload


class Reporter:
    """The report queue of a node, from `open` on.

    Whatever comes in while a write is under way is written by the next one, so that an
    answer never waits for the disk: what a crash finds unwritten is lost.
    """

    def __init__(self, off_loop: OffLoop) -> None:
        self._off_loop = off_loop
        self._log: ReportLog | None = None
        self._unwritten: deque[_Noted] = deque()
        self._missed = 0
        self._writing: asyncio.Task[None] | None = None
        self.waiting = 0
        """Reports that nobody has taken yet."""
        self.dropped = 0
        """Reports that made room for newer ones."""

    async def open(self, path: Path, most: int, most_bytes: int) -> None:
        """Read what waits; raises `StoreError`."""
        self._log = await self._off_loop(ReportLog, path, most, most_bytes, int(time.time() * 1000))
        self._count()

    async def close(self) -> None:
        """Write what is not written yet."""
        while self._writing is not None:
            await self._writing

    def computed(self, work: Work, result: Computed | Fault, plan: Plan, alone: bool) -> None:
        """A stage of an offline alternative has run; noted where that ends the request."""
        outputs: Payload = ()
        outcome, compute_us = "ok", 0
        if isinstance(result, Fault):
            outcome = result.code
        else:
            edge = plan.edges_into(REQUESTER)[0]
            if edge not in result.payloads:
                return
            outputs, compute_us = result.payloads[edge], result.hop.compute_us
        record = Record(
            number=0,
            plan=plan.name,
            epoch=work.key.epoch,
            request=work.key.request.hex(),
            at_ms=int(time.time() * 1000),
            compute_us=compute_us,
            outcome=outcome,
            digest="",
            alone=alone,
        )
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self._unwritten.popleft()
            self._missed += 1
        self._unwritten.append(_Noted(record, outputs))
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    async def take(self, after: int, limit: int, acknowledge: bool) -> list[Record]:
        """Reports behind a number; see `ReportLog.take`."""
        if self._log is None:
            return []
        work = partial(self._log.take, after, min(limit, MAX_TAKEN), acknowledge)
        taken: list[Record] = await self._off_loop(work)
        self._count()
        return taken

    async def _write(self) -> None:
        try:
            while self._unwritten or self._missed:
                batch, missed = list(self._unwritten), self._missed
                self._unwritten.clear()
                self._missed = 0
                try:
                    await self._off_loop(self._keep, batch, missed)
                except CollabError as error:
                    log.warning("%d answers given alone are not written: %s", len(batch), error)
                self._count()
        finally:
            self._writing = None

    def _keep(self, batch: list[_Noted], missed: int) -> None:
        assert self._log is not None
        self._log.add([_digested(noted) for noted in batch], missed)

    def _count(self) -> None:
        if self._log is not None:
            self.waiting, self.dropped = self._log.state


def _digested(noted: _Noted) -> Record:
    if not noted.outputs:
        return noted.record
    digest = hashlib.sha256()
    for tensor in noted.outputs:
        digest.update(decode(tensor).tobytes())
    return replace(noted.record, digest=digest.hexdigest())
