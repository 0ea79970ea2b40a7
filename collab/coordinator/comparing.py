"""How answers of a plan are compared: bit by bit where its nodes' runtimes allow it."""

from __future__ import annotations

from collab.codec.tensors import EXACT_CODECS
from collab.coordinator.cluster import Cluster
from collab.coordinator.workload import Comparison
from collab.core.ids import NodeName
from collab.core.plan import Plan


def placed(plan: Plan) -> list[NodeName]:
    """The nodes that run stages of a plan or of its alternatives."""
    return list(dict.fromkeys(name for one in plan.family for name in one.placed))


async def choose_comparison(
    cluster: Cluster, plan: Plan, here: str, atol: float | None = None, rtol: float | None = None
) -> Comparison:
    """Exact within one runtime class, that of ``here`` included, and with exact codecs; else close."""
    views = await cluster.describe(name for name in placed(plan) if cluster.links.get(name))
    classes = {view.runtime_class for view in views.values()} | {here}
    exact = (
        len(classes) == 1
        and all(edge.codec in EXACT_CODECS for one in plan.family for edge in one.edges)
        and atol is None
        and rtol is None
    )
    return Comparison(
        exact,
        plan.tolerance.atol if atol is None else atol,
        plan.tolerance.rtol if rtol is None else rtol,
    )
