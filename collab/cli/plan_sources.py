"""Where the figures of ``collab plan`` come from: a profile file, or a quick look at the peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from collab.cli.connect import Trust, reach, with_cluster
from collab.cli.files import read_profile
from collab.errors import PlanError, UsageError

if TYPE_CHECKING:
    from collab.coordinator.choosing import MoveOptions
    from collab.coordinator.cluster import Cluster, NodeView
    from collab.core.profile import Profile
    from collab.graph import Graph


@dataclass(frozen=True)
class Found:
    """What there is to plan for."""

    profile: Profile
    graph: Graph | None
    views: Sequence[NodeView]
    schemes: Sequence[str]
    basis: str


@dataclass(frozen=True)
class Source:
    """Where the figures come from."""

    model: Path | None
    profile: Path | None
    signature: str | None
    threads: str
    max_age_days: float
    moves: MoveOptions

    def look(self, peers: str | None, trust: Trust, cuts: Sequence[int] | None = None) -> Found:
        """Read the model and the profile, and look at the peers where there are any.

        ``cuts`` that cannot be made are refused before anything is measured.
        """
        from collab.cli.settings import peers as read_peers
        from collab.coordinator.planning import open_model
        from collab.graph import check_cuts

        counts = self._counts()
        known = None if self.profile is None else _fresh(self.profile, self.max_age_days)
        graph = None if self.model is None else open_model(self.model, self.signature)
        if known is not None and graph is not None:
            _check_model(known, graph)
        if cuts is not None and graph is not None:
            check_cuts(graph, cuts)
        addresses = [] if self.model is None else read_peers(peers)
        if known is not None and not addresses:
            return self._threaded(Found(known, graph, (), (), f"profile {self.profile}"))
        path = None if self.model is None else self.model.resolve()

        async def ask(cluster: Cluster) -> Found:
            views, schemes = await reach(cluster, addresses), cluster.links.schemes
            if known is not None:
                return Found(known, graph, views, schemes, f"profile {self.profile}")
            assert graph is not None
            assert path is not None
            measured = await _quick_look(cluster, views, graph, path, counts, self.moves)
            return Found(measured, graph, views, schemes, "a quick look at the devices and links")

        return self._threaded(with_cluster(ask, trust=trust))

    def _counts(self) -> tuple[int, ...]:
        if self.threads == "auto":
            return (1, 2, 4)
        try:
            count = int(self.threads)
        except ValueError:
            count = 0
        if not 1 <= count <= 256:
            raise UsageError(f"--threads {self.threads}: give 1 to 256, or auto")
        return (count,)

    def _threaded(self, found: Found) -> Found:
        from collab.coordinator.choosing import with_threads

        if self.threads == "auto":
            return found
        (count,) = self._counts()
        first = {device.threads for device in found.profile.devices}
        # The default takes a profile as it is.
        if count == 1 and self.profile is not None and first != {1} and len(first) == 1:
            return found
        return replace(found, profile=with_threads(found.profile, count))


def _fresh(path: Path, max_age_days: float) -> Profile:
    """The profile of a file if it is not too old; raises `PlanError`."""
    from datetime import datetime, timedelta, timezone

    from collab.core.profiles import aged

    found = read_profile(path)
    stale = aged(found, datetime.now(timezone.utc), timedelta(days=max_age_days))
    if stale:
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise PlanError(
            f"profile {path}: stale: {stale[0]}{more}; measure again with: collab profile … --merge {path}, "
            "or allow it with --max-age-days"
        )
    return found


def _check_model(known: Profile, graph: Graph) -> None:
    from collab.core.profiles import check_model

    check_model(known, graph.sha256)


async def _quick_look(
    cluster: Cluster,
    views: Sequence[NodeView],
    graph: Graph,
    model: Path,
    counts: tuple[int, ...],
    moves: MoveOptions,
) -> Profile:
    """Measure little, and fast: what 'collab profile' does at leisure."""
    from collab.cli.profile import profiled
    from collab.coordinator.profiling import QUICK

    wanted = moves.wanted_transports
    for kind in wanted:
        if kind not in cluster.links.schemes:
            raise UsageError(
                f"--transport: {kind!r} is not known; use one of {', '.join(cluster.links.schemes)}"
            )
    codecs = tuple(name for name in moves.wanted_codecs if name != "raw")
    settings = replace(QUICK, threads=counts, transports=wanted, codecs=codecs)
    return await profiled(cluster, views, graph, settings, model, what="looking at devices and links")
