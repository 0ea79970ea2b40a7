"""The rules that stages keep which are transforms, or run their file for every row."""

from __future__ import annotations

from collab.core.plan import StageSpec
from collab.core.transform_shapes import check_counter, made
from collab.core.transforms import MAX_ROWS, kind_of
from collab.errors import PlanError


def check_program(stage: StageSpec, where: str) -> None:
    """Raise `PlanError` where a stage cannot be what it says."""
    if stage.transform is not None:
        _check_transform(stage, where)
    if stage.each:
        _check_rows(stage, where)


def _check_transform(stage: StageSpec, where: str) -> None:
    assert stage.transform is not None
    for field, given in (
        ("combine", stage.combine),
        ("ops", stage.ops),
        ("sha256", stage.sha256),
        ("file_names", stage.file_names or None),
    ):
        if given is not None:
            raise PlanError(f"{where}.transform: stands for the whole stage; leave {field} out")
    try:
        wanted = made(stage.transform, stage.inputs)
    except PlanError as error:
        raise PlanError(f"{where}.transform: {error}") from error
    kind = kind_of(stage.transform)
    if len(wanted) != len(stage.outputs):
        names = ", ".join(name for name, _, _ in wanted)
        raise PlanError(f"{where}.outputs: {len(stage.outputs)} of them; {kind} makes {names}")
    for spec, (name, shape, dtype) in zip(stage.outputs, wanted, strict=True):
        if (spec.shape, spec.dtype) != (shape, dtype):
            raise PlanError(
                f"{where}.outputs: {spec.name!r} is {spec.dtype}{list(spec.shape)}, the {name} of {kind} are "
                f"{dtype}{list(shape)}"
            )


def _check_rows(stage: StageSpec, where: str) -> None:
    if stage.sha256 is None:
        raise PlanError(f"{where}.each: only a file is run for each row; leave it out")
    rows = {spec.shape[0] for spec in stage.outputs if spec.shape}
    if len(rows) != 1 or any(not spec.shape for spec in stage.outputs):
        raise PlanError(f"{where}.each: its outputs have no leading axis of one length for the rows")
    (count,) = rows
    if not 1 <= count <= MAX_ROWS:
        raise PlanError(f"{where}.each: {count} rows; give 1 to {MAX_ROWS}")
    for i, spec in enumerate(stage.inputs):
        if spec.shape[:1] == (count,):
            continue
        if i == 0 or i + 1 < len(stage.inputs):
            raise PlanError(
                f"{where}.inputs: {spec.name!r} {list(spec.shape)} has not the {count} rows of the outputs"
            )
        try:
            check_counter(spec)
        except PlanError as error:
            raise PlanError(f"{where}.inputs: {error}") from error
