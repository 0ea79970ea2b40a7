"""``--deploy`` of ``collab fed run`` and ``resume``, and ``collab fed rollback``: models go into a plan."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed
from collab.errors import ConfigError, ModelError, NotLoaded, UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.federated_folder import RunFolder
    from collab.coordinator.shadow import HeldOut
    from collab.coordinator.swap import Kit, Swapper
    from collab.core.plan import Plan
    from collab.federated.task import DeployRules, Task
    from collab.toolchain.trainable.served import Baker

EXAMPLE = """
Example:

    collab fed rollback digits-run
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rollback", epilog=EXAMPLE)(rollback)


def rollback(
    directory: Annotated[Path, typer.Argument(help="Folder of a run, as `fed run --out` made it.")],
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Put the model before the one that runs back into the plan; the run swaps nothing more in."""
    from collab.cli.connect import refresh, with_cluster
    from collab.cli.output import emit, say
    from collab.cli.replanning import keep_successor
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.swap import roll_back
    from collab.coordinator.swap_folder import SwapFolder, Version

    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder; give the one that `collab fed run --out` made")
    folder = SwapFolder(directory)
    addresses = read_peers(peers)

    async def go_back(cluster: Cluster) -> tuple[Version, Version, Plan]:
        state = await asyncio.to_thread(folder.read)
        if addresses:
            await cluster.reach(addresses)
        found: list[Plan] = []

        async def fresh(plan: Plan) -> Plan:
            found.append(await refresh(cluster, plan, addresses))
            return found[-1]

        def keep(plan: Plan) -> None:
            keep_successor(Path(state.plan_file), plan)

        return *(await roll_back(cluster, folder, keep, fresh)), found[-1]

    before, now, plan = with_cluster(go_back, trust=confirmed(insecure, insecure_network))
    if json_:
        emit({"plan": plan.name, "epoch": now.epoch, "round": now.round, "from_round": before.round})
    else:
        say(f"plan {plan.name!r} runs {_model(now.round)} again, epoch {now.epoch}")


def _model(round_: int) -> str:
    return f"the model of round {round_}" if round_ else "the model that it was deployed with"


def rules_for(task: Task, task_file: Path | None, option: Path | None) -> DeployRules | None:
    """How models are deployed, with the plan's place as a whole path; None where they are not.

    Raises `ConfigError`.
    """
    from collab.federated.task import DeployRules, check_deploy

    if option is not None:
        rules = msgspec.structs.replace(task.deploy or DeployRules(plan="-"), plan=str(option.resolve()))
    elif task.deploy is not None and task_file is not None:
        path = (task_file.parent / Path(task.deploy.plan).expanduser()).resolve()
        rules = msgspec.structs.replace(task.deploy, plan=str(path))
    else:
        return None
    check_deploy(task, rules)
    return rules


async def open_swapper(
    cluster: Cluster, run: RunFolder, task: Task, rules: DeployRules, anew: bool
) -> Swapper:
    """What puts a run's models into the plan; with ``anew`` what runs there is looked up once more.

    Raises `ConfigError`, `ModelError`, `NotLoaded` or `PeerUnreachable` where that cannot be.
    """
    from collab.coordinator.swap import Swapper
    from collab.coordinator.swap_folder import SwapFolder

    folder = SwapFolder(run.path)
    if anew or not folder.begun:
        plan, model = await _running(cluster, Path(rules.plan))
        kit = await asyncio.to_thread(_begun, run, task, rules, plan, model)
    else:
        kit = await asyncio.to_thread(_resumed, run, task, rules)
    swapper = Swapper(cluster, folder, kit)
    await swapper.start()
    return swapper


async def _running(cluster: Cluster, path: Path) -> tuple[Plan, bytes]:
    """The plan of a file, or the one that has taken its place, whichever runs; and its model."""
    from collab.cli.files import read_plan
    from collab.cli.replanning import successor_path

    plan = await asyncio.to_thread(read_plan, path)
    await cluster.reach_plan(plan)
    try:
        await cluster.deployed_epoch(plan)
    except NotLoaded:
        after = successor_path(path)
        if not await asyncio.to_thread(after.is_file):
            raise
        plan = await asyncio.to_thread(read_plan, after)
        await cluster.deployed_epoch(plan)
    return plan, await asyncio.to_thread(_model_of, plan, path.parent)


def _model_of(plan: Plan, folder: Path) -> bytes:
    from collab.coordinator.federated_folder import digest_of

    if len(plan.models) != 1 or plan.models[0].path is None:
        raise ConfigError(f"deploy.plan: plan {plan.name!r} is not of one model with a path")
    path = folder / plan.models[0].path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"deploy.plan: its model {path}: {error.strerror}") from error
    if digest_of(data) != plan.models[0].sha256:
        raise ModelError(f"deploy.plan: {path} has another digest than the plan names; make the plan anew")
    return data


def _begun(run: RunFolder, task: Task, rules: DeployRules, plan: Plan, model: bytes) -> Kit:
    from collab.cli.fed_running import initial_weights
    from collab.coordinator.federated_folder import digest_of
    from collab.coordinator.swap import begin
    from collab.coordinator.swap_folder import SwapFolder
    from collab.federated.exchange import plain_weights
    from collab.graph import parse_model

    signature = plan.models[0].signature
    baker = _baker(run, parse_model(model, signature=signature))
    weights = initial_weights(run.model)
    first = parse_model(baker(weights), signature=signature)
    begin(
        SwapFolder(run.path),
        rules.plan,
        plan,
        model,
        {digest_of(plain_weights(weights)): first},
        by_clients=not task.evaluation.data,
    )
    return _kit(baker, task, rules)


def _resumed(run: RunFolder, task: Task, rules: DeployRules) -> Kit:
    from collab.coordinator.swap_folder import SwapFolder

    folder = SwapFolder(run.path)
    running = folder.read().running
    signature = folder.plan(running).models[0].signature
    return _kit(_baker(run, folder.graph(running, signature)), task, rules)


def _baker(run: RunFolder, running: Any) -> Baker:
    from collab.toolchain.trainable.served import Baker, form_of

    trainable = run.model.read_bytes()
    if trainable[:2] == b"PK":
        raise ConfigError(
            "deploy: the task's model is an .npz of weights; only a trainable .tflite can be baked"
        )
    return Baker(trainable, form_of(running))


def _kit(baker: Baker, task: Task, rules: DeployRules) -> Kit:
    from collab.cli.replanning import keep_successor
    from collab.coordinator.swap import Kit

    held_out = _held_out(baker, task, rules)
    samples = held_out.x[: rules.requests] if held_out is not None else baker.samples
    return Kit(rules, baker, samples, held_out, lambda plan: keep_successor(Path(rules.plan), plan))


def _held_out(baker: Baker, task: Task, rules: DeployRules) -> HeldOut | None:
    """The server's examples, if the task names some."""
    import numpy as np

    from collab.coordinator.shadow import HeldOut
    from collab.federated.data.sources import open_data

    if not task.evaluation.data:
        return None
    examples = open_data(task.evaluation.data, baker.description).held_out.first(rules.examples)
    if not len(examples):
        raise ConfigError("evaluation.data: holds no examples out; give held_out=0.5 behind a question mark")
    x, y = examples.take(np.arange(len(examples)))
    return HeldOut(x, y, baker.description.loss == "cross_entropy")
