"""What a packaged model takes of what its preprocessing makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from collab.core.plan import Plan
from collab.core.preprocessing import Preprocessing
from collab.errors import ModelError
from collab.runtime.preprocessing.quantised import to_integers
from collab.runtime.preprocessing.scaling import Floats
from collab.updates.bundle.manifest import Port
from collab.updates.bundle.read import Bundle


def check_input(inputs: Sequence[Port], preprocessing: Preprocessing) -> None:
    """Make sure that a model takes what a preprocessing makes; raises `ModelError`."""
    if len(inputs) != 1:
        names = ", ".join(repr(port.name) for port in inputs)
        raise ModelError(f"the model has inputs {names}; a preprocessing makes one")
    port, shape = inputs[0], preprocessing.input_shape
    if port.shape not in (shape, (1, *shape)):
        raise ModelError(
            f"the model takes {list(port.shape)} and the preprocessing makes {list((1, *shape))}; "
            "give the preprocessing that it was trained with"
        )
    if port.dtype != "float32" and port.quantisation is None:
        raise ModelError(
            f"input {port.name!r} is {port.dtype} without a quantisation; convert the model anew"
        )


def model_inputs(port: Port, examples: Floats) -> NDArray[Any]:
    """Examples as a model takes them: with its batch axis of 1, quantised where it is."""
    shaped = examples.reshape(len(examples), *port.shape)
    return shaped if port.quantisation is None else to_integers(shaped, port.quantisation, port.dtype)


def check_plan(bundle: Bundle, plan: Plan) -> None:
    """Make sure that a bundle is of a plan's model, or of what its weights came of; raises `ModelError`."""
    known = {digest for model in plan.models for digest in (model.sha256, model.lineage)}
    if bundle.manifest.model.sha256 not in known:
        raise ModelError(
            f"{bundle.path}: is of another model than the plan; give the bundle that it was made from"
        )
    if [port.spec for port in bundle.manifest.inputs] != list(plan.inputs):
        raise ModelError(f"{bundle.path}: its inputs are not the plan's; make the plan anew")
