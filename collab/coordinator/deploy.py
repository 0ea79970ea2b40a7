"""Deploying: prepare everywhere, then commit; a conflict aborts everywhere."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster, NodeView
from collab.core.ids import Digest, Epoch, NodeName
from collab.core.plan import Plan, to_json
from collab.errors import CollabError, IntegrityError, PeerError, PlanError, Refused

Blobs = Mapping[Digest, bytes]
Progress = Callable[[NodeName, int, int], None]
"""Called with a node, the bytes just sent to it, and the bytes that it needs in all."""

_COMMIT_TRIES = 3


@dataclass(frozen=True)
class Deployment:
    """What a deployment did."""

    epoch: Epoch
    changed: bool
    """False if exactly this plan was current everywhere before."""
    sent_bytes: Mapping[NodeName, int]
    """Stage bytes that each node had to fetch."""


async def deploy(cluster: Cluster, plan: Plan, blobs: Blobs, progress: Progress | None = None) -> Deployment:
    """Bring a plan up on all of its nodes, or on none.

    Idempotent.  Raises `Conflict` if somebody else deploys the same plan meanwhile,
    `PeerUnreachable`, `Refused` if a node drains, or what a node says of a stage.
    """
    _check_blobs(plan, blobs)
    await cluster.reach_plan(plan)
    names = sorted(ref.name for ref in plan.nodes)
    views = await cluster.describe(names)
    for view in views.values():
        if view.description.state != "serving":
            raise Refused(
                f"node {view.name!r} is {view.description.state}; deploy without it or start it anew"
            )
    sent = await _send_blobs(cluster, plan, blobs, names, progress)
    current = {name: views[name].epoch_of(plan.name) for name in names}
    versions = set(current.values())
    if len(versions) == 1 and (version := versions.pop()) is not None and version[1] == plan.digest:
        return Deployment(version[0], False, sent)
    everybody = await cluster.describe()
    epoch = Epoch(1 + max(view.last_epoch(plan.name) for view in everybody.values()))
    await _two_phases(cluster, plan, epoch, names, current)
    await _unload_elsewhere(cluster, plan, everybody, names)
    return Deployment(epoch, True, sent)


def _check_blobs(plan: Plan, blobs: Blobs) -> None:
    for i, stage in enumerate(plan.stages):
        if stage.sha256 is not None and stage.sha256 not in blobs:
            raise PlanError(
                f"stages[{i}].sha256: the model gives no stage with digest {stage.sha256[:12]} for operators "
                f"{list(stage.ops or ())}; make the plan anew"
            )


async def _send_blobs(
    cluster: Cluster, plan: Plan, blobs: Blobs, names: Sequence[NodeName], progress: Progress | None
) -> dict[NodeName, int]:
    """Send each node the stages that it lacks, all nodes at once."""

    async def send(name: NodeName) -> int:
        control = cluster.control(name)
        wanted = list(dict.fromkeys(s.sha256 for s in plan.stages_on(name) if s.sha256 is not None))
        missing = await control.missing(wanted)
        total = sum(len(blobs[digest]) - held for digest, held in missing.items())
        for digest, held in missing.items():
            try:
                await control.put_blob(
                    digest, blobs[digest], held, lambda n: progress and progress(name, n, total)
                )
            except IntegrityError:
                # A part left over from a broken transfer; the node has dropped it.
                await control.put_blob(digest, blobs[digest])
        return total

    return dict(zip(names, await asyncio.gather(*(send(name) for name in names)), strict=True))


async def _two_phases(
    cluster: Cluster,
    plan: Plan,
    epoch: Epoch,
    names: Sequence[NodeName],
    current: Mapping[NodeName, tuple[Epoch, Digest] | None],
) -> None:
    """Reserve in the order of names, so that of two coordinators one gets all; prepare; commit."""
    holder, digest, plan_json = secrets.token_hex(8), plan.digest, to_json(plan)
    reserved: list[NodeName] = []
    try:
        for name in names:
            expected = current[name] or (Epoch(0), Digest(""))
            reserved.append(name)
            await cluster.control(name).call(
                "Reserve",
                pb.ReserveRequest(
                    plan=plan_json,
                    epoch=epoch,
                    holder=holder,
                    expected_epoch=expected[0],
                    expected_digest=expected[1],
                ),
            )
        results = await asyncio.gather(
            *(cluster.control(name).prepare(plan.name, epoch, digest, holder) for name in names),
            return_exceptions=True,
        )
        for name, result in zip(names, results, strict=True):
            if isinstance(result, CollabError):
                raise type(result)(f"node {name!r}: {result}") from result
            if isinstance(result, BaseException):
                raise result
    except BaseException:
        await _abort(cluster, plan, epoch, reserved, holder)
        raise
    await asyncio.gather(*(_commit(cluster, plan, epoch, name, holder) for name in names))


async def _commit(cluster: Cluster, plan: Plan, epoch: Epoch, name: NodeName, holder: str) -> None:
    for left in reversed(range(_COMMIT_TRIES)):
        try:
            await cluster.control(name).epoch("Commit", plan.name, epoch, plan.digest, holder)
            return
        except PeerError as error:
            if not left:
                raise type(error)(
                    f"node {name!r} was lost while epoch {epoch} of plan {plan.name!r} was committed; "
                    f"deploy again when it is back ({error})"
                ) from error
            await asyncio.sleep(0.2)
            await cluster.reach_plan(plan, [name])


async def _abort(cluster: Cluster, plan: Plan, epoch: Epoch, names: Sequence[NodeName], holder: str) -> None:
    """Best effort: a node that cannot be told lets the reservation expire."""

    async def abort(name: NodeName) -> None:
        await cluster.control(name).epoch("Abort", plan.name, epoch, plan.digest, holder)

    await asyncio.shield(asyncio.gather(*(abort(name) for name in names), return_exceptions=True))


async def _unload_elsewhere(
    cluster: Cluster, plan: Plan, views: Mapping[NodeName, NodeView], names: Sequence[NodeName]
) -> None:
    """Nodes that the plan has left forget its older epochs."""
    for name, view in views.items():
        if name not in names:
            for epoch in view.holds(plan.name):
                await cluster.control(name).epoch("Retire", plan.name, epoch, "", "")
                await cluster.control(name).epoch("Unload", plan.name, epoch, "", "")


async def undeploy(cluster: Cluster, plan: Plan, drain_s: float = 10.0) -> dict[NodeName, list[Epoch]]:
    """Retire a plan everywhere, let requests finish, free it; what was unloaded by node."""
    await cluster.reach_plan(plan)
    views = await cluster.describe(ref.name for ref in plan.nodes)
    held = {name: view.holds(plan.name) for name, view in views.items()}
    for name, epochs in held.items():
        for epoch in epochs:
            await cluster.control(name).epoch("Retire", plan.name, epoch, "", "")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + drain_s
    while await _busy(cluster, plan, held) and loop.time() < deadline:
        await asyncio.sleep(0.05)
    for name, epochs in held.items():
        for epoch in epochs:
            await cluster.control(name).epoch("Unload", plan.name, epoch, "", "")
    return held


async def _busy(cluster: Cluster, plan: Plan, held: Mapping[NodeName, Sequence[Epoch]]) -> bool:
    replies = await asyncio.gather(*(cluster.control(name).status() for name in held))
    return any(loaded.plan == plan.name and loaded.in_flight for reply in replies for loaded in reply.plans)
