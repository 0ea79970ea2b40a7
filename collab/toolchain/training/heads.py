"""Trained models for new classes: another classifier on top, what is below it kept or frozen."""

from __future__ import annotations

from typing import Any, Final

from collab.errors import ModelError, UsageError
from collab.toolchain.zoo.options import nearest

_SIZES: Final = {"Dense": "units", "Conv2D": "filters", "Conv1D": "filters"}
"""Layers that give scores of classes, and which setting says how many."""


def new_head(keras: Any, model: Any, classes: int, seed: int) -> Any:
    """The model with a new, untrained last layer for so many classes; other weights are kept.

    Raises:
        ModelError: its last layer with weights is of no kind that gives scores of classes.
    """
    weighty = [layer for layer in model.layers if layer.weights]
    head = weighty[-1] if weighty else None
    if type(head).__name__ not in _SIZES:
        found = "has none" if head is None else f"is {type(head).__name__} {head.name!r}"
        raise ModelError(
            f"a new head replaces the last layer with weights, a {', '.join(_SIZES)}; the model's {found}"
        )

    def layer(old: Any) -> Any:
        config = old.get_config()
        if old is head:
            config[_SIZES[type(head).__name__]] = classes
        return type(old).from_config(config)

    keras.utils.set_random_seed(seed)
    made = keras.models.clone_model(model, clone_function=layer)
    for old, new in zip(model.layers, made.layers, strict=True):
        if old is not head:
            new.set_weights(old.get_weights())
    if len(model.inputs) == 1:
        # A clone wants its one input in a list.
        made = keras.Model(made.inputs[0], made.outputs[0])
    return made


def freeze_to(model: Any, name: str) -> None:
    """Keep a layer and all before it as they are; raises `UsageError` where there is none of that name."""
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise UsageError(f"--freeze-to {name}: the model has no such layer; {nearest(name, names)}")
    for layer in model.layers[: names.index(name) + 1]:
        layer.trainable = False
    if not model.trainable_variables:
        raise UsageError(f"--freeze-to {name}: nothing is left to train; name an earlier layer")


def unfreeze(model: Any) -> None:
    """Let all layers train again."""
    for layer in model.layers:
        layer.trainable = True


def check_fits(model: Any, shape: tuple[int, ...], classes: int) -> None:
    """Make sure that a model takes the data's inputs and tells its classes apart; raises `ModelError`."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError("the model has several inputs or outputs; training takes one of each")
    takes, gives = tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])
    if takes != tuple(shape):
        raise ModelError(
            f"the model takes inputs {list(takes)}, the data has {list(shape)}: prepare the data for it"
        )
    if gives != (classes,):
        raise ModelError(
            f"the model answers {list(gives)}, the data has {classes} classes: give --new-head, "
            "or a model for that many"
        )
