"""Weights of a trainable model -> the file that serves, checked against the training graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError
from collab.federated.trainable import CALIBRATION, INFER, INITIAL, PARAMETER, read_description
from collab.federated.update import Parameters
from collab.graph import Graph
from collab.graph.schema import DTYPES
from collab.runtime.litert import LiteRT
from collab.toolchain.quantise import quantise
from collab.toolchain.trainable.bake import bake

CHECKED: Final = 8
"""Inputs on which the baked model must answer as the training graph does."""
_RTOL: Final = 1e-4
_SEED: Final = 0


Form = Literal["float32", "dynamic", "int8"]
"""How a model's weights are written; ``dynamic``: int8 weights, ``int8``: and activations."""


def form_of(graph: Graph) -> Form:
    """The form of a model that runs."""
    if any(spec.dtype == "int8" for spec in graph.inputs):
        return "int8"
    subgraph = graph.flat.subgraphs[graph.main]
    read = {t for operator in subgraph.operators for t in operator.inputs if t >= 0}
    constants = {t for t in read if graph.flat.buffers[subgraph.tensors[t].buffer] is not None}
    return "dynamic" if any(DTYPES.get(subgraph.tensors[t].type) == "int8" for t in constants) else "float32"


class Baker:
    """Bakes models of one trainable file, one after another.  Blocking; needs no TensorFlow.

    Args:
        trainable: the file that `export` wrote.
        form: what comes out.

    Raises:
        ModelError: it is not a trainable model, or has no calibration for int8.
    """

    def __init__(self, trainable: bytes, form: Form = "float32") -> None:
        self._trainable = trainable
        self._run = LiteRT().signatures(trainable)
        carried = self._run.run(INITIAL, {})
        if "description" not in carried:
            raise ModelError("signature 'initial' has no 'description': export the model again")
        self.description = read_description(carried["description"])
        self._calibration: NDArray[np.float32] | None = carried.get(CALIBRATION)
        self._form = form
        if form == "int8" and self._calibration is None:
            raise ModelError(
                "the running model is int8 and the trainable one carries no calibration: export it with some"
            )

    @property
    def samples(self) -> NDArray[np.float32]:
        """Inputs to try a model on: of the calibration, else made up."""
        if self._calibration is not None:
            return self._calibration[:CHECKED]
        shape = (CHECKED, *self.description.input_shape)
        return np.random.default_rng(_SEED).random(shape, np.float32)

    def __call__(self, parameters: Parameters) -> bytes:
        """The model with these weights.

        Raises:
            ModelError: it does not answer as the training graph does.
            TensorError: the weights are not those of the model, or not finite.
            BackendError: litert-quantizer is missing.
        """
        baked = bake(self._trainable, parameters)
        self._check(baked, parameters)
        if self._form == "float32":
            return baked
        if self._form == "dynamic" or self._calibration is None:
            return quantise(baked, None)
        return quantise(baked, list(self._calibration[:, None]), "x")

    def _check(self, baked: bytes, parameters: Parameters) -> None:
        given: Mapping[str, Any] = {f"{PARAMETER}{name}": value for name, value in parameters.items()}
        loaded = LiteRT().load(baked)
        try:
            for x in self.samples[:, None]:
                wanted = self._run.run(INFER, {"x": x, **given})["y"]
                (found,) = loaded.run([x])
                room = _RTOL * max(1.0, float(np.abs(wanted).max()))
                if not np.allclose(found, wanted, rtol=_RTOL, atol=room):
                    far = float(np.abs(found - wanted).max())
                    raise ModelError(f"the baked model answers otherwise than it was trained, by {far:.3g}")
        finally:
            loaded.close()
