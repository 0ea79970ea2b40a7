"""Deploying: prepare everywhere, then commit; a conflict aborts everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from collab.coordinator.cluster import Cluster, NodeView
from collab.coordinator.phases import Change, everywhere, told, two_phases
from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.core.streams import check_declared
from collab.core.transforms import EACH, kind_of
from collab.errors import Conflict, IntegrityError, LimitExceeded, PlanError, Refused
from collab.runtime.combiners import combiner

Blobs = Mapping[Digest, bytes]
Progress = Callable[[NodeName, int, int], None]
"""Called with a node, the bytes just sent to it, and the bytes that it needs in all."""
Held = dict[NodeName, list[tuple[PlanName, Epoch]]]
"""Epochs of plans by node."""

_FORMER_S = 5.0
"""How long requests of an alternative that is there no longer may finish."""


@dataclass(frozen=True)
class Deployment:
    """What a deployment did."""

    epoch: Epoch
    changed: bool
    """False if exactly this plan was current everywhere before."""
    sent_bytes: Mapping[NodeName, int]
    """Stage bytes that each node had to fetch."""


async def deploy(cluster: Cluster, plan: Plan, blobs: Blobs, progress: Progress | None = None) -> Deployment:
    """Bring a plan and its alternatives up on all of their nodes, or on none.

    The alternatives are committed first, so a plan that is current has them.  Idempotent.
    Raises `Conflict` if somebody else deploys the same plan meanwhile, `PeerUnreachable`,
    `Refused` if a node drains, or what a node says of a stage.
    """
    for one in plan.family:
        with told(one):
            _check_combiners(one)
            _check_blobs(one, blobs)
        await cluster.reach_plan(one)
    views = await cluster.describe(sorted({ref.name for one in plan.family for ref in one.nodes}))
    for view in views.values():
        if view.description.state == "draining":
            raise Refused(f"node {view.name!r} is draining; deploy without it or start it anew")
    for one in plan.family:
        with told(one):
            _check_edges(one, views)
            _check_transforms(one, views)
    for view in views.values():
        said = view.description
        check_declared(
            plan.streams,
            view.name,
            {source.name: source.lacking for source in said.sources},
            {sink.name: sink.lacking for sink in said.sinks},
        )
    _check_memory(plan, views)
    sent = await _send_blobs(cluster, plan, blobs, list(views), progress)
    known = {one.name: _running(one, views) for one in plan.family}
    primary = known[plan.name]
    if primary is not None and None not in known.values():
        return Deployment(primary, False, sent)
    everybody = await cluster.describe()
    _check_names_free(plan, everybody)
    changes = [_change(one, everybody) for one in (*plan.alternatives, plan) if known[one.name] is None]
    await two_phases(cluster, changes)
    for change in changes:
        await _unload_elsewhere(cluster, change.plan, everybody, change.names)
    await _unload_former(cluster, plan, everybody)
    epochs = {change.plan.name: change.epoch for change in changes}
    return Deployment(epochs.get(plan.name, primary or Epoch(0)), True, sent)


def _running(plan: Plan, views: Mapping[NodeName, NodeView]) -> Epoch | None:
    """The epoch under which exactly this plan is current on all of its nodes."""
    versions = {views[ref.name].epoch_of(plan.name) for ref in plan.nodes}
    if len(versions) == 1 and (version := versions.pop()) is not None and version[1] == plan.digest:
        return version[0]
    return None


def _change(plan: Plan, everybody: Mapping[NodeName, NodeView]) -> Change:
    """The plan under an epoch above all that nodes remember."""
    names = sorted(ref.name for ref in plan.nodes)
    epoch = Epoch(1 + max(view.last_epoch(plan.name) for view in everybody.values()))
    return Change(plan, epoch, names, {name: everybody[name].epoch_of(plan.name) for name in names})


def _check_names_free(plan: Plan, everybody: Mapping[NodeName, NodeView]) -> None:
    """No alternative takes the place of a plan that is somebody else's."""
    names = {one.name for one in plan.alternatives}
    for view in everybody.values():
        for loaded in view.description.plans:
            if loaded.plan in names and loaded.primary != plan.name and loaded.state == "serving":
                raise Conflict(
                    f"node {view.name!r} runs a plan named {loaded.plan!r}, as an alternative of "
                    f"{plan.name!r} is called; give one of them another name"
                )


def _check_memory(plan: Plan, views: Mapping[NodeName, NodeView]) -> None:
    """The stages of the plan and its alternatives fit each node together."""
    if not plan.alternatives:
        return
    for name, view in views.items():
        size = sum(stage.bytes for one in plan.family for stage in one.stages_on(name))
        memory = view.description.memory_bytes
        if 0 < memory < size:
            raise LimitExceeded(
                f"node {name!r}: the stages of plan {plan.name!r} and its alternatives have {size} bytes "
                f"there, its memory {memory}; plan with --no-alternatives"
            )


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


