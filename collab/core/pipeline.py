"""A pipeline's file: models and transforms one after another, as people write it.

A step reads the plan's inputs as ``input.NAME`` and what earlier steps make as
``STEP.NAME``, or ``STEP`` alone where that makes one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import REQUESTER, check_name
from collab.core.plan import Frozen
from collab.core.transforms import Dtype, Transform
from collab.errors import InputError, PlanError

MAX_STEPS: Final = 64
MAX_INPUTS: Final = 32
INPUT: Final = "input"
"""What references to the plan's inputs begin with."""
ANSWER: Final = "answer"
"""The stage in which an answer's tensors meet where no step has them all."""


class InputSpec(Frozen, frozen=True, kw_only=True):
    """What the plan takes."""

    shape: tuple[int, ...]
    dtype: Dtype = "float32"


class Step(Frozen, frozen=True, kw_only=True):
    """A model or a transform."""

    id: str
    of: str | tuple[str, ...] | dict[str, str]
    """What it reads, in order; a model's inputs may be given by name instead."""
    model: str | None = None
    """A ``.tflite`` or a packaged model, looked up from the pipeline's file."""
    transform: Transform | None = None
    each: bool | str = False
    """Whether the model runs once for every row of what it reads; a reference says of how many."""
    at: tuple[int, ...] = ()
    """Where the model is cut, as ``collab model inspect`` numbers its operators."""
    threads: int = 1
    signature: str | None = None

    @property
    def references(self) -> tuple[str, ...]:
        """What it reads, a count of rows last."""
        given = (
            (self.of,)
            if isinstance(self.of, str)
            else tuple(self.of.values() if isinstance(self.of, dict) else self.of)
        )
        return (*given, self.each) if isinstance(self.each, str) else given


class Pipeline(Frozen, frozen=True, kw_only=True):
    """A pipeline's file."""

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    """What the answer holds, by reference."""
    name: str | None = None
    inputs: dict[str, InputSpec] = msgspec.field(default_factory=dict)
    """Those that only models read, as they are, may be left out."""


class Reference(NamedTuple):
    """A step, or `INPUT`, and a tensor of it; None stands for the only one."""

    step: str
    tensor: str | None


def reference(text: str) -> Reference:
    """Read ``STEP`` or ``STEP.NAME``; names may have dots."""
    step, dot, tensor = text.partition(".")
    return Reference(step, tensor if dot else None)


def convert_pipeline(tree: Any) -> Pipeline:
    """Build a checked pipeline from parsed YAML; raises `PlanError` naming the field."""
    try:
        pipeline = msgspec.convert(tree, type=Pipeline)
        msgspec.json.encode(pipeline)  # fails for half characters
    except (msgspec.ValidationError, RecursionError) as error:
        message, _, path = str(error).splitlines()[0].partition(" - at `$")
        raise PlanError(f"{path.rstrip('`').lstrip('.') or 'pipeline'}: {message}") from error
    except UnicodeEncodeError as error:
        raise PlanError("pipeline: a text in it is not valid Unicode") from error
    try:
        _check(pipeline)
    except PlanError:
        raise
    except InputError as error:
        raise PlanError(str(error)) from error
    return pipeline


def _check(pipeline: Pipeline) -> None:
    if not 1 <= len(pipeline.steps) <= MAX_STEPS:
        raise PlanError(f"steps: {len(pipeline.steps)} of them; give 1 to {MAX_STEPS}")
    if len(pipeline.inputs) > MAX_INPUTS:
        raise PlanError(f"inputs: {len(pipeline.inputs)} of them; give at most {MAX_INPUTS}")
    if not pipeline.outputs:
        raise PlanError("outputs: empty; name what the answer holds, such as boxes.boxes")
    if pipeline.name is not None:
        check_name(pipeline.name, "name:")
    known: set[str] = {INPUT}
    for i, step in enumerate(pipeline.steps):
        where = f"steps[{i}] ({step.id})"
        check_name(step.id, f"steps[{i}].id:")
        if step.id in known or step.id in (REQUESTER, ANSWER):
            raise PlanError(f"{where}.id: is taken; names must differ, and not be input or {ANSWER}")
        _check_step(step, where)
        for text in step.references:
            check_reference(text, known, where)
        known.add(step.id)
    for i, text in enumerate(pipeline.outputs):
        check_reference(text, known - {INPUT}, f"outputs[{i}]")
    _check_use(pipeline)


def _check_step(step: Step, where: str) -> None:
    if (step.model is None) == (step.transform is None):
        raise PlanError(f"{where}: give a model or a transform, and not both")
    if step.transform is not None:
        for field, given in (("each", step.each), ("at", step.at), ("signature", step.signature)):
            if given:
                raise PlanError(f"{where}.{field}: only models have it; leave it out")
        if isinstance(step.of, dict):
            raise PlanError(f"{where}.of: a transform takes its inputs in order; give a list")
    if not step.references:
        raise PlanError(f"{where}.of: empty; a step reads something")
    if not 1 <= step.threads <= 256:
        raise PlanError(f"{where}.threads: {step.threads}; give 1 to 256")


def check_reference(text: str, known: set[str], where: str) -> None:
    """Raise `PlanError` where a reference names nothing that is there."""
    if reference(text).step not in known:
        there = ", ".join(sorted(known)) or "none"
        raise PlanError(f"{where}: {text[:80]!r} is of no step before it; there are {there}")


def _check_use(pipeline: Pipeline) -> None:
    """Every step serves some output."""
    wanted = {reference(text).step for text in pipeline.outputs}
    for step in reversed(pipeline.steps):
        if step.id not in wanted:
            raise PlanError(f"steps ({step.id}): nothing of it reaches an output; leave it out")
        wanted |= {reference(text).step for text in step.references}


def pick(text: str, made: Mapping[str, Sequence[str]], where: str) -> str:
    """The plan's name of what a reference means: ``STEP.NAME``, or an input's own name.

    Args:
        text: the reference.
        made: what each step makes, and `INPUT` the inputs.
        where: what is read, for messages.

    Raises:
        PlanError: it names no tensor, or one of several without a name.
    """
    found = reference(text)
    names = list(made[found.step])
    if found.tensor is None:
        if len(names) != 1:
            raise PlanError(f"{where}: {text!r} makes {', '.join(names)}; say which, as {text}.{names[0]}")
        tensor = names[0]
    elif found.tensor in names:
        tensor = found.tensor
    elif found.tensor.isdigit() and int(found.tensor) < len(names):
        tensor = names[int(found.tensor)]
    else:
        raise PlanError(f"{where}: {found.step!r} has no {found.tensor[:80]!r}; it has {', '.join(names)}")
    return tensor if found.step == INPUT else f"{found.step}.{tensor}"


prepare(Pipeline)
