"""Plans brought up together: reserve, prepare everywhere, commit; a failure before that aborts all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import Digest, Epoch, NodeName
from collab.core.plan import Plan, to_json
from collab.errors import CollabError, PeerError

_COMMIT_TRIES = 3
_COMMIT_PAUSE_S = 0.2
_ABORT_S = 3.0

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """One plan that is to be current under an epoch on some nodes."""

    plan: Plan
    epoch: Epoch
    names: Sequence[NodeName]
    current: Mapping[NodeName, tuple[Epoch, Digest] | None]
    """What each node is believed to have."""
    holder: str = field(default_factory=lambda: secrets.token_hex(8))


async def everywhere(
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


async def two_phases(cluster: Cluster, changes: Sequence[Change]) -> None:
    """Reserve in the order of plans and names, so that of two coordinators one gets all; prepare; commit.

    The last of the changes is reserved first, and committed when the others are: where it is
    current, they are.
    """
    reserved: list[tuple[Change, NodeName]] = []
    first_reserved = [changes[-1], *changes[:-1]]
    try:
        for change in first_reserved:
            for name in change.names:
                reserved.append((change, name))
                with told(change.plan):
                    await _reserve(cluster, change, name)
        await _all(_prepare(cluster, change) for change in changes)
    except BaseException:
        await _abort(cluster, reserved)
        raise
    left = list(changes)
    try:
        while left:
            await everywhere(left[0].names, partial(_commit, cluster, left[0]))
            del left[0]
    except BaseException:
        await _abort(cluster, [(change, name) for change in left[1:] for name in change.names])
        raise


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Wait for all, then raise the first error: who aborts must come after who prepares."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


@contextmanager
def told(plan: Plan) -> Iterator[None]:
    """Say of an error of which alternative it is, and what can be done."""
    try:
        yield
    except CollabError as error:
        if plan.primary is None:
            raise
        raise type(error)(
            f"alternative {plan.name!r}: {error}; give the node room, or plan with --no-alternatives"
        ) from error


async def _reserve(cluster: Cluster, change: Change, name: NodeName) -> None:
    expected = change.current[name] or (Epoch(0), Digest(""))
    await cluster.control(name).call(
        "Reserve",
        pb.ReserveRequest(
            plan=to_json(change.plan),
            epoch=change.epoch,
            holder=change.holder,
            expected_epoch=expected[0],
            expected_digest=expected[1],
        ),
    )


async def _prepare(cluster: Cluster, change: Change) -> None:
    plan, digest = change.plan, change.plan.digest
    with told(plan):
        await everywhere(
            change.names,
            lambda name: cluster.control(name).prepare(plan.name, change.epoch, digest, change.holder),
        )


async def _commit(cluster: Cluster, change: Change, name: NodeName) -> None:
    plan, epoch = change.plan, change.epoch
    for left in reversed(range(_COMMIT_TRIES)):
        try:
            await cluster.reach_plan(plan, [name])
            await cluster.control(name).epoch("Commit", plan.name, epoch, plan.digest, change.holder)
            return
        except PeerError as error:
            if not left:
                raise type(error)(
                    f"node {name!r} was lost while epoch {epoch} of plan {plan.name!r} was committed; "
                    f"deploy again when it is back ({error})"
                ) from error
            await asyncio.sleep(_COMMIT_PAUSE_S)


async def _abort(cluster: Cluster, reserved: Sequence[tuple[Change, NodeName]]) -> None:
    """Best effort: a node that cannot be told lets the reservation expire."""

    async def abort(change: Change, name: NodeName) -> None:
        control, plan = cluster.control(name), change.plan
        await control.epoch("Abort", plan.name, change.epoch, plan.digest, change.holder, timeout_s=_ABORT_S)

    work = (abort(change, name) for change, name in reserved)
    await asyncio.shield(asyncio.gather(*work, return_exceptions=True))
