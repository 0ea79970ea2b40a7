"""What the server and its models say of themselves, in either protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from collab import __version__
from collab.core.tensor import TensorSpec
from collab.serving.batch import MAX_BATCH, batchable
from collab.serving.datatypes import from_numpy
from collab.serving.offers import Offer

NAME: Final = "collab"
VERSION: Final = __version__
EXTENSIONS: Final = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
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


def model_config(offer: Offer) -> dict[str, Any]:
    """A plan as Triton's configuration; where it takes a batch, that axis is not among the dims."""
    plan = offer.plan
    batch = batchable(plan)

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.name,
                "data_type": f"TYPE_{from_numpy(spec.dtype)}",
                "dims": list(spec.shape[1:] if batch else spec.shape),
            }
            for spec in specs
        ]

    return {
        "name": plan.name,
        "platform": PLATFORM,
        "backend": NAME,
        "max_batch_size": MAX_BATCH if batch else 0,
        "input": tensors(plan.inputs),
        "output": tensors(plan.outputs),
        "model_transaction_policy": {"decoupled": False},
    }


def model_statistics(offers: Sequence[Offer]) -> list[dict[str, Any]]:
    """What plans were asked so far."""
    return [
        {"name": offer.plan.name, "version": offer.version, **offer.statistics.told()} for offer in offers
    ]
