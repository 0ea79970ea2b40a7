"""From a model and the prepared data that it was made with to what devices compare theirs with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.coordinator.planning import whole_model
from collab.core.preprocessing import ImageSteps
from collab.errors import InputError
from collab.graph import Graph
from collab.runtime.combiners import probabilities
from collab.runtime.preprocessing.scaling import Floats, pixels_to_floats
from collab.toolchain.data.prepared import Prepared, SplitName
from collab.updates.bundle.inputs import model_inputs
from collab.updates.bundle.manifest import Port
from collab.updates.policies.reference import ReferenceFile, reference_features
from collab.updates.policies.state import MAX_FEATURES

EXAMPLES: Final = 2_000
"""Of the training split, evenly spread, whose features are counted: 200 in each of ten bins."""
JUDGED: Final = 500
"""Of the test split that the model answers."""
_LEAST: Final = 50


def make_reference(graph: Graph, inputs: Sequence[Port], prepared: Prepared) -> ReferenceFile | None:
    """What inputs are like in training, and answers on the test split; None for too few examples.

    Raises:
        InputError: a file cannot be read.
    """
    seen, _ = _spread(prepared, "train", EXAMPLES)
    if len(inputs) != 1 or len(seen) < _LEAST:
        return None
    (port,) = inputs
    features = reference_features(port.name, model_inputs(port, seen), port.shape, MAX_FEATURES)
    accuracy, confidence, margin = _answers(graph, port, *_spread(prepared, "test", JUDGED))
    return ReferenceFile(
        examples=len(seen),
        features=tuple(features),
        accuracy=accuracy,
        confidence=confidence,
        margin=margin,
    ).check()


def _answers(
    graph: Graph, port: Port, examples: Floats, labels: NDArray[np.int64]
) -> tuple[float | None, float | None, float | None]:
    """Accuracy, confidence and margin of a model whose one output is a row of scores."""
    shape = graph.outputs[0].shape if len(graph.outputs) == 1 else ()
    classes = shape[-1] if shape else 0
    if classes < 2 or int(np.prod(shape)) != classes or len(examples) < _LEAST:
        return None, None, None
    run = whole_model(graph)
    scores = np.stack([run([one])[0].reshape(-1) for one in model_inputs(port, examples)])
    if not np.isfinite(scores.astype(np.float64)).all():
        raise InputError("the model's answers on the test split are not finite; train it anew")
    given: NDArray[np.float64] = np.sort(probabilities(scores), axis=-1)
    right = scores.argmax(axis=-1) == labels
    return float(right.mean()), float(given[:, -1].mean()), float((given[:, -1] - given[:, -2]).mean())


def _spread(prepared: Prepared, split: SplitName, most: int) -> tuple[Floats, NDArray[np.int64]]:
    """Examples of a split as a model takes them, evenly spread: the whole split may not fit the memory."""
    raw = prepared.raw(split)
    step = max(1, -(-len(raw.labels) // most))
    stored, steps = raw.stored[::step], prepared.preprocessing.steps
    inputs = pixels_to_floats(stored, steps) if isinstance(steps, ImageSteps) else stored
    return inputs, raw.labels[::step]
