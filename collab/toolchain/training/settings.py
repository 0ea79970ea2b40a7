"""How a model is trained: checked settings, written as JSON into the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from collab.core.plan import Frozen
from collab.errors import UsageError
from collab.toolchain.training.augment import Augment

Schedule = Literal["constant", "cosine", "step", "exponential"]
Optimizer = Literal["adam", "adamw", "sgd", "momentum", "rmsprop"]
Monitor = Literal["val_accuracy", "val_loss"]
WARMED: Final = ("constant", "cosine")
"""Schedules that a warm-up can precede."""


class Settings(Frozen, frozen=True, kw_only=True):
    """What decides the weights that come out, beside the model and the data.

    Attributes:
        epochs: passes over the training split, at most.
        batch: examples of a step.
        lr: learning rate, the highest of a schedule.
        schedule: how the rate falls over all the steps.
        warmup: epochs in which it rises to ``lr`` first.
        weight_decay: decoupled, of AdamW's kind, for every optimizer.
        augment: changes to the training inputs, drawn anew in each epoch.
        early_stopping: epochs without a better ``monitor`` after which it ends; ``None`` never.
        monitor: what the best epoch is the best in; its weights are kept.
        class_weights: ``balanced`` weighs examples by how rare their class is.
        freeze_to: name of a layer; it and those before it stay as they are.
        seed: of the order of examples, the augmentation and dropout.
    """

    epochs: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    batch: Annotated[int, Meta(ge=1, le=65_536)] = 64
    lr: Annotated[float, Meta(gt=0, le=100)] = 1e-3
    optimizer: Optimizer = "adam"
    schedule: Schedule = "constant"
    warmup: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.0
    augment: Augment = Augment()
    early_stopping: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    monitor: Monitor = "val_accuracy"
    class_weights: Literal["none", "balanced"] = "none"
    freeze_to: str | None = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Check settings; raises `UsageError` that names the option."""
    try:
        settings = msgspec.convert(dict(given), Settings, strict=False)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$.")
        option = path.rstrip("`").replace("_", "-")
        raise UsageError(f"--{option}: {said}" if option else said) from error
    if settings.warmup and settings.schedule not in WARMED:
        raise UsageError(f"--warmup: goes with --schedule {' or '.join(WARMED)}, not {settings.schedule}")
    if settings.warmup >= settings.epochs:
        raise UsageError(f"--warmup {settings.warmup:g}: must be shorter than the {settings.epochs} epochs")
    return settings


def changed(kept: Settings, given: Mapping[str, Any]) -> list[str]:
    """Options that were given and differ from those of a run that is gone on with."""
    wanted = msgspec.structs.asdict(read_settings(msgspec.to_builtins(kept) | dict(given)))
    return [name for name, value in msgspec.structs.asdict(kept).items() if wanted[name] != value]
