"""Between plans and the chains that planners see: what was predicted, and what can be compared with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from collab.core.ids import REQUESTER, NodeName, StageId
from collab.core.plan import Plan, Predicted, PredictedEdge, PredictedStage
from collab.errors import PlanError
from collab.planner.chains import Chain, Move, StageChoice
from collab.planner.evaluate import Evaluation, Evaluator, Span


def predicted_of(evaluation: Evaluation, chain: Chain, profile: str = "", basis: str = "") -> Predicted:
    """What `Evaluator.evaluate` says of a chain, as its plan keeps it.

    Stages are named ``stage-0``, ``stage-1`` …; ``profile`` is the profile's digest.
    Raises `PlanError` for a chain that is impossible.
    """
    costs = evaluation.costs
    if not (math.isfinite(costs.latency_ms) and math.isfinite(costs.bottleneck_ms)):
        raise PlanError("the plan is impossible with this profile: a link is missing, or memory is too small")
    ids = [StageId(f"stage-{i}") for i in range(len(chain.stages))]
    ends = [REQUESTER, *ids, REQUESTER]
    return Predicted(
        latency_ms=costs.latency_ms,
        bottleneck_ms=costs.bottleneck_ms,
        stages=tuple(
            PredictedStage(
                stage=ids[i],
                nodes=stage.nodes,
                ms=sum(span.duration_ms for span in _spans(evaluation.spans, i, moves=False)),
            )
            for i, stage in enumerate(chain.stages)
        ),
        edges=tuple(
            PredictedEdge(
                source=ends[i],
                target=ends[i + 1],
                ms=sum(span.duration_ms for span in _spans(evaluation.spans, i, moves=True)),
                occupied_ms=sum(span.occupied_ms for span in _spans(evaluation.spans, i, moves=True)),
            )
            for i in range(len(chain.moves))
        ),
        profile=profile,
        basis=basis,
    )


def _spans(spans: Iterable[Span], stage: int, *, moves: bool) -> list[Span]:
    return [span for span in spans if span.stage == stage and (span.what == "move") == moves]


def chain_of(plan: Plan) -> Chain:
    """A deployed plan as planners see it.

    Raises `PlanError` for a plan that is no chain of stages of one model.
    """
    at = REQUESTER
    stages: list[StageChoice] = []
    moves: list[Move] = []
    while True:
        edges = [edge for edge in plan.edges if edge.source == at]
        if len(edges) != 1 or edges[0].guard is not None or len(moves) == len(plan.edges):
            raise PlanError(f"plan {plan.name!r} is no plain chain; only chains can be planned anew")
        moves.append(Move(edges[0].transport, edges[0].codec))
        at = edges[0].target
        if at == REQUESTER:
            break
        stage = plan.stage(at)
        if stage.ops is None:
            raise PlanError(f"plan {plan.name!r} is no plain chain; only chains can be planned anew")
        if stage.model != plan.models[0].id:
            raise PlanError(f"stage {at!r} is no part of model {plan.models[0].id!r}; only chains of one are")
        stages.append(StageChoice(*stage.ops, stage.nodes, stage.threads))
    if len(stages) != len(plan.stages) or len(moves) != len(plan.edges):
        raise PlanError(f"plan {plan.name!r} is no plain chain; only chains can be planned anew")
    return Chain(tuple(stages), tuple(moves))


def with_known_threads(chain: Chain, evaluator: Evaluator) -> Chain:
    """The chain with threads that the profile does not know left to what it has first."""

    def known(stage: StageChoice) -> bool:
        devices = [evaluator.devices[name] for name in stage.nodes]
        return all(
            stage.threads in (device.threads, *(more.threads for more in device.more_threads))
            for device in devices
        )

    stages = (s if known(s) else StageChoice(s.start, s.stop, s.nodes) for s in chain.stages)
    return Chain(tuple(stages), chain.moves)


def stage_times(evaluator: Evaluator, chain: Chain) -> Mapping[tuple[int, NodeName], float]:
    """Time in ms of each stage on each of its nodes: decoding, computing and encoding."""
    times: dict[tuple[int, NodeName], float] = {}
    for index, stage in enumerate(chain.stages):
        decode, encode = chain.moves[index].codec, chain.moves[index + 1].codec
        for name in stage.nodes:
            times[index, name] = (
                evaluator.codec_ms(name, stage.start, decode)[1]
                + evaluator.stage_ms(evaluator.devices[name], stage.start, stage.stop, stage.threads)
                + evaluator.codec_ms(name, stage.stop, encode)[0]
            )
    return times
