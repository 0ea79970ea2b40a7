"""A requester in a process of its own, so that it can run on any host: deploys, runs a load, reports.

Reads commands from standard input and answers each on standard output, as lines of JSON.
``python -m tests.chaos.client SETTINGS.json``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from collab.assembly import build_cluster, load_identity
from collab.client.policy import RetryPolicy
from collab.client.runner import PlanClient
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.core.ids import NodeName
from collab.link.suspicion import Health
from tests.integration.load import Answered, Load
from tests.integration.models import Reference


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client is started with."""

    endpoints: dict[str, str]
    """Of the nodes, by name."""
    stages: list[list[str]]
    cuts: list[int]
    identity: str
    deploys: bool = True
    concurrency: int = 8
    deadline_s: float = 10.0
    transport: str = "grpc"
    """Of every edge."""
    attempts: int = 3
    """At one request."""


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    descriptors: int
    threads: int
    resident_bytes: int
    tasks: int = 0

    @classmethod
    def of(cls, pid: int, tasks: int = 0) -> Held:
        """Look at a process."""
        place = Path("/proc") / str(pid)
        pages = int((place / "statm").read_text(encoding="ascii").split()[1])
        return cls(
            len(os.listdir(place / "fd")),
            len(os.listdir(place / "task")),
            pages * os.sysconf("SC_PAGE_SIZE"),
            tasks,
        )


class Client:
    """Serves the commands; each is a method."""

    def __init__(self, settings: Settings, cluster: Cluster, client: PlanClient, load: Load) -> None:
        self._settings = settings
        self._cluster = cluster
        self._client = client
        self._load = load
        self._workers: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Start the load, and count anew."""
        self._load.stopping = False
        self._load.got = Answered()
        self._workers = [
            asyncio.ensure_future(self._load.worker()) for _ in range(self._settings.concurrency)
        ]

    async def pause(self) -> None:
        """Stop it; every request has ended then."""
        self._load.stopping = True
        await asyncio.gather(*self._workers)

    async def answers(self, more: int, within_s: float = 50.0) -> None:
        """Wait for so many."""
        await self._load.answers(more, within_s)

    async def uses(self, node: str, within_s: float) -> None:
        """Wait until an answer went over a node."""
        await self._load.uses(node, within_s)

    async def paths(self) -> list[list[str]]:
        """Of the last answers."""
        return [list(map(str, path)) for path in self._load.got.paths]

    async def dropped(self, node: str) -> int:
        """What a node began or finished in vain, since nobody wanted it any more."""
        status = await self._cluster.control(NodeName(node)).status()
        return sum(c.value for c in status.counters if c.name in ("cancelled", "late"))

    async def well(self) -> list[str]:
        """Nodes that have a link on which they are not suspected."""
        return sorted(
            {str(link.peer.name) for link in self._cluster.links.all() if link.health is not Health.SUSPECTED}
        )

    async def held(self) -> dict[str, int]:
        """What this process holds, pending tasks among it."""
        return vars(Held.of(os.getpid(), len(asyncio.all_tasks())))

    async def now(self) -> float:
        """The loop's clock, in which the report has its times."""
        return asyncio.get_running_loop().time()

    async def report(self) -> dict[str, Any]:
        """What the load has got so far."""
        got, twice = self._load.got, self._load.twice
        assert twice is not None
        return {
            "asked": got.asked,
            "answers": got.answers,
            "wrong": got.wrong,
            "lost": got.lost,
            "twice": twice.count,
            "late_answers": got.late,
            "errors": dict(got.errors),
            "first_errors": got.first_errors,
            "availability": got.availability,
            "retried": got.retried,
            "latency_ms": {
                name: 1000 * got.quantile_s(share)
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("longest", 1.0))
            },
            "stall_s": got.longest_stall_s,
            "counters": self._client.counters,
            "seconds": got.ends_s[-1] - got.ends_s[0] if got.answers else 0.0,
        }


async def _serve(client: Client) -> None:
    """Answer commands until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say("ready")
    while line := await reader.readline():
        command = json.loads(line)
        _say(await getattr(client, command.pop("do"))(**command))


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _main(settings: Settings) -> None:
    reference = Reference.of("digits")
    security = load_identity(settings.identity)
    transports = [settings.transport] * (len(settings.stages) + 1)
    plan, blobs = reference.chain(settings.cuts, settings.stages, settings.endpoints, transports=transports)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(build_cluster(security=security))
        if settings.deploys:
            await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, settings.concurrency, RetryPolicy(max_attempts=settings.attempts))
        await _serve(Client(settings, cluster, client, Load(client, reference, settings.deadline_s)))


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)))
