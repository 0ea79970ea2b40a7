"""Transforms as loaded stages, and files that are run for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array, check_array
from collab.core.plan import StageSpec
from collab.core.tensor import TensorSpec
from collab.core.transform_shapes import axis_of, made, stacked
from collab.core.transforms import (
    CentrePoints,
    Crop,
    DecodeBoxes,
    Dequantise,
    Nms,
    Normalise,
    Quantise,
    Resize,
    Unletterbox,
    kind_of,
)
from collab.errors import PlanError, TensorError
from collab.runtime.base import LoadedStage
from collab.runtime.transforms import arrays, boxes
from collab.runtime.transforms.images import Cropping, Resizing

Run = Callable[[Sequence[Array]], Sequence[Array]]
Specs = tuple[TensorSpec, ...]


def _resize(t: Resize, inputs: Specs) -> Run:
    resizing = Resizing(t, *inputs[0].shape[1:3])
    return lambda given: (resizing(given[0]),)


def _crop(t: Crop, inputs: Specs) -> Run:
    cropping = Cropping(t)

    def run(given: Sequence[Array]) -> Sequence[Array]:
        found = given[1].reshape(-1, 4)
        count = len(found) if len(given) == 2 else rows_of(given[2], len(found))
        return (cropping(given[0], found, count),)

    return run


def _nms(t: Nms, inputs: Specs) -> Run:
    return lambda given: boxes.suppress(t, *given)


def _decode(t: DecodeBoxes, inputs: Specs) -> Run:
    anchors = boxes.anchors_of(t.anchors)

    def run(given: Sequence[Array]) -> Sequence[Array]:
        scores = [boxes.sigmoid(raw.reshape(len(anchors), -1)) for raw in given[1:]]
        return (boxes.decode(t, anchors, given[0]), *scores)

    return run


def _centres(t: CentrePoints, inputs: Specs) -> Run:
    return lambda given: boxes.centre_points(given[0], given[1], given[2] if len(given) == 3 else None)


def _unletterbox(t: Unletterbox, inputs: Specs) -> Run:
    return lambda given: (boxes.unletterbox(t.image, t.size, given[0]),)


def _normalise(t: Normalise, inputs: Specs) -> Run:
    return lambda given: (arrays.normalise(t, given[0]),)


def _quantise(t: Quantise, inputs: Specs) -> Run:
    return lambda given: (arrays.quantise(t, given[0]),)


def _dequantise(t: Dequantise, inputs: Specs) -> Run:
    return lambda given: (arrays.dequantise(t, given[0]),)


def _reshape(t: Any, inputs: Specs) -> Run:
    return lambda given: (given[0].reshape(t.shape),)


def _select(t: Any, inputs: Specs) -> Run:
    at = (*(slice(None),) * axis_of(t.axis, inputs[0]), slice(t.start, t.stop))
    return lambda given: (given[0][at],)


MAKERS: Final[dict[str, Callable[[Any, Specs], Run]]] = {
    "resize": _resize,
    "crop": _crop,
    "nms": _nms,
    "decode_boxes": _decode,
    "centre_points": _centres,
    "unletterbox": _unletterbox,
    "top_k": lambda t, inputs: lambda given: arrays.top_k(given[0], t.k),
    "softmax": lambda t, inputs: lambda given: (arrays.softmax(given[0]),),
    "normalise": _normalise,
    "cast": lambda t, inputs: lambda given: (arrays.saturated(given[0], t.dtype),),
    "quantise": _quantise,
    "dequantise": _dequantise,
    "reshape": _reshape,
    "select": _select,
    "concat": lambda t, inputs: lambda given: (np.concatenate(given, t.axis),),
    "join": lambda t, inputs: lambda given: given,
}
"""What makes a transform's function, by kind."""


def rows_of(count: Array, most: int) -> int:
    """A count as a number of rows, within what there is; none where it is no number."""
    value = float(count.reshape(-1)[0])
    return int(min(max(value, 0.0), most)) if np.isfinite(value) else 0


def _check(specs: Specs, given: Sequence[Array]) -> None:
    if len(given) != len(specs):
        raise TensorError(f"{len(given)} inputs came, {len(specs)} are needed")
    for spec, array in zip(specs, given, strict=True):
        check_array(spec, array)


class TransformStage(LoadedStage):
    """A transform, ready to run."""

    def __init__(self, stage: StageSpec) -> None:
        """Raises `PlanError` for a transform that cannot take what the stage reads."""
        assert stage.transform is not None
        self.inputs = stage.inputs
        wanted = made(stage.transform, stage.inputs)
        names = [spec.name for spec in stage.outputs]
        if len(names) != len(wanted):
            raise PlanError(f"stages ({stage.id}).outputs: {len(names)} of them, it makes {len(wanted)}")
        self.outputs = tuple(
            TensorSpec(name, shape, dtype) for name, (_, shape, dtype) in zip(names, wanted, strict=True)
        )
        self._run = MAKERS[kind_of(stage.transform)](stage.transform, stage.inputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Compute the outputs."""
        _check(self.inputs, inputs)
        return [np.ascontiguousarray(array) for array in self._run(inputs)]

    def close(self) -> None:
        """It holds nothing that must be freed."""
        self._run = partial(list)


class EachRow(LoadedStage):
    """A file that is run once for every row of what comes, up to a count."""

    def __init__(self, one: LoadedStage, stage: StageSpec) -> None:
        """Takes the loaded file over; `close` frees it."""
        self._one = one
        self._rows = stage.outputs[0].shape[0]
        self._counter = stage.inputs[len(one.inputs) :]
        self.inputs = (*(stacked(spec, self._rows) for spec in one.inputs), *self._counter)
        self.outputs = tuple(stacked(spec, self._rows) for spec in one.outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Compute the rows, and leave zeros past the count."""
        _check(self.inputs, inputs)
        count = rows_of(inputs[-1], self._rows) if self._counter else self._rows
        results = [np.zeros(spec.shape, spec.dtype) for spec in self.outputs]
        for row in range(count):
            given = [
                array[row].reshape(spec.shape) for spec, array in zip(self._one.inputs, inputs, strict=False)
            ]
            for result, answer in zip(results, self._one.run(given), strict=True):
                result[row] = answer.reshape(result.shape[1:])
        return results

    def close(self) -> None:
        """Free the file's memory."""
        self._one.close()
