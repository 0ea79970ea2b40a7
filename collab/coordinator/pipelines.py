"""From a pipeline's file to stages whose tensors fit, and from a placement to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from collab.coordinator.planning import open_model
from collab.core.ids import Digest, PlanName, StageId
from collab.core.pipeline import ANSWER, INPUT, Pipeline, Step, pick, reference
from collab.core.plan import Edge, FileName, ModelRef, NodeRef, Plan, Predicted, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.transform_shapes import check_counter, made, stacked
from collab.core.transforms import MAX_ROWS, Dequantise, Join, Quantise
from collab.core.validate import validate
from collab.errors import ModelError, PlanError, TensorError
from collab.graph import Graph, split
from collab.planner.units import Placement, Unit, Wiring, ways

Blobs = dict[Digest, bytes]


class OpenedModel(NamedTuple):
    """A step's model."""

    path: Path
    graph: Graph


@dataclass(frozen=True)
class Fitted:
    """A pipeline whose tensors fit: its stages, not placed, and what they are made of."""

    name: PlanName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stages: tuple[StageSpec, ...]
    """In the file's order; without nodes."""
    models: tuple[ModelRef, ...]
    blobs: Blobs
    specs: Mapping[str, TensorSpec]
    """Every tensor of the plan."""
    graphs: Mapping[str, Graph]
    """The models by their steps' names."""

    @property
    def wiring(self) -> Wiring:
        """As placements see it."""
        return Wiring(
            tuple(
                Unit(
                    stage.id,
                    tuple(s.name for s in stage.inputs),
                    # What a stage only joins it has not made.
                    tuple(s.name for s in stage.outputs if s not in stage.inputs),
                )
                for stage in self.stages
            ),
            {name: spec.nbytes for name, spec in self.specs.items()},
            tuple(spec.name for spec in self.inputs),
            tuple(spec.name for spec in self.outputs),
        )

    def placed(
        self,
        placement: Placement,
        nodes: Sequence[NodeRef],
        *,
        transport: str = "grpc",
        credits: int = 64,
        predicted: Predicted | None = None,
    ) -> Plan:
        """The plan of a placement; raises `PlanError`."""
        used = {name for names in placement.values() for name in names}
        return validate(
            Plan(
                name=self.name,
                models=self.models,
                inputs=self.inputs,
                outputs=self.outputs,
                stages=tuple(msgspec.structs.replace(s, nodes=placement[s.id]) for s in self.stages),
                edges=tuple(
                    Edge(source=way.source, target=way.target, tensors=way.tensors, transport=transport)
                    for way in ways(self.wiring, placement)
                ),
                nodes=tuple(node for node in nodes if node.name in used),
                credits=credits,
                predicted=predicted,
            )
        )


def fit(pipeline: Pipeline, name: PlanName, folder: Path) -> Fitted:
    """Open the models and check every tensor of every step.

    Args:
        pipeline: the file.
        name: the plan's, where the file gives none.
        folder: where relative paths of models begin.

    Raises:
        PlanError: a tensor does not fit; says which of which step, what was expected and what it is.
        ModelError: a file is no model, or cannot be cut so.
    """
    models = {
        step.id: OpenedModel(path := (folder / step.model).resolve(), open_model(path, step.signature))
        for step in pipeline.steps
        if step.model is not None
    }
    fitting = _Fitting(pipeline, models)
    return fitting.run(PlanName(pipeline.name or name))


