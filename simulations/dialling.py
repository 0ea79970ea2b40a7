"""How long a link takes to come about: dialled over emulated links by processes of their own, one a time.

``python -m simulations.dialling SETTINGS.json ADDRESS NODE`` is one of these processes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from collab.assembly import build_cluster, load_identity
from collab.client.control import Control
from collab.core.ids import NodeName
from collab.emulation.hosted import environment
from collab.emulation.orders import DeskSettings
from collab.emulation.overload import HostTimes, overloaded
from collab.emulation.results import Asking, PlanRun, Results
from collab.emulation.runner import Material
from collab.emulation.scenario import Scenario
from collab.emulation.scenario_check import check_scenario
from collab.emulation.site import Site
from collab.errors import PeerUnreachable

PARTS: Final = ("link", "first call")
"""Until a link is there, and until a node has answered over it."""
_PATIENCE_S: Final = 60.0


async def time_dialling(scenario: Scenario, material: Material, stop: asyncio.Event) -> Results:
    """Dial the other host as often as the workload has requests, from the requester's; partial if stopped.

    Raises `PeerUnreachable` with what a process said last.
    """
    askings: list[Asking] = []
    requester = scenario.requester
    (target,) = (host for host in scenario.machines if host != requester)
    with tempfile.TemporaryDirectory(prefix="collab-dialling-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        site = Site(scenario, check_scenario(scenario), material.model, material.traces, "auto", folder)
        async with site:
            address = _address(scenario.cluster.transport, site.nodes[target].endpoints)
            command = (
                *site.net.inside(requester),
                *(sys.executable, "-m", "simulations.dialling"),
                *(str(folder / f"desk-{requester}.json"), address, target),
            )
            await site.set_links()
            await site.restart_links(scenario.seed)
            before = HostTimes.now()
            for number in range(scenario.workload.requests or 1):
                if stop.is_set():
                    break
                times_ms = await _dial(command, folder)
                askings += [
                    Asking(part, 0, number, requester, 0.0, ms, "ok", 1, False, (target,), ())
                    for part, ms in zip(PARTS, times_ms, strict=True)
                ]
            flags = overloaded(await site.counts(), before, HostTimes.now())
    return Results(
        scenario=scenario.name,
        kind="emulated",
        seed=scenario.seed,
        plans=tuple(PlanRun(part, ("node",), ((target,),)) for part in PARTS),
        deadline_ms=scenario.workload.deadline_ms,
        askings=tuple(askings),
        notes=tuple(f"Not to be trusted, plan {part}, all: {line}." for part in PARTS for line in flags),
        partial=stop.is_set(),
    )


def _address(transport: str, endpoints: tuple[str, ...]) -> str:
    """The endpoint of a transport; gRPC's has no scheme."""
    for endpoint in endpoints:
        scheme = endpoint.partition("://")[0] if "://" in endpoint else "grpc"
        plain = scheme.replace("mqtts", "mqtt").replace("coaps", "coap")
        if plain == transport:
            return endpoint
    raise PeerUnreachable(f"{transport}: the node has no such address, but {', '.join(endpoints)}")


async def _dial(command: tuple[str, ...], folder: Path) -> list[float]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder),
        start_new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise PeerUnreachable(f"dialling failed: {err.decode('utf-8', 'replace').strip()[-400:]}")
    found: list[float] = json.loads(out)
    return found


async def _timed(settings: DeskSettings, address: str, node: NodeName) -> list[float]:
    security = await asyncio.to_thread(load_identity, settings.identity)
    async with build_cluster(security=security, insecure_networks=security is None) as cluster:
        begun_s = time.perf_counter()
        link = await cluster.links.connect(address, node)
        linked_s = time.perf_counter()
        await Control(link).describe()
        answered_s = time.perf_counter()
    return [(linked_s - begun_s) * 1e3, (answered_s - begun_s) * 1e3]


def main() -> None:
    """Dial once, and print the times in ms."""
    file, address, node = sys.argv[1:]
    settings = msgspec.json.decode(Path(file).read_bytes(), type=DeskSettings)
    print(json.dumps(asyncio.run(_timed(settings, address, NodeName(node)))))


if __name__ == "__main__":
    main()
