"""Fetches what nodes answered alone, and keeps it in a file: each report once, told apart by number."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import NodeName
from collab.errors import CollabError, InputError

log = logging.getLogger("collab.reports")

_AT_ONCE: Final = 500
"""Reports asked for at a time."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One request that a node answered alone, as a line of the file."""

    node: NodeName
    number: int
    plan: str
    epoch: int
    request: str
    at_ms: int
    """The node's calendar time, Unix milliseconds."""
    compute_ms: float
    """Of the stage that gave the answer."""
    outcome: str
    """``ok``, or the code of the error."""
    digest: str
    """SHA-256 of the output tensors' bytes; empty where there are none."""
    alone: bool
    """Whether no neighbour was linked then."""


@dataclass(frozen=True)
class Taken:
    """What one node had."""

    node: NodeName
    reports: tuple[Report, ...]
    waiting: int
    """Still on the node."""
    dropped: int
    """Lost there, because newer ones needed the room."""


class ReportFile:
    """Reports as lines of JSON; what is in it already is not added again.  Blocks on the disk."""

    def __init__(self, path: Path) -> None:
        """Read what is there; raises `InputError`."""
        self._path = path
        self._last: dict[str, int] = {}
        self._whole = True
        decoder = msgspec.json.Decoder(Report)
        try:
            with open(path, "ab+") as file:
                file.seek(0)
                for line in file:
                    self._whole = line.endswith(b"\n")
                    try:
                        report = decoder.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        continue  # torn by a crash; the node has it still
                    self._last[report.node] = max(report.number, self._last.get(report.node, 0))
        except OSError as error:
            raise InputError(f"{path}: cannot be used: {error.strerror}") from error

    def last(self, node: NodeName) -> int:
        """Number of the last report of a node; 0 for none."""
        return self._last.get(node, 0)

    def add(self, reports: Sequence[Report]) -> None:
        """Append what is new, and wait until the disk has it; raises `InputError`."""
        new = [report for report in reports if report.number > self.last(report.node)]
        lines = b"".join(msgspec.json.encode(report) + b"\n" for report in new)
        if not lines:
            return
        try:
            with open(self._path, "ab") as file:
                file.write(lines if self._whole else b"\n" + lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror}") from error
        self._whole = True
        self._last |= {report.node: report.number for report in new}


async def fetch(cluster: Cluster, node: NodeName, file: ReportFile | None) -> Taken:
    """All that waits on a node.  With a file it is kept there, and the node forgets what the file has."""
    taken: list[Report] = []
    after, acknowledge = (0, False) if file is None else (file.last(node), True)
    while True:
        request = pb.TakeReportsRequest(after=after, limit=_AT_ONCE, acknowledge=acknowledge)
        reply = await cluster.control(node).call("TakeReports", request)
        reports = [_report(node, entry) for entry in reply.reports]
        if not reports:
            return Taken(node, tuple(taken), reply.state.waiting, reply.state.dropped)
        if file is not None:
            await asyncio.to_thread(file.add, reports)
        taken += reports
        after = reports[-1].number


def _report(node: NodeName, entry: pb.Report) -> Report:
    return Report(
        node=node,
        number=entry.number,
        plan=entry.plan,
        epoch=entry.epoch,
        request=entry.request.hex(),
        at_ms=entry.at_ms,
        compute_ms=entry.compute_us / 1000,
        outcome=entry.outcome,
        digest=entry.digest.hex(),
        alone=entry.alone,
    )


class ReportPull:
    """Fetches from peers again and again, whenever they can be reached; run `run` as a task."""

    def __init__(self, cluster: Cluster, peers: Sequence[str], file: ReportFile, every_s: float) -> None:
        self._cluster = cluster
        self._peers = peers
        self._file = file
        self._every_s = every_s
        self._names: dict[str, NodeName] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.gather(*map(self._pull, self._peers))
            await asyncio.sleep(self._every_s)

    async def _pull(self, peer: str) -> None:
        try:
            name = self._names.get(peer)
            if name is None or self._cluster.links.get(name) is None:
                (name,) = await self._cluster.reach([peer])
                self._names[peer] = name
            taken = await fetch(self._cluster, name, self._file)
        except CollabError as error:
            log.info("reports of %s are not there yet: %s", peer, error)
        else:
            if taken.reports:
                log.info("%d reports of %s, %d dropped there", len(taken.reports), name, taken.dropped)