class _Fitting:
    """Walks the steps in order and keeps what each has made."""

    def __init__(self, pipeline: Pipeline, models: Mapping[str, OpenedModel]) -> None:
        self._pipeline, self._models = pipeline, models
        self._inputs = {name: TensorSpec(name, s.shape, s.dtype) for name, s in pipeline.inputs.items()}
        self._made: dict[str, Sequence[str]] = {INPUT: ()}
        self._specs: dict[str, TensorSpec] = {}
        self._stages: list[StageSpec] = []
        self._refs: list[ModelRef] = []
        self._blobs: Blobs = {}

    def run(self, name: PlanName) -> Fitted:
        self._find_inputs()
        for i, step in enumerate(self._pipeline.steps):
            where = f"steps[{i}] ({step.id})"
            if step.transform is not None:
                self._add_transform(step, where)
            else:
                self._add_model(step, where)
        outputs = self._outputs()
        for input_name in self._inputs:
            if not any(spec.name == input_name for stage in self._stages for spec in stage.inputs):
                raise PlanError(f"inputs ({input_name}): no step reads it; leave it out")
        self._join(outputs)
        return Fitted(
            name,
            tuple(self._inputs.values()),
            outputs,
            tuple(self._stages),
            tuple(self._refs),
            self._blobs,
            self._specs,
            {step: opened.graph for step, opened in self._models.items()},
        )

    # --- the plan's inputs --------------------------------------------------------------

    def _find_inputs(self) -> None:
        """Inputs that are not declared are as the first model that reads them takes them."""
        for i, step in enumerate(self._pipeline.steps):
            given = self._given(step, f"steps[{i}] ({step.id})") if step.model is not None else {}
            for spec, text in given.items():
                found = reference(text)
                if (
                    found.step == INPUT
                    and found.tensor
                    and found.tensor not in self._inputs
                    and not step.each
                ):
                    self._inputs[found.tensor] = TensorSpec(found.tensor, spec.shape, spec.dtype)
        for name, spec in self._inputs.items():
            try:
                spec.check()
            except TensorError as error:
                raise PlanError(f"inputs ({name[:80]}): {error}") from error
        self._made[INPUT] = tuple(self._inputs)
        for spec in self._inputs.values():
            self._keep(spec)

    def _given(self, step: Step, where: str) -> dict[TensorSpec, str]:
        """For each input of a step's model the reference that it reads."""
        inputs = self._models[step.id].graph.inputs
        if isinstance(step.of, dict):
            missing = {spec.name for spec in inputs} ^ step.of.keys()
            if missing:
                names = ", ".join(spec.name for spec in inputs)
                raise PlanError(f"{where}.of: {sorted(missing)[0]!r}: the model's inputs are {names}")
            return {spec: step.of[spec.name] for spec in inputs}
        texts = (step.of,) if isinstance(step.of, str) else step.of
        if len(texts) != len(inputs):
            names = ", ".join(spec.name for spec in inputs)
            raise PlanError(f"{where}.of: {len(texts)} given; the model takes {len(inputs)}: {names}")
        return dict(zip(inputs, texts, strict=True))

    # --- steps --------------------------------------------------------------------------

    def _read(self, text: str, where: str) -> TensorSpec:
        if not self._made[INPUT] and reference(text).step == INPUT:
            raise PlanError(f"{where}: {text!r}: declare it under inputs, with shape and dtype")
        return self._specs[pick(text, self._made, where)]

    def _keep(self, spec: TensorSpec) -> None:
        if spec.name in self._specs:
            raise PlanError(f"tensor {spec.name!r} stands there twice; rename a step or an input")
        self._specs[spec.name] = spec

    def _add_transform(self, step: Step, where: str) -> None:
        assert step.transform is not None
        inputs = tuple(self._read(text, f"{where}.of") for text in step.references)
        if len({spec.name for spec in inputs}) != len(inputs):
            raise PlanError(f"{where}.of: a tensor is named twice")
        transform = step.transform
        if isinstance(transform, (Quantise, Dequantise)) and transform.scale is None:
            transform = self._parameters(step, transform, where)
        try:
            wanted = made(transform, inputs)
        except PlanError as error:
            raise PlanError(f"{where}.transform: {error}") from error
        outputs = tuple(TensorSpec(f"{step.id}.{name}", shape, dtype) for name, shape, dtype in wanted)
        self._made[step.id] = tuple(name for name, _, _ in wanted)
        for spec in outputs:
            self._keep(spec)
        self._stages.append(
            StageSpec(id=StageId(step.id), nodes=(), inputs=inputs, outputs=outputs, transform=transform)
        )

    def _parameters(self, step: Step, transform: Quantise | Dequantise, where: str) -> Quantise | Dequantise:
        """Scale and zero point of the model's tensor that a step is for."""
        if isinstance(transform, Dequantise):
            found = pick(step.references[0], self._made, f"{where}.of")
            maker, _, tensor = found.partition(".")
            known = self._models[maker].graph.scales.get(tensor) if maker in self._models else None
        else:
            known = self._reader_scale(step)
        if known is None:
            raise PlanError(
                f"{where}.transform: no quantised tensor of a model tells its scale; give scale and zero"
            )
        return msgspec.structs.replace(transform, scale=known[0], zero=known[1])

    def _reader_scale(self, step: Step) -> tuple[float, int] | None:
        for other in self._pipeline.steps:
            if other.model is None or not any(reference(text).step == step.id for text in other.references):
                continue
            for spec, text in self._given(other, f"steps ({other.id})").items():
                if reference(text).step == step.id:
                    return self._models[other.id].graph.scales.get(spec.name)
        return None

    def _add_model(self, step: Step, where: str) -> None:
        path, graph = self._models[step.id]
        given = {spec: self._read(text, f"{where}.of") for spec, text in self._given(step, where).items()}
        rows = self._rows(step, given, where)
        for spec, got in given.items():
            want = stacked(spec, rows) if rows else spec
            if (got.shape, got.dtype) != (want.shape, want.dtype):
                raise PlanError(
                    f"{where}.of: {got.name!r} is {got.dtype}{list(got.shape)}, {step.model}'s input "
                    f"{spec.name!r} takes {want.dtype}{list(want.shape)}" + self._advice(got, spec, rows)
                )
        if len({got.name for got in given.values()}) != len(given):
            raise PlanError(f"{where}.of: a tensor is named twice")
        names = {spec.name: got.name for spec, got in given.items()}
        if gone := [spec.name for spec in graph.outputs if spec.name in names]:
            raise PlanError(f"{where}.model: gives its input {gone[0]!r} back; such a model cannot be a step")
        counter = (self._counter(step, where),) if isinstance(step.each, str) else ()
        self._cut(step, graph, names, rows, counter, where)
        self._made[step.id] = tuple(spec.name for spec in graph.outputs)
        digest = Digest(graph.sha256)
        ref = ModelRef(
            id=step.id, sha256=digest, ops=graph.op_count, path=str(path), signature=step.signature
        )
        self._refs.append(ref)

    def _rows(self, step: Step, given: Mapping[TensorSpec, TensorSpec], where: str) -> int:
        """How many rows a step's model runs for; 0 where it runs once."""
        if step.each is False:
            return 0
        first = next(iter(given.values()))
        if not first.shape or not 1 <= first.shape[0] <= MAX_ROWS:
            raise PlanError(f"{where}.each: {first.name!r} {list(first.shape)} has not 1 to {MAX_ROWS} rows")
        return first.shape[0]

    def _advice(self, got: TensorSpec, want: TensorSpec, rows: int) -> str:
        if got.dtype != want.dtype:
            return "; put a transform between them"
        several = not rows and got.shape[1:] == want.shape[1:] and want.shape[:1] == (1,)
        return "; give each: true to run it for every row" if several else ""

    def _counter(self, step: Step, where: str) -> TensorSpec:
        found = self._read(str(step.each), f"{where}.each")
        try:
            check_counter(found)
        except PlanError as error:
            raise PlanError(f"{where}.each: {error}") from error
        return found

    def _cut(
        self,
        step: Step,
        graph: Graph,
        names: dict[str, str],
        rows: int,
        counter: tuple[TensorSpec, ...],
        where: str,
    ) -> None:
        try:
            parts = split(graph, step.at)
        except ModelError as error:
            raise PlanError(f"{where}.at: {error}") from error

        def called(spec: TensorSpec) -> TensorSpec:
            own = stacked(spec, rows) if rows else spec
            return replace_name(own, names.get(spec.name, f"{step.id}.{spec.name}"))

        for i, part in enumerate(parts):
            inputs = (*map(called, part.inputs), *counter)
            outputs = tuple(map(called, part.outputs))
            for spec in outputs:
                self._keep(spec)
            self._stages.append(
                StageSpec(
                    id=StageId(step.id if len(parts) == 1 else f"{step.id}-{i}"),
                    nodes=(),
                    inputs=inputs,
                    outputs=outputs,
                    model=step.id,
                    ops=(part.start, part.stop),
                    sha256=Digest(part.sha256),
                    bytes=len(part.data),
                    file_names=tuple(
                        FileName(tensor=called(spec).name, file=spec.name)
                        for spec in (*part.inputs, *part.outputs)
                    ),
                    each=bool(rows),
                    threads=step.threads,
                )
            )
            self._blobs[Digest(part.sha256)] = part.data

    # --- the answer ---------------------------------------------------------------------

    def _outputs(self) -> tuple[TensorSpec, ...]:
        found: dict[str, TensorSpec] = {}
        for i, text in enumerate(self._pipeline.outputs):
            spec = self._specs[pick(text, self._made, f"outputs[{i}]")]
            if spec.name in found:
                raise PlanError(f"outputs[{i}]: {text!r} stands there twice")
            found[spec.name] = spec
        return tuple(found.values())

    def _join(self, outputs: tuple[TensorSpec, ...]) -> None:
        """One stage has all of the answer: the last one if it comes after all that make it, else one more."""
        last = self._stages[-1]
        makers = {spec.name: stage for stage in self._stages for spec in stage.outputs}
        before: set[str] = set()
        todo = [last]
        while todo:
            for spec in todo.pop().inputs:
                maker = makers.get(spec.name)
                if maker is not None and maker.id not in before:
                    before.add(maker.id)
                    todo.append(maker)
        if all(makers[spec.name].id in {last.id, *before} for spec in outputs):
            return
        join = StageSpec(id=StageId(ANSWER), nodes=(), inputs=outputs, outputs=outputs, transform=Join())
        self._stages.append(join)


def replace_name(spec: TensorSpec, name: str) -> TensorSpec:
    """The same tensor called otherwise."""
    return TensorSpec(name, spec.shape, spec.dtype)
