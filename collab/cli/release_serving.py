"""Agents that keep plans at their releases, within ``collab controller`` and ``collab node``."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collab.errors import ConfigError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.release_agent import ReleaseAgent
    from collab.link.links import Links
    from collab.node.service import NodeService
    from collab.updates.policies.base import UpdatePolicy
    from collab.updates.settings import ReleaseSettings

Tell = Callable[[dict[str, Any], str], None]


def read_releases(path: Path) -> ReleaseSettings:
    """The table ``[releases]`` of a TOML file; raises `ConfigError`."""
    import msgspec

    from collab.cli.settings import convert, read_toml
    from collab.updates.settings import ReleaseSettings

    table = read_toml(path, "--releases").get("releases")
    if not isinstance(table, dict):
        raise ConfigError(f"--releases {path}: has no table [releases]; see docs/releases/devices.md")
    settings = convert(table, ReleaseSettings, "releases")
    if settings.store is None:
        settings = msgspec.structs.replace(settings, store=Path(f"{settings.family}-releases"))
    return settings.check()


@asynccontextmanager
async def node_agent(service: NodeService, tell: Tell) -> AsyncIterator[ReleaseAgent]:
    """The agent of a node, for plans that run on it alone.

    Raises `ConfigError` for other plans, and what `open_agent` raises.
    """
    import asyncio

    from collab.assembly import default_store, own_cluster

    settings = service.config.releases.check()
    store = settings.store
    if store is None:
        base = service.config.store or default_store(service.name)
        store = base / "releases" / settings.family
    for path in settings.plans:
        plan = await asyncio.to_thread(_plan, path)
        others = sorted(set(plan.placed) - {service.name})
        if others:
            raise ConfigError(
                f"settings: releases.plans: {path} runs on {', '.join(others)} as well; "
                "use collab controller --releases for it"
            )
    async with (
        own_cluster(service) as cluster,
        open_agent(settings, cluster, service.links, service.name, store, tell) as agent,
    ):
        yield agent


@asynccontextmanager
async def open_agent(
    settings: ReleaseSettings, cluster: Cluster, links: Links, name: str, folder: Path, tell: Tell
) -> AsyncIterator[ReleaseAgent]:
    """An agent, to be run as a task within.

    Args:
        links: over which releases are read, where nodes have them.
        name: of who decides.
        folder: of the store of releases.

    Raises:
        ConfigError, InputError: a setting, the policy or a plan's file cannot be used.
        BackendError: the extra of signed releases is missing.
    """
    import asyncio

    from collab.cli.replanning import plan_versions
    from collab.client.releases import LinkReads
    from collab.coordinator.plan_update import Progress, Rules
    from collab.coordinator.release_agent import ReleaseAgent
    from collab.coordinator.release_plans import ReleasePlans
    from collab.coordinator.release_rounds import run_round

    policy = await asyncio.to_thread(_policy, settings)
    for path in settings.plans:
        await asyncio.to_thread(_plan, path)  # what is wrong with it is said before anything begins
    plans = [plan_versions(path) for path in settings.plans]

    def watch(path: Path, progress: Progress) -> None:
        if progress.counts is None:
            tell(
                {
                    "event": "release phase",
                    "family": settings.family,
                    "plan": str(path),
                    "phase": progress.phase,
                },
                f"{path.name}: {progress.phase}",
            )

    rules = Rules(bounds=settings.bounds, trial=settings.trial)
    async with LinkReads(links) as reads:
        supply = await asyncio.to_thread(_supply, settings, folder, reads)
        rounds = functools.partial(run_round, settings.round, environment=dict(os.environ))
        yield ReleaseAgent(
            name,
            settings.family,
            policy,
            supply.store,
            folder,
            supply,
            ReleasePlans(cluster, name, plans, rules, watch),
            clock=time.time,
            tell=tell,
            cadence_s=settings.cadence_s,
            run_round=rounds if settings.round else None,
            round_pause_s=settings.round_pause_h * 3600,
        )


def _policy(settings: ReleaseSettings) -> UpdatePolicy:
    from collab.assembly import policies

    known = policies()
    if settings.policy_kind not in known:
        raise ConfigError(
            f"settings: releases.policy_kind: {settings.policy_kind!r} is not known; use {', '.join(known)}"
        )
    assert settings.policy is not None, "checked"
    return known[settings.policy_kind](settings.policy)


def _plan(path: Path) -> Any:
    from collab.cli.files import read_plan

    return read_plan(path)


def _supply(settings: ReleaseSettings, folder: Path, reads: Any) -> Any:
    from collab.client.releases import by_address, nearby, open_source
    from collab.security.files import read
    from collab.updates.fetch.client import Device, Releases, trust
    from collab.updates.fetch.pace import Limits
    from collab.updates.fetch.supply import Stoppable, Supply
    from collab.updates.store.disk import RealDisk
    from collab.updates.store.store import Store

    fetched = folder / "fetch"
    if settings.trust is not None:
        trust(fetched, read(settings.trust, "give the repository's first root: releases.trust"))
    limits = Limits(most_bytes_s=settings.rate_kb_s * 1000)
    source = Stoppable(open_source(settings.source, limits, reads))
    beside = [Stoppable(nearby(reads, by_address(reads.links, peer), limits)) for peer in settings.nearby]
    releases = Releases(fetched, source, Device(settings.kind, settings.runtime), limits, beside)
    store = Store(RealDisk(folder), time.time)
    return Supply((source, *beside), releases, store, folder, settings.family, settings.channel)
