"""``collab release rollout …``: a release into many plans, wave by wave."""

from __future__ import annotations

import asyncio
import getpass
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Trust, confirmed
from collab.cli.output import emit, say
from collab.errors import Conflict, UsageError

if TYPE_CHECKING:
    from collab.coordinator.rollout import Rolling, Tell
    from collab.coordinator.rollout_folder import RolloutFolder, What
    from collab.transport.base import Security
    from collab.updates.rollout.state import Abort, Pause, Resume, RolloutState

app = typer.Typer(help="Put a release into many plans, wave by wave.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of a rollout.", show_default=False)]


def register(to: typer.Typer) -> None:
    """Add the commands."""
    to.add_typer(app, name="rollout")


@app.command(epilog="Example:\n\n    collab release rollout start rollout.yaml --out rollouts/digits-7")
def start(
    definition: Annotated[Path, typer.Argument(help="The rollout, as YAML.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to keep it in, so that it can go on.")],
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Begin a rollout and be at it until it has ended; `resume` goes on where this was stopped."""
    from collab.cli.rollout_files import begin_rollout
    from collab.coordinator.rollout_folder import RolloutFolder

    trust = confirmed(insecure, insecure_network)
    folder = RolloutFolder(out)
    begin_rollout(definition, folder, time.time())
    with folder.locked():
        _end(folder, _run(folder, trust), json_)


@app.command(
    epilog="Examples:\n\n    collab release rollout resume rollouts/digits-7"
    "\n\n    collab release rollout resume rollouts/digits-7 --leave-out"
)
def resume(
    folder: Folder,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Leave out failed targets; otherwise they are tried again."),
    ] = False,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Go on with a rollout that was stopped, paused or halted."""
    _do(folder, "leave out" if leave_out else "resume", confirmed(insecure, insecure_network), json_)


@app.command(epilog="Example:\n\n    collab release rollout pause rollouts/digits-7")
def pause(folder: Folder, json_: AsJson = False) -> None:
    """Begin nothing new in a rollout; what is under way ends."""
    _do(folder, "pause", Trust(), json_)


@app.command(
    epilog="Examples:\n\n    collab release rollout abort rollouts/digits-7"
    "\n\n    collab release rollout abort rollouts/digits-7 --rollback"
)
def abort(
    folder: Folder,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Put back what ran before, last one first.")
    ] = False,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """End a rollout for good."""
    trust = confirmed(insecure, insecure_network)
    _do(folder, "go back" if rollback else "abort", trust, json_)


@app.command(epilog="Example:\n\n    collab release rollout status rollouts/digits-7 --json")
def status(
    folder: Folder,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Whether nodes are asked what they run.")
    ] = True,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Waves and targets as the journal has them, and what nodes say they run."""
    from collab.cli.rollout_tables import show_rollout

    show_rollout(folder, ask, confirmed(insecure, insecure_network), json_)


def rolling(folder: RolloutFolder, trust: Trust, security: Security | None, tell: Tell) -> Rolling:
    """What is at a rollout, once it is run; the caller has the folder's lock.  Blocks."""
    from collab.assembly import build_cluster
    from collab.cli.files import read_plan
    from collab.cli.replanning import plan_versions
    from collab.cli.rollout_files import gone
    from collab.coordinator.plan_update import Rules
    from collab.coordinator.rollout import Rolling
    from collab.coordinator.rollout_site import PlanSite
    from collab.coordinator.update_source import Offer

    about = folder.about()
    rollout = about.rollout
    site = PlanSite(
        offer=Offer(folder.bundle, about.release),
        release=about.reference,
        rules=Rules(rollout.bounds, rollout.trial, rollout.patience_s),
        cluster=lambda: build_cluster(role="operator", insecure_networks=trust.networks, security=security),
        read=read_plan,
        versions=plan_versions,
    )
    look = gone(rollout.release, about.release)
    return Rolling(folder, rollout, folder.read(), site, tell, look)


def _do(path: Path, what: What, trust: Trust, json_: bool) -> None:
    """Tell the process that is at it; where there is none, do it here."""
    from collab.coordinator.rollout import wanted
    from collab.coordinator.rollout_folder import RolloutFolder, event_of
    from collab.updates.rollout.state import FINAL

    folder, by = RolloutFolder(path), _me()
    before = folder.read()
    if before.phase in FINAL and what != "go back":
        raise UsageError(
            f"{path}: is over ({before.phase}); begin another one with collab release rollout start"
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.locked())
        except Conflict:
            _say_after(folder, folder.ask(what, by), json_)
            return
        if what in ("pause", "abort"):
            _say_after(folder, wanted(folder, what, by), json_)
        else:
            _end(folder, _run(folder, trust, event_of(what, by)), json_)


def _run(folder: RolloutFolder, trust: Trust, wish: Pause | Resume | Abort | None = None) -> RolloutState:
    from collab.assembly import load_identity
    from collab.cli.rollout_tables import shown
    from collab.cli.settings import identity_directory

    security = None if trust.insecure else load_identity(identity_directory())

    async def run(at_it: Rolling) -> RolloutState:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await at_it.run(wish=wish)

    with shown(folder.read()) as tell:
        try:
            return asyncio.run(run(rolling(folder, trust, security, tell)))
        except asyncio.CancelledError as error:
            say(f"{folder.path}: stopped; collab release rollout resume goes on with it")
            raise KeyboardInterrupt from error


def _end(folder: RolloutFolder, state: RolloutState, json_: bool) -> None:
    _say_after(folder, state, json_)
    if state.phase != "done":
        raise typer.Exit(1)
    if any(one.status == "offline" for one in state.targets):
        raise typer.Exit(3)


def _say_after(folder: RolloutFolder, state: RolloutState, json_: bool) -> None:
    from collab.cli.rollout_tables import document, summary

    about = folder.about()
    if json_:
        emit(document(about, state))
    say(summary(about, state))


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return "somebody"
