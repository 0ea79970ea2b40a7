"""What commands share about plans that a controller makes anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.plan_versions import PlanVersions
    from collab.coordinator.rebuilding import Build
    from collab.coordinator.replan import Decision, Replanner, ReplanRules
    from collab.core.plan import Plan
    from collab.core.profile import Profile

_SHARE: Final = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)\s*%")


def successor_path(plan: Path) -> Path:
    """Where the plan that was deployed in place of a file's is kept: beside it."""
    return plan.with_name(f"{plan.stem}.current{plan.suffix}")


def keep_successor(path: Path, plan: Plan) -> None:
    """Write a plan beside the file that it came from, whole or not at all; raises `InputError`."""
    from collab.cli.files import write_plan

    write_plan(successor_path(path), plan)


def plan_versions(path: Path) -> PlanVersions:
    """The journal of what a plan's file ran."""
    from collab.cli.files import read_plan
    from collab.coordinator.plan_versions import PlanVersions

    return PlanVersions(path, successor_path(path), read_plan, lambda plan: keep_successor(path, plan))


@dataclass(frozen=True)
class Watched:
    """A plan that a controller keeps at its best."""

    path: Path
    plan: Plan
    profile: Profile
    rules: ReplanRules
    build: Build

    async def start(
        self, cluster: Cluster, peers: Sequence[str], decided: Callable[[Decision], None]
    ) -> Replanner:
        """Find the plan running, and the peers beside it that may be planned for."""
        from collab.coordinator.replan import Replanner
        from collab.planner.solve import solve

        names = await cluster.reach(peers) if peers else []
        replanner = Replanner(
            cluster,
            self.plan,
            self.profile,
            self.rules,
            solve,
            self.build,
            keep=lambda plan: keep_successor(self.path, plan),
            decided=decided,
        )
        await replanner.start(names)
        return replanner


def share(text: str, option: str) -> float:
    """Read ``20%``; raises `UsageError`."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or not 0 < (found := float(match[1]) / 100) <= 10:
        raise UsageError(f"{option} {text[:20]!r}: write a share such as 20%")
    return found


def read_watched(
    plan: Path,
    profile: Path | None,
    when: str,
    every_s: float,
    margin: str,
    pause_s: float,
    objective: str,
    requester_here: bool,
) -> Watched:
    """The plan to watch and how; raises `UsageError`, `PlanError` or `InputError`."""
    from collab.cli.files import read_plan, read_profile
    from collab.coordinator.rebuilding import rebuilder, wants_of
    from collab.coordinator.replan import ReplanRules
    from collab.planner.chains import OBJECTIVES
    from collab.planner.drift import DriftRules

    if profile is None:
        raise UsageError("--profile: missing; it says what the plan rests on (make one: collab profile)")
    for option, value in (("--replan-every", every_s), ("--replan-pause", pause_s)):
        if not 0.05 <= value <= 86_400:
            raise UsageError(f"{option} {value:g}: give 0.05 to 86400 seconds")
    chosen = next((known for known in OBJECTIVES if known == objective), None)
    if chosen is None:
        raise UsageError(f"--objective {objective!r}: use one of {', '.join(OBJECTIVES)}")
    drift = DriftRules(
        threshold=share(when, "--replan-when"),
        margin=share(margin, "--replan-margin"),
        hold_s=every_s,
        cooldown_s=pause_s,
        longest_cooldown_s=20 * pause_s,
    )
    parsed, known = read_plan(plan), read_profile(profile)
    rules = ReplanRules(wants_of(parsed, chosen), drift, every_s, requester_here)
    return Watched(plan, parsed, known, rules, rebuilder(parsed, known, plan.parent))
