"""Throughput by the number of nodes: chains of stages and replicas of the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from collab.emulation.results import Asking
from simulations.drawing import curves
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario

LAYERS: Final = 24
STAGES: Final = 8
"""Of the longest chain; more nodes than that are replicas of its stages."""
_EMULATED: Final = (1, 2, 4, 8)
_SIMULATED: Final = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1000)
_BY_CLIENT: Final = 50
"""Nodes that one client asks."""
_WARM: Final = 2
"""Requests for each place at a time that are not counted: queues fill."""
_COUNTED: Final = {"simulated": 8, "emulated": 12}
"""Requests for each node."""


def cases(quick: bool) -> list[Case]:
    """One for each number of nodes."""
    counts = ((2, 16), (2,)) if quick else (_SIMULATED, _EMULATED)
    return [_case("simulated", count, quick) for count in counts[0]] + [
        _case("emulated", count, quick) for count in counts[1]
    ]


def _case(kind: Any, count: int, quick: bool) -> Case:
    tree, model = scenario("nodes")
    stages = min(count, STAGES)
    clients = 1 + (count - 1) // _BY_CLIENT
    chain = {
        "name": "chain",
        "at": [round(LAYERS * at / stages) for at in range(1, stages)],
        "assign": [
            "+".join(_node(number, count) for number in range(stage, count, stages))
            for stage in range(stages)
        ],
    }
    at_once = 2 * count
    warmup = _WARM * at_once
    requests = warmup + (4 if quick else max(_COUNTED[kind], 64 // count)) * count
    made = changed(
        tree,
        requester=_client(0, clients),
        hosts={
            "client": {**tree["hosts"]["client"], "count": clients},
            "node": {**tree["hosts"]["node"], "count": count},
        },
        plans=[chain, {"name": "replicas", "at": [], "assign": ["node"]}],
        workload={"concurrency": at_once, "warmup": warmup, "requests": requests, "requesters": ["client"]},
    )
    del made["workload"]["duration_s"]
    return Case(kind, {"nodes": count}, made, model)


def _node(number: int, count: int) -> str:
    return "node" if count == 1 else f"node-{number}"


def _client(number: int, count: int) -> str:
    return "client" if count == 1 else f"client-{number}"


def steady_rps(askings: Sequence[Asking]) -> float:
    """Answers a second between the first and the last tenth of them: neither filling nor emptying."""
    ends = sorted(asking.start_ms + asking.latency_ms for asking in askings if asking.answered)
    first, last = len(ends) // 10, len(ends) - 1 - len(ends) // 10
    return 1e3 * (last - first) / (ends[last] - ends[first])


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Both ways of using nodes, beside one node's rate times their number."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = {"simulated": {}, "emulated": {}}
    for one in done:
        for row in one.rows():
            point = (float(row["nodes"]), steady_rps(one.of(row["plan"])))
            series[one.case.kind].setdefault(row["plan"], []).append(point)
    alone = next((y for points in series["simulated"].values() for x, y in points if x == 1), None)
    most = max(float(one.case.values["nodes"]) for one in done)
    ideal = None if alone is None else ("one node times their number", [(1.0, alone), (most, alone * most)])
    x, y = "nodes", "answers a second"
    return {"nodes": curves(series["simulated"], series["emulated"], x=x, y=y, log="xy", ideal=ideal)}


def table(done: Sequence[Done]) -> str:
    """Rates, and the share of what as many single nodes would do."""
    rates = {
        (one.case.kind, float(one.case.values["nodes"]), run.name): steady_rps(one.of(run.name))
        for one in done
        for run in one.results.plans
    }
    lines = []
    for row in (row for one in done for row in one.rows()):
        kind, nodes, plan = row["kind"], row["nodes"], row["plan"]
        rate, alone = rates[kind, nodes, plan], rates.get((kind, 1.0, plan))
        gain = None if alone is None else rate / alone
        marked = kind + (" (!)" if row["flagged"] else "")
        lines.append((nodes, marked, plan, rate, gain, gain and gain / nodes, row["p50_ms"]))
    return markdown(("nodes", "kind", "plan", "answers/s", "gain", "of ideal", "p50 ms"), lines)


EXPERIMENT: Final = Experiment(
    "nodes", "How does throughput grow with the number of nodes?", cases, draw, table
)