def _check_transforms(plan: Plan, views: Mapping[NodeName, NodeView]) -> None:
    """Every node of a transform, and of a file that runs for each row, can do that."""
    for i, stage in enumerate(plan.stages):
        wanted = [("transform", kind_of(stage.transform))] if stage.transform is not None else []
        wanted += [("each", EACH)] if stage.each else []
        for field, kind in wanted:
            for name in stage.nodes:
                described = views[name].description
                if kind not in described.transforms:
                    known = [one for one in described.transforms if one != EACH] or ["none"]
                    raise PlanError(
                        f"stages[{i}].{field}: {kind!r} is not known on node {name!r}, which runs "
                        f"{described.software or 'another version'} and knows {', '.join(known)}; bring its "
                        "collab up to date, or place the stage elsewhere"
                    )


async def _send_blobs(
    cluster: Cluster, plan: Plan, blobs: Blobs, names: Sequence[NodeName], progress: Progress | None
) -> dict[NodeName, int]:
    """Send each node the stages that it lacks, all nodes at once."""

    async def send(name: NodeName) -> int:
        control, sent = cluster.control(name), 0
        wanted: dict[Digest, Plan] = {}
        for one in plan.family:
            for stage in one.stages_on(name):
                if stage.sha256 is not None:
                    wanted.setdefault(stage.sha256, one)
            # Nodes do without where nobody has it: they compare less.
            for model in one.models:
                if model.reference is not None and model.reference in blobs:
                    wanted.setdefault(model.reference, one)
        missing = await control.missing(list(wanted))
        total = sum(max(0, len(blobs[digest]) - held) for digest, held in missing.items())

        def count(size: int) -> None:
            nonlocal sent
            sent += size
            if progress:
                progress(name, size, total)

        for digest, held in missing.items():
            with told(wanted[digest]):
                try:
                    await control.put_blob(digest, blobs[digest], held, count)
                except IntegrityError:
                    # A part left over from a broken transfer; the node has dropped it.
                    await control.put_blob(digest, blobs[digest], 0, count)
        return sent

    return await everywhere(names, send)


async def _unload_elsewhere(
    cluster: Cluster, plan: Plan, views: Mapping[NodeName, NodeView], names: Sequence[NodeName]
) -> None:
    """Nodes that the plan has left forget its older epochs."""
    for name, view in views.items():
        if name not in names:
            for epoch in view.holds(plan.name):
                await cluster.control(name).epoch("Retire", plan.name, epoch, "", "")
                await cluster.control(name).epoch("Unload", plan.name, epoch, "", "")


async def _unload_former(cluster: Cluster, plan: Plan, views: Mapping[NodeName, NodeView]) -> None:
    """Alternatives of the plan's former version that it has no longer: their requests may finish."""
    names = {one.name for one in plan.family}
    held: Held = {}
    for name, view in views.items():
        former = [entry for entry in view.alternatives_of(plan.name) if entry[0] not in names]
        if former:
            held[name] = former
    await _take_down(cluster, held, _FORMER_S)


async def undeploy(cluster: Cluster, plan: Plan, drain_s: float = 10.0) -> dict[NodeName, list[Epoch]]:
    """Retire a plan and its alternatives everywhere, let requests finish, free them.

    Returns the epochs of the plan itself that were unloaded, by node.
    """
    for one in plan.family:
        await cluster.reach_plan(one)
    views = await cluster.describe({ref.name: None for one in plan.family for ref in one.nodes})
    held: Held = {
        name: [(plan.name, epoch) for epoch in view.holds(plan.name)] + view.alternatives_of(plan.name)
        for name, view in views.items()
    }
    await _take_down(cluster, held, drain_s)
    own = {ref.name for ref in plan.nodes}
    return {
        name: [epoch for known, epoch in entries if known == plan.name]
        for name, entries in held.items()
        if name in own
    }


async def _take_down(cluster: Cluster, held: Held, drain_s: float) -> None:
    """Admit nothing more, wait for what is under way, unload."""
    for name, entries in held.items():
        for plan, epoch in entries:
            await cluster.control(name).epoch("Retire", plan, epoch, "", "")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + drain_s
    while await _busy(cluster, held) and loop.time() < deadline:  # noqa: ASYNC110 - nodes must be asked
        await asyncio.sleep(0.05)
    for name, entries in held.items():
        for plan, epoch in entries:
            await cluster.control(name).epoch("Unload", plan, epoch, "", "")


async def _busy(cluster: Cluster, held: Held) -> bool:
    """Whether anything is under way on what is to be unloaded."""
    replies = await asyncio.gather(*(cluster.control(name).status() for name in held))
    return any(
        loaded.in_flight and (loaded.plan, loaded.epoch) in entries
        for entries, reply in zip(held.values(), replies, strict=True)
        for loaded in reply.plans
    )
