"""Training on the bare LiteRT runtime: a trainable ``.tflite`` and no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collab.errors import ModelError
from collab.federated import trainable as names
from collab.federated.data.examples import Data
from collab.federated.trainable import Description, read_description
from collab.federated.trainers.local import Batch, Budget, LocalTrainer, Step
from collab.federated.update import Parameters
from collab.runtime.litert import LiteRT, Signatures


class LiteRtEngine:
    """Gradients by the signatures of a trainable model (`collab.federated.trainable`)."""

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        """Load it.

        Raises:
            ModelError: the file is not a trainable model.
        """
        self._run: Signatures = LiteRT().signatures(model, threads)
        wanted = (names.TRAIN, names.EVALUATE, names.INFER, names.INITIAL)
        if missing := [name for name in wanted if name not in self._run.names]:
            raise ModelError(
                f"the model has no signature {missing[0]!r}: make it with `collab model export-trainable`"
            )
        made = self._run.run(names.INITIAL, {})
        if "description" not in made:
            raise ModelError("signature 'initial' has no 'description': export the model again")
        self.description: Description = read_description(made["description"])
        self.initial: Parameters = {
            weight.name: made[names.PARAMETER + weight.name] for weight in self.description.weights
        }
        self._check()

    def _check(self) -> None:
        given = self._run.inputs(names.TRAIN)
        for weight in self.description.weights:
            spec = given.get(names.PARAMETER + weight.name)
            if spec is None or spec.shape != weight.shape or self.initial[weight.name].shape != weight.shape:
                raise ModelError(
                    f"parameter {weight.name!r} differs between signatures: export the model again"
                )

    @property
    def step_bytes(self) -> int:
        """About how much memory a step takes beside data and weights."""
        return self.description.step_bytes

    def step(self, parameters: Parameters, batch: Batch) -> Step:
        """See `Engine`."""
        inputs = _inputs(parameters, batch)
        for layer, mask in batch.masks.items():
            inputs[names.MASK + layer] = mask
        made = self._run.run(names.TRAIN, inputs)
        gradients, statistics = {}, {}
        for weight in self.description.weights:
            if weight.trainable:
                gradients[weight.name] = made[names.GRADIENT + weight.name]
            else:
                statistics[weight.name] = made[names.STATISTIC + weight.name]
        return Step(float(made["loss"]), float(made["correct"]), gradients, statistics)

    def measure(self, parameters: Parameters, batch: Batch) -> tuple[float, float]:
        """See `Engine`."""
        made = self._run.run(names.EVALUATE, _inputs(parameters, batch))
        return float(made["loss"]), float(made["correct"])


def _inputs(parameters: Parameters, batch: Batch) -> dict[str, Any]:
    inputs: dict[str, Any] = {names.PARAMETER + name: value for name, value in parameters.items()}
    inputs |= {"x": batch.x, "y": batch.y, "weight": batch.weight}
    return inputs


class LiteRtTrainer(LocalTrainer):
    """Trains a trainable model where TensorFlow is not."""

    def __init__(
        self, model: Path | bytes, data: Data, *, budget: Budget = Budget(), threads: int = 1
    ) -> None:
        """Load the model and check the data.

        Raises:
            ModelError: the file is not a trainable model.
            TensorError: the data does not fit the model.
            LimitExceeded: the budget is too small for the model and the data.
        """
        super().__init__(LiteRtEngine(model, threads), data, budget)
