"""A pipeline in one process: whole models and transforms, one after another.

It is what the distributed answer must be equal to, and what a requester falls back on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from collab.client.local import RunWhole
from collab.codec.tensors import Array
from collab.coordinator.planning import open_model, whole_model
from collab.core.plan import ModelRef, Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.validate import order
from collab.errors import ModelError, PlanError
from collab.graph import Graph
from collab.runtime.base import LoadedStage
from collab.runtime.transforms.stage import EachRow, TransformStage

_Part = tuple[Sequence[str], Sequence[str], Callable[[Sequence[Array]], Sequence[Array]]]
"""What a step reads, what it makes, and what makes it."""


def is_pipeline(plan: Plan) -> bool:
    """Whether a plan has steps that are no part of one model, and nothing that merges or chooses."""
    special = any(stage.transform is not None or stage.each for stage in plan.stages)
    joined = any(stage.combine is not None for stage in plan.stages) or any(e.guard for e in plan.edges)
    return (special or len(plan.models) > 1) and not joined


def open_models(plan: Plan, folder: Path) -> dict[str, Graph]:
    """A pipeline's models by their names in the plan, each where that says or by its name in a folder.

    Raises `ModelError` for one that is not there, or is another one.
    """
    return {model.id: _open(model, folder) for model in plan.models}


def _open(model: ModelRef, folder: Path) -> Graph:
    if model.path is None:
        raise ModelError(f"models ({model.id}).path: the plan does not say where the model is; add the path")
    place = folder / model.path
    if not place.exists():
        place = folder / Path(model.path).name
    graph = open_model(place, model.signature)
    if graph.sha256 != model.sha256:
        raise ModelError(
            f"{place}: has digest {graph.sha256[:12]}, model {model.id!r} of the plan {model.sha256[:12]}; "
            "give the folder of the files that the plan was made from"
        )
    return graph


def in_one_process(plan: Plan, graphs: Mapping[str, Graph], threads: int = 1) -> RunWhole:
    """From a plan's inputs to its outputs, in their order, by its whole models on this machine.

    Raises `PlanError` for a plan that is no pipeline, `BackendError` where a model cannot be loaded.
    """
    if not is_pipeline(plan):
        raise PlanError(f"plan {plan.name!r} is no pipeline; only pipelines can be computed so")
    parts: list[_Part] = []
    seen: set[str] = set()
    for stage_id in order(plan):
        stage = plan.stage(stage_id)
        if stage.transform is not None:
            transform = TransformStage(stage)
            parts.append((_names(stage.inputs), _names(stage.outputs), transform.run))
        elif stage.model not in seen:
            seen.add(stage.model)
            parts.append(_whole(plan, stage, graphs[stage.model], threads))
    ready = _in_order(plan, parts)

    def run(arrays: Sequence[Array]) -> list[Array]:
        known = {spec.name: array for spec, array in zip(plan.inputs, arrays, strict=True)}
        for reads, makes, make in ready:
            known |= zip(makes, make([known[name] for name in reads]), strict=True)
        return [known[spec.name] for spec in plan.outputs]

    return run


def _names(specs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in specs]


def _whole(plan: Plan, stage: StageSpec, graph: Graph, threads: int) -> _Part:
    """A model whole, whatever the plan's cuts are, by the plan's names."""
    stages = [one for one in plan.stages if one.model == stage.model and one.sha256 is not None]
    called = {entry.file: entry.tensor for one in stages for entry in one.file_names}
    inputs = [called.get(spec.name, spec.name) for spec in graph.inputs]
    outputs = [called.get(spec.name, spec.name) for spec in graph.outputs]
    run = whole_model(graph, threads)
    if not stage.each:
        return inputs, outputs, run
    own = {entry.tensor for one in stages for entry in one.file_names}
    own |= {spec.name for one in stages for spec in one.outputs}
    specs = {spec.name: spec for one in stages for spec in (*one.inputs, *one.outputs)}
    counter = [spec.name for spec in stage.inputs if spec.name not in own]
    rows = msgspec.structs.replace(
        stage,
        inputs=tuple(specs[name] for name in (*inputs, *counter)),
        outputs=tuple(specs[name] for name in outputs),
    )
    return [*inputs, *counter], outputs, EachRow(_Loaded(graph, run), rows).run


class _Loaded(LoadedStage):
    """A whole model as stages are."""

    def __init__(self, graph: Graph, run: RunWhole) -> None:
        self.inputs, self.outputs, self._run = graph.inputs, graph.outputs, run

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return self._run(inputs)

    def close(self) -> None:
        """The runtime frees it with the last reference."""


def _in_order(plan: Plan, parts: Sequence[_Part]) -> list[_Part]:
    """Each after all that it reads: a model whose later stage reads another step's output comes later."""
    known = set(_names(plan.inputs))
    waiting, ready = list(parts), list[_Part]()
    while waiting:
        able = [part for part in waiting if known.issuperset(part[0])]
        if not able:
            raise PlanError(f"plan {plan.name!r}: its whole models wait for each other; it is no pipeline")
        ready += able
        known.update(name for part in able for name in part[1])
        waiting = [part for part in waiting if part not in able]
    return ready
