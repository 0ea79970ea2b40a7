"""Plans that are chains: stages one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from collab.core.ids import REQUESTER, NodeName, PlanName, StageId
from collab.core.plan import Edge, ModelRef, NodeRef, Plan, StageSpec, Tolerance
from collab.core.tensor import TensorSpec
from collab.core.validate import validate
from collab.errors import UsageError


@dataclass(frozen=True)
class Assignment:
    """The nodes of each stage: several are replicas."""

    stages: tuple[tuple[NodeName, ...], ...]


def parse_assignment(text: str, stages: int, known: Sequence[NodeName]) -> Assignment:
    """Read ``a,b+d,c``: one entry a stage, ``+`` joins replicas.

    Raises `UsageError` for a wrong number of entries or an unknown node.
    """
    entries = text.split(",")
    if len(entries) != stages:
        raise UsageError(f"--assign {text!r}: {len(entries)} entries for {stages} stages; give one for each")
    placed: list[tuple[NodeName, ...]] = []
    for entry in entries:
        names = tuple(NodeName(name.strip()) for name in entry.split("+"))
        for name in names:
            if name not in known:
                raise UsageError(
                    f"--assign: no node {name!r} among the peers; there are {', '.join(known) or 'none'}"
                )
        if len(set(names)) != len(names):
            raise UsageError(f"--assign: {entry!r} names a node twice; replicas must differ")
        placed.append(names)
    return Assignment(tuple(placed))


def chain(
    name: PlanName,
    model: ModelRef,
    stages: Sequence[StageSpec],
    boundaries: Sequence[Sequence[str]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    nodes: Sequence[NodeRef],
    *,
    codecs: Sequence[str] = (),
    transports: Sequence[str] = (),
    credits: int = 64,
    return_by_chain: bool = False,
    tolerance: Tolerance = Tolerance(),
    codec_error: float | None = None,
) -> Plan:
    """A chain of placed stages.

    ``boundaries[i]`` names what travels over the cut before stage ``i + 1``.  With
    ``return_by_chain`` the answer goes back through the chain's nodes, for a requester
    that the last node cannot reach.  Raises `PlanError`.
    """
    ids = [REQUESTER, *(stage.id for stage in stages), REQUESTER]
    tensors = [[t.name for t in inputs], *boundaries, [t.name for t in outputs]]
    used = {node for stage in stages for node in stage.nodes}
    back: tuple[NodeName, ...] = ()
    if return_by_chain:
        back = tuple(dict.fromkeys(stage.nodes[0] for stage in reversed(stages[:-1])))
        back = tuple(node for node in back if node not in stages[-1].nodes)
    edges = []
    for i, (source, target) in enumerate(pairwise(ids)):
        last = i == len(ids) - 2
        codec = codecs[i] if i < len(codecs) else "raw"
        edges.append(
            Edge(
                source=StageId(source),
                target=StageId(target),
                tensors=tuple(tensors[i]),
                transport=transports[i] if i < len(transports) else "grpc",
                codec=codec,
                via=back if last else (),
            )
        )
    return validate(
        Plan(
            name=name,
            models=(model,),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            stages=tuple(stages),
            edges=tuple(edges),
            nodes=tuple(node for node in nodes if node.name in used),
            credits=credits,
            tolerance=tolerance,
            codec_error=codec_error,
        )
    )
