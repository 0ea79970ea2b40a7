"""Deploying: prepare everywhere, then commit; a conflict aborts everywhere."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster, NodeView
from collab.core.ids import Digest, Epoch, NodeName
from collab.core.plan import Plan, to_json
from collab.errors import CollabError, IntegrityError, PeerError, PlanError, Refused
from collab.runtime.combiners import combiner

Blobs = Mapping[Digest, bytes]
Progress = Callable[[NodeName, int, int], None]
"""Called with a node, the bytes just sent to it, and the bytes that it needs in all."""

_COMMIT_TRIES = 3
_COMMIT_PAUSE_S = 0.2
_ABORT_S = 3.0

T = TypeVar("T")


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
    _check_combiners(plan)
    _check_blobs(plan, blobs)
    await cluster.reach_plan(plan)
    names = sorted(ref.name for ref in plan.nodes)
    views = await cluster.describe(names)
    for view in views.values():
        if view.description.state != "serving":
            raise Refused(
                f"node {view.name!r} is {view.description.state}; deploy without it or start it anew"
            )
    _check_edges(plan, views)
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


def _check_combiners(plan: Plan) -> None:
    for i, stage in enumerate(plan.stages):
        if stage.combine is not None:
            try:
                combiner(stage.combine)
            except PlanError as error:
                raise PlanError(f"stages[{i}].{error}") from error


def _check_edges(plan: Plan, views: Mapping[NodeName, NodeView]) -> None:
    """Every node at an edge knows the edge's codec and transport."""
    for i, edge in enumerate(plan.edges):
        ends = [stage.nodes for stage in plan.stages if stage.id in (edge.source, edge.target)]
        for name in dict.fromkeys(node for nodes in (*ends, edge.via) for node in nodes):
            described = views[name].description
            for field, known in (("codec", described.codecs), ("transport", described.transports)):
                if getattr(edge, field) not in known:
                    raise PlanError(
                        f"edges[{i}].{field}: {getattr(edge, field)!r} is not known on node {name!r}; "
                        f"use one of {', '.join(known)}"
                    )


async def _send_blobs(
    cluster: Cluster, plan: Plan, blobs: Blobs, names: Sequence[NodeName], progress: Progress | None
) -> dict[NodeName, int]:
    """Send each node the stages that it lacks, all nodes at once."""

    async def send(name: NodeName) -> int:
        control, sent = cluster.control(name), 0
        wanted = list(dict.fromkeys(s.sha256 for s in plan.stages_on(name) if s.sha256 is not None))
        missing = await control.missing(wanted)
        total = sum(max(0, len(blobs[digest]) - held) for digest, held in missing.items())

        def count(size: int) -> None:
            nonlocal sent
            sent += size
            if progress:
                progress(name, size, total)

        for digest, held in missing.items():
            try:
                await control.put_blob(digest, blobs[digest], held, count)
            except IntegrityError:
                # A part left over from a broken transfer; the node has dropped it.
                await control.put_blob(digest, blobs[digest], 0, count)
        return sent

    return await _everywhere(names, send)


async def _everywhere(
    names: Sequence[NodeName], action: Callable[[NodeName], Awaitable[T]]
) -> dict[NodeName, T]:
    """Do it on all nodes at once and wait for all; the first error is raised with its node's name."""
    results = await asyncio.gather(*map(action, names), return_exceptions=True)
    done: dict[NodeName, T] = {}
    for name, result in zip(names, results, strict=True):
        if isinstance(result, CollabError):
            text = str(result)
            raise type(result)(text if repr(name) in text else f"node {name!r}: {text}") from result
        if isinstance(result, BaseException):
            raise result
        done[name] = result
    return done


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
        await _everywhere(names, lambda name: cluster.control(name).prepare(plan.name, epoch, digest, holder))
    except BaseException:
        await _abort(cluster, plan, epoch, reserved, holder)
        raise
    await _everywhere(names, lambda name: _commit(cluster, plan, epoch, name, holder))


async def _commit(cluster: Cluster, plan: Plan, epoch: Epoch, name: NodeName, holder: str) -> None:
    for left in reversed(range(_COMMIT_TRIES)):
        try:
            await cluster.reach_plan(plan, [name])
            await cluster.control(name).epoch("Commit", plan.name, epoch, plan.digest, holder)
            return
        except PeerError as error:
            if not left:
                raise type(error)(
                    f"node {name!r} was lost while epoch {epoch} of plan {plan.name!r} was committed; "
                    f"deploy again when it is back ({error})"
                ) from error
            await asyncio.sleep(_COMMIT_PAUSE_S)


async def _abort(cluster: Cluster, plan: Plan, epoch: Epoch, names: Sequence[NodeName], holder: str) -> None:
    """Best effort: a node that cannot be told lets the reservation expire."""

    async def abort(name: NodeName) -> None:
        control = cluster.control(name)
        await control.epoch("Abort", plan.name, epoch, plan.digest, holder, timeout_s=_ABORT_S)

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
    while await _busy(cluster, plan, held) and loop.time() < deadline:  # noqa: ASYNC110 - nodes must be asked
        await asyncio.sleep(0.05)
    for name, epochs in held.items():
        for epoch in epochs:
            await cluster.control(name).epoch("Unload", plan.name, epoch, "", "")
    return held


async def _busy(cluster: Cluster, plan: Plan, held: Mapping[NodeName, Sequence[Epoch]]) -> bool:
    replies = await asyncio.gather(*(cluster.control(name).status() for name in held))
    return any(loaded.plan == plan.name and loaded.in_flight for reply in replies for loaded in reply.plans)
