"""``collab fed``: devices learn together, and their data stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, Trust, confirmed
from collab.cli.scraping import Metrics, scraped
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.cli.fed_running import Deploying
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.federated_folder import RunFolder
    from collab.federated.actions import Finish
    from collab.federated.task import DeployRules, Task

app = typer.Typer(help="Train one model on many devices; data stays where it is.", no_args_is_help=True)

RUN_EXAMPLE = """
Example:

    collab fed run task.yaml --peers 10.0.0.7:7070,10.0.0.8:7070 --out digits-run
"""

RESUME_EXAMPLE = """
Example:

    collab fed resume digits-run
"""

STATUS_EXAMPLE = """
Example:

    collab fed status digits-run
"""

DeployTo = Annotated[
    Path | None, typer.Option(help="A plan that runs; models that are better than its own go into it.")
]
RunDirectory = Annotated[Path, typer.Argument(help="Folder of a run, as `fed run --out` made it.")]


@app.command("run", epilog=RUN_EXAMPLE)
def run(
    task: Annotated[Path, typer.Argument(help="A task file.", show_default=False)],
    peers: Peers = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run; the task's name if it is not given.")
    ] = None,
    deploy: DeployTo = None,
    metrics: Metrics = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log links.")] = False,
) -> None:
    """Run a federated task to its end; Ctrl-C ends it so that `fed resume` goes on."""
    from collab.cli.fed_running import judge_of, read_task, read_trainable
    from collab.cli.fed_swapping import rules_for
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.federated_folder import RunFolder, RunSettings

    found = read_task(task)
    addresses = tuple(read_peers(peers)) or found.clients.peers
    if not addresses:
        raise UsageError("no peers: give --peers HOST:PORT,…, clients.peers in the task, or COLLAB_PEERS")
    model = read_trainable(task, found)
    rules = rules_for(found, task, deploy)
    judge_of(model, found)  # what is wrong with the server's examples is said before there is a folder
    with RunFolder(out or Path(found.name)) as folder:
        if folder.begun:
            raise UsageError(f"--out {folder.path}: there is a run already; go on with 'collab fed resume'")
        folder.begin(found, model, RunSettings(addresses, rules))
        _go_on(
            folder,
            found,
            addresses,
            confirmed(insecure, insecure_network),
            json_,
            verbose,
            deploying=_deploying(rules),
            metrics=metrics,
        )


@app.command("resume", epilog=RESUME_EXAMPLE)
def resume(
    directory: RunDirectory,
    peers: Peers = None,
    release: Annotated[str | None, typer.Option(help="NAME,… of clients to take out of quarantine.")] = None,
    deploy: DeployTo = None,
    metrics: Metrics = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log links.")] = False,
) -> None:
    """Go on with a run that was stopped or killed; its final model is the same to the bit."""
    import msgspec

    from collab.cli.fed_swapping import rules_for
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.federated_folder import RunFolder

    _must_be_there(directory)
    with RunFolder(directory) as folder:
        task = folder.task()
        addresses = tuple(read_peers(peers)) or folder.settings().peers
        names = tuple(name.strip() for name in (release or "").split(",") if name.strip())
        rules = rules_for(task, None, deploy)
        if rules is not None:
            folder.set_settings(msgspec.structs.replace(folder.settings(), deploy=rules))
        deploying = _deploying(folder.settings().deploy, anew=rules is not None)
        trust = confirmed(insecure, insecure_network)
        _go_on(folder, task, addresses, trust, json_, verbose, names, deploying, metrics)


def _deploying(rules: DeployRules | None, anew: bool = False) -> Deploying | None:
    from collab.cli.fed_running import Deploying

    return None if rules is None else Deploying(rules, anew)


def _go_on(
    folder: RunFolder,
    task: Task,
    addresses: tuple[str, ...],
    trust: Trust,
    as_json: bool,
    verbose: bool,
    release: tuple[str, ...] = (),
    deploying: Deploying | None = None,
    metrics: str | None = None,
) -> None:
    from collab.cli.connect import with_cluster
    from collab.cli.fed_progress import Progress
    from collab.cli.fed_running import run_federated, summary
    from collab.cli.logs import log_to_stderr
    from collab.cli.output import emit, say
    from collab.coordinator.journal_metrics import RunReader

    log_to_stderr(verbose)
    with Progress(folder, task) as progress:

        async def run(cluster: Cluster) -> Finish:
            async with scraped(metrics, RunReader(folder.path).values):
                return await run_federated(cluster, folder, task, addresses, progress, release, deploying)

        finish = with_cluster(run, trust=trust)
    document = summary(folder, task, finish)
    if as_json:
        emit(document)
    say(f"{finish.outcome}: {finish.reason}; {folder.path} has rounds.jsonl, summary.json, weights.npz")
    if finish.exit_code:
        raise typer.Exit(finish.exit_code)


@app.command("status", epilog=STATUS_EXAMPLE)
def status(directory: RunDirectory, json_: AsJson = False) -> None:
    """Show the rounds of a run, whether or not it is running."""
    from collab.cli.fed_progress import rounds_table, state_document
    from collab.cli.output import emit, show
    from collab.coordinator.federated_folder import RunFolder

    _must_be_there(directory)
    kept = RunFolder(directory).look()
    document: dict[str, Any] = state_document(kept, directory)
    if json_:
        emit(document)
    else:
        show(rounds_table(kept.task.name, kept.records))
        from collab.cli.output import say

        say(document["said"])


def _must_be_there(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder; give the one that `collab fed run --out` made")
