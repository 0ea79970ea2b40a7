"""How long the stages of loaded plans have run on this node."""

from __future__ import annotations

from collections.abc import Callable

from collab.core.ids import Epoch, PlanName
from collab.core.plan import Plan
from collab.core.token import Hop
from collab.node.actions import Work


class StageTimes:
    """Time in µs and runs of each loaded stage."""

    def __init__(self) -> None:
        self._times: dict[tuple[PlanName, Epoch, int], tuple[int, int]] = {}

    def add(self, work: Work, hop: Hop, loaded: bool) -> None:
        """Count a stage's time without its queue: others may wait in it."""
        key = (work.key.plan, work.key.epoch, work.stage)
        total_us, runs = self._times.get(key, (0, 0))
        if runs or loaded:
            self._times[key] = (total_us + hop.total_us - hop.queue_us, runs + 1)

    def forget(self, plan: PlanName, epoch: Epoch) -> None:
        """An epoch was unloaded."""
        self._times = {key: time for key, time in self._times.items() if key[:2] != (plan, epoch)}

    def counters(self, plan_of: Callable[[PlanName, Epoch], Plan | None]) -> dict[str, int]:
        """``stage_us:PLAN/EPOCH/STAGE`` and ``stage_runs:…`` of each stage that is loaded and has run."""
        found: dict[str, int] = {}
        for (name, epoch, index), (total_us, runs) in self._times.items():
            plan = plan_of(name, epoch)
            if plan is not None:
                where = f"{name}/{epoch}/{plan.stages[index].id}"
                found |= {f"stage_us:{where}": total_us, f"stage_runs:{where}": runs}
        return found
