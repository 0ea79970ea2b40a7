"""Plans and looks for the page's tests."""

from itertools import pairwise

from collab.core.ids import REQUESTER
from collab.core.plan import (
    Edge,
    ModelRef,
    NodeRef,
    Plan,
    Predicted,
    PredictedEdge,
    PredictedStage,
    StageSpec,
)
from collab.core.tensor import TensorSpec
from collab.dashboard.looks import LinkLook, NodeLook, PlanLook

X = TensorSpec("x", (1, 4), "float32")
Y = TensorSpec("y", (1, 4), "float32")


def chain(*nodes, name="digits"):
    """One stage on each node, the first predicted at 1 ms, the second at 2, …; 0.5 ms between them."""
    stages = tuple(
        StageSpec(id=f"stage-{i}", nodes=(node,), inputs=(X,), outputs=(Y,), ops=(i, i + 1), sha256="0" * 64)
        for i, node in enumerate(nodes)
    )
    ends = [REQUESTER, *(stage.id for stage in stages), REQUESTER]
    edges = tuple(Edge(source=a, target=b, tensors=("x",)) for a, b in pairwise(ends))
    predicted = Predicted(
        latency_ms=9.0,
        bottleneck_ms=2.0,
        stages=tuple(PredictedStage(stage=s.id, nodes=s.nodes, ms=i + 1.0) for i, s in enumerate(stages)),
        edges=tuple(PredictedEdge(source=e.source, target=e.target, ms=0.5, occupied_ms=0.1) for e in edges),
    )
    return Plan(
        name=name,
        models=(ModelRef(sha256="1" * 64, ops=len(nodes)),),
        inputs=(X,),
        outputs=(Y,),
        stages=stages,
        edges=edges,
        nodes=tuple(NodeRef(name=node, endpoints=()) for node in nodes),
        predicted=predicted,
    )


def held(plan, epoch, state="serving", primary=""):
    """An epoch of a plan on a node."""
    return PlanLook(plan.name, epoch, plan.digest, state, ("stage-0",), 0, primary)


def link(peer, sent=0, received=0, rtt_ms=2.0, transport="grpc"):
    return LinkLook(peer, transport, rtt_ms, sent, received)


def look(name, *, state="serving", links=(), plans=(), counters=None):
    return NodeLook(name, state, links=tuple(links), plans=tuple(plans), counters=counters or {})


def ran(plan, epoch, **stages):
    """Counters of stages, each given as (µs, runs)."""
    found: dict[str, int] = {}
    for stage, (total_us, runs) in stages.items():
        where = f"{plan.name}/{epoch}/{stage.replace('_', '-')}"
        found |= {f"stage_us:{where}": total_us, f"stage_runs:{where}": runs}
    return found
