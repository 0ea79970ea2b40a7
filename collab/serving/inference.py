"""One call of the protocol: split into requests, asked at once, joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from collab.client.runner import Result
from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.errors import InputError, RequestError, TensorError
from collab.serving.batch import Layout, join, split
from collab.serving.offers import Offer
from collab.serving.wishes import Value, Wishes
from collab.transport.aio import BaseExceptionGroup, TaskGroup

MAX_ID: Final = 256
"""Characters of a request's id."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks, whatever protocol it came by.

    Attributes:
        layout: how the inputs are batched, by the plan that is asked.
        outputs: names of those that it wants, in its order, which the plan has.
    """

    inputs: Mapping[str, Array]
    wishes: Wishes
    layout: Layout
    outputs: Sequence[str]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it gets."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, Value]


def wanted_outputs(plan: Plan, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the outputs to give; raises `TensorError` for one that the model lacks."""
    known = tuple(spec.name for spec in plan.outputs)
    for name in names:
        if name not in known:
            raise TensorError(
                f"output {name[:80]!r}: the model has no such output; it gives {', '.join(known)}"
            )
    return tuple(dict.fromkeys(names)) or known


def check_id(request: str) -> str:
    """A request's id, if it is short enough; raises `InputError`."""
    if len(request) > MAX_ID:
        raise InputError(f"id: {len(request)} characters are over {MAX_ID}")
    return request


async def answer(offer: Offer, call: Call) -> Answer:
    """Ask a plan; raises what one request raises.

    The requests of a batch are asked at once, as far as there are credits; the first that fails
    withdraws the others.
    """
    plan, version = offer.plan, offer.version
    how, wishes = call.layout, call.wishes
    with offer.counted():
        if how.requests == 1:
            (one,) = split(call.inputs, how)
            results = [await offer.run(one, wishes.deadline_s, wishes.priority, wishes.path)]
        else:
            results = await _all(offer, split(call.inputs, how), wishes)
        for result in results:
            if result.absent is not None:
                raise RequestError(f"the plan keeps its answer back: {result.absent}")
        outputs = join([result.outputs for result in results], how, call.outputs)
    return Answer(plan.name, version, call.id, outputs, _told(results, wishes))


async def _all(offer: Offer, requests: Sequence[Mapping[str, Array]], wishes: Wishes) -> list[Result]:
    try:
        async with TaskGroup() as group:
            tasks = [
                group.create_task(offer.run(one, wishes.deadline_s, wishes.priority, wishes.path))
                for one in requests
            ]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _told(results: Sequence[Result], wishes: Wishes) -> dict[str, Value]:
    """Response parameters: who answered, under which epoch, over which nodes, and how long it took there."""
    first = results[0]
    told: dict[str, Value] = {
        "path": ",".join(dict.fromkeys(result.via for result in results)),
        "epoch": int(first.epoch),
        "nodes": ",".join(first.path),
    }
    if wishes.hops:
        told["hops"] = msgspec.json.encode([_hop(hop) for hop in first.hops]).decode()
    if wishes.final:
        told["triton_final_response"] = True
    return told


def _hop(hop: Any) -> dict[str, Any]:
    parts = {
        f"{part}_ms": getattr(hop, f"{part}_us") / 1000 for part in ("queue", "decode", "compute", "encode")
    }
    return {"stage": hop.stage, "node": hop.node, **parts}
