"""What the server and its models say of themselves, in either protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from collab import __version__
from collab.core.tensor import TensorSpec
from collab.serving.batch import batchable
from collab.serving.datatypes import from_numpy
from collab.serving.offers import Offer

NAME: Final = "collab"
VERSION: Final = __version__
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "parameters", "schedule_policy")
"""Triton's names of the extensions that are here."""
PLATFORM: Final = "collab_plan"


def model_metadata(offer: Offer) -> dict[str, Any]:
    """A plan's name, epoch, inputs and outputs; an axis of -1 takes a batch."""
    plan = offer.plan
    batch = batchable(plan)

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.name,
                "datatype": from_numpy(spec.dtype),
                "shape": [-1, *spec.shape[1:]] if batch else list(spec.shape),
            }
            for spec in specs
        ]

    return {
        "name": plan.name,
        "versions": [offer.version],
        "platform": PLATFORM,
        "inputs": tensors(plan.inputs),
        "outputs": tensors(plan.outputs),
    }
