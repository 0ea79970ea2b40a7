"""Plans whose stages are Python functions, and nodes in this process that run them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from collab.assembly import build_cluster
from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster
from collab.core.ids import REQUESTER, Digest, NodeName, PlanName, StageId
from collab.core.plan import Edge, ModelRef, NodeRef, Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.validate import validate
from collab.link.hello import Identity
from collab.link.link import Handler
from collab.link.links import DialConfig, Links
from collab.node.config import NodeConfig
from collab.node.service import NodeService
from collab.node.store import Store
from collab.runtime.function import Functions
from collab.transport.inproc import InprocTransport

WIDTH = 4
STAGES = 6
X: Array = np.arange(WIDTH, dtype=np.float32)


def spec(number: int) -> TensorSpec:
    """What travels before stage ``number``."""
    return TensorSpec(f"t{number}", (WIDTH,), "float32")


def data(number: int) -> bytes:
    """The bytes that stand for stage ``number``."""
    return f"stage {number}".encode()


def digest(number: int) -> Digest:
    return Digest(hashlib.sha256(data(number)).hexdigest())


def compute(number: int, array: Array) -> Array:
    """What stage ``number`` does."""
    return (array * 2 + number).astype(np.float32)


def expected(stages: int, array: Array = X) -> Array:
    """What a chain answers."""
    for number in range(stages):
        array = compute(number, array)
    return array


class Gate:
    """A function that waits until it is opened; ``entered`` says that it has begun."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.runs = 0

    def __call__(self, array: Array) -> Array:
        self.runs += 1
        self.entered.set()
        assert self.opened.wait(20)
        return array


def functions(*known: int, gate: Gate | None = None) -> Functions:
    """A back end that has some stages (all by default); the gate stands before each."""

    def make(number: int) -> Any:
        def run(arrays: Sequence[Array]) -> list[Array]:
            (array,) = arrays
            return [compute(number, gate(array) if gate is not None else array)]

        return run, (spec(number),), (spec(number + 1),)

    return Functions({data(number): make(number) for number in known or range(STAGES)})


def chain(*placed: str, name: str = "p", **more: Any) -> tuple[Plan, dict[Digest, bytes]]:
    """Stages ``s0``, ``s1``, … on the nodes named; ``a+b`` are replicas."""
    stages = [
        StageSpec(
            id=StageId(f"s{i}"),
            nodes=tuple(map(NodeName, nodes.split("+"))),
            inputs=(spec(i),),
            outputs=(spec(i + 1),),
            ops=(i, i + 1),
            sha256=digest(i),
            backend="function",
        )
        for i, nodes in enumerate(placed)
    ]
    ids = [REQUESTER, *(stage.id for stage in stages), REQUESTER]
    edges = [
        Edge(source=source, target=target, tensors=(spec(i).name,), transport="inproc")
        for i, (source, target) in enumerate(pairwise(ids))
    ]
    names = sorted({node for stage in stages for node in stage.nodes})
    plan = Plan(
        name=PlanName(name),
        models=(ModelRef(sha256=Digest("0" * 64), ops=len(stages)),),
        inputs=(spec(0),),
        outputs=(spec(len(stages)),),
        stages=tuple(stages),
        edges=tuple(edges),
        nodes=tuple(NodeRef(name=node, endpoints=(f"inproc://{node}",)) for node in names),
        **more,
    )
    return validate(plan), {digest(i): data(i) for i in range(len(placed))}


@asynccontextmanager
async def node(
    name: str,
    hub: InprocTransport,
    folder: Path,
    backend: Functions | None = None,
    **settings: Any,
) -> AsyncIterator[NodeService]:
    """A node that serves at ``inproc://name``."""
    store = await asyncio.to_thread(Store, folder / name)
    config = NodeConfig(name=name, listen=(f"inproc://{name}",), **settings)

    def make_links(handler: Handler) -> Links:
        dial = DialConfig(backoff_s=0.01, peer_backoff_limit_s=0.02)
        return Links(Identity(NodeName(name), "node"), {"inproc": hub}, handler, dial=dial)

    async with NodeService(config, store, {"function": backend or functions()}, make_links) as service:
        yield service


@asynccontextmanager
async def coordinator(hub: InprocTransport) -> AsyncIterator[Cluster]:
    async with build_cluster(inproc=hub) as cluster:
        yield cluster
