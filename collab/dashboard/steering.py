"""Pausing, resuming and ending rollouts from the page.  Blocks on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from collab.coordinator.rollout import wanted
from collab.coordinator.rollout_folder import RolloutFolder, What
from collab.dashboard.source import Action
from collab.errors import Conflict, UsageError
from collab.updates.rollout.state import ENDED, FINAL, RolloutState


class _Steer(NamedTuple):
    what: What
    action: Action


STEER: Final[Mapping[str, _Steer]] = {
    "pause": _Steer(
        "pause", Action("Pause", "Pause rollout {}? Nothing new begins; what is under way ends.", "rollout")
    ),
    "resume": _Steer(
        "resume", Action("Resume", "Resume rollout {}? Targets that failed are tried again.", "rollout")
    ),
    "abort": _Steer(
        "abort", Action("Abort", "End rollout {} for good? What runs the release keeps it.", "rollout")
    ),
    "take-back": _Steer(
        "go back",
        Action("Abort and take back", "End rollout {} for good, and put back what ran before it?", "rollout"),
    ),
}
"""What can be asked for a rollout, by the action's name."""


def possible(phase: str, paused: bool) -> list[str]:
    """What may be asked for in a phase."""
    if phase == "going back":
        return ["abort"]
    if phase in FINAL:
        return [] if phase == "closed" else ["take-back"]
    return ["resume" if paused or phase in ENDED else "pause", "abort", "take-back"]


def steer(path: Path, action: str, by: str) -> str:
    """Tell the process that is at a rollout; what came of it.

    Without one it is paused or aborted here.  Raises `Conflict` where that takes a process,
    `UsageError` for what the rollout's phase does not allow.
    """
    folder, what = RolloutFolder(path), STEER[action].what
    state = folder.read()
    if action not in possible(state.phase, bool(state.paused_by)):
        raise UsageError(f"rollout {path.name}: cannot {action} while it is {_said(state)}")
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.locked())
        except Conflict:
            return f"rollout {path.name}: {_said(folder.ask(what, by))}"
        if what == "pause" or what == "abort":
            return f"rollout {path.name}: {_said(wanted(folder, what, by))}"
    command = "abort --rollback" if what == "go back" else what
    raise Conflict(f"rollout {path.name}: no process is at it; run: collab release rollout {command} {path}")


def _said(state: RolloutState) -> str:
    return f"{state.phase}, paused by {state.paused_by}" if state.paused_by else state.phase
