"""From the plans of a scenario, which say only where stages run, to plans of its model.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from collab.coordinator.ensembles import member
from collab.coordinator.planning import build_solved
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.emulation.devices import Limits, untrustworthy_stages
from collab.emulation.plans import Field, Placed
from collab.emulation.scenario import EnsembleSpec, Host, PlanChoice
from collab.graph import Graph
from collab.planner.chain import Assignment
from collab.planner.ensemble import Merging, ensemble
from collab.planner.prediction import chain_of


def limits_of(machines: Mapping[str, Host]) -> dict[str, Limits]:
    """What hosts may use, those that have limits."""
    return {
        name: Limits(cpu=host.cpu, memory_bytes=None if host.memory_mb is None else int(host.memory_mb * 1e6))
        for name, host in machines.items()
        if host.cpu is not None or host.memory_mb is not None
    }


def real_plan(
    placed: Placed,
    choice: str | PlanChoice,
    path: Path,
    graph: Graph,
    refs: Mapping[NodeName, NodeRef],
    transport: str,
) -> Plan:
    """The plan of an entry of ``plans`` for the model itself.

    Args:
        placed: where its stages run.
        choice: the entry.
        path: of the model.
        graph: what is in it.
        refs: where nodes are.
        transport: of the links.
    """
    made = placed.plan
    nodes = [refs[ref.name] for ref in made.nodes]
    if isinstance(choice, PlanChoice) and choice.file is not None:
        # What stands in when nodes are lost is not part of what the scenario compares.
        return made.replace(nodes=tuple(nodes), alternatives=())
    if isinstance(choice, PlanChoice) and choice.ensemble is not None:
        return _ensemble(made, choice.ensemble, path, graph, nodes, transport)
    plan, _ = build_solved(
        PlanName(made.name),
        path,
        graph,
        chain_of(made),
        nodes,
        {},
        credits=made.credits,
        codec_error=made.codec_error,
    )
    return plan


def _ensemble(
    made: Plan, spec: EnsembleSpec, path: Path, graph: Graph, nodes: list[NodeRef], transport: str
) -> Plan:
    members = [member(path, graph, (), Assignment(((NodeName(host),),))) for host in spec.members]
    merging = Merging("mean", (NodeName(spec.node),), quorum=spec.quorum, wait_ms=spec.wait_ms)
    return ensemble(made.name, members, merging, nodes, transport=transport, credits=made.credits)


def distrusted(field: Field, placed: Placed, limits: Mapping[str, Limits]) -> list[str]:
    """A line for each stage whose time under a quota says little about a slow device."""
    found: list[str] = []
    machines = field.scenario.machines
    for host, limit in limits.items():
        device = field.devices[NodeName(host)]
        full = limit.cpu if limit.cpu is not None and not field.measured else 1.0
        stages = {
            str(stage.id): sum(device.op_ms[slice(*stage.ops)]) * full
            for stage in placed.plan.stages
            if host in stage.nodes and stage.ops is not None
        }
        found += [
            f"plan {placed.plan.name} on {host}: {line}"
            for line in untrustworthy_stages(limit, machines[host].stretch, stages)
        ]
    return found
