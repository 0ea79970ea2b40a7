"""Plans as pictures in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collab.core.ids import REQUESTER
from collab.core.plan import Plan
from collab.core.transforms import kind_of
from collab.core.validate import flow, order
from collab.planner.wording import size

if TYPE_CHECKING:
    from rich.console import RenderableType


def draw_plan(plan: Plan) -> RenderableType:
    """Stages in boxes with the edges between them, from the requester down and back."""
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    on_edge = flow(plan)
    parts: list[RenderableType] = [Text("  requester", style="bold")]
    for stage_id in order(plan):
        parts += [
            _arrow(plan, edge, sum(t.nbytes for t in on_edge[edge].values()))
            for edge in plan.edges_into(stage_id)
        ]
        stage = plan.stage(stage_id)
        what = f"operators {stage.ops[0]}..{stage.ops[1]}" if stage.ops else f"combine {stage.combine}"
        if stage.transform is not None:
            what = kind_of(stage.transform)
        elif stage.each:
            what += f", for each of {stage.outputs[0].shape[0]} rows"
        held = f"{size(stage.bytes)}, {stage.threads} thread{'s' if stage.threads > 1 else ''}"
        title = f"[bold]{stage.id}[/] on [green]{' + '.join(stage.nodes)}[/]"
        parts.append(Panel(f"{what}\n{held}", title=title, title_align="left", box=ROUNDED, width=46))
    parts += [_arrow(plan, e, sum(t.nbytes for t in on_edge[e].values())) for e in plan.edges_into(REQUESTER)]
    parts.append(Text("  requester", style="bold"))
    return Group(*parts)


def _arrow(plan: Plan, edge_id: int, count: int) -> RenderableType:
    from rich.text import Text

    edge = plan.edges[edge_id]
    tensors = f"{len(edge.tensors)} tensor{'s' if len(edge.tensors) > 1 else ''}"
    via = f" by {', '.join(edge.via)}" if edge.via else ""
    return Text(
        f"      │ {size(count)} in {tensors}, {edge.transport}, {edge.codec}{via}\n      ▼", style="cyan"
    )
