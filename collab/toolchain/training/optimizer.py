"""Keras optimizers and learning rates of the settings."""

from __future__ import annotations

from typing import Any, Final

from collab.toolchain.training.settings import Settings

START: Final = 1 / 20
"""Share of the rate that a warm-up begins with."""
STEPS: Final = (0.5, 0.75)
"""Shares of the training after which `step` divides the rate by ten."""
LAST: Final = 0.01
"""Share of the rate that `exponential` ends with."""


def make_optimizer(keras: Any, settings: Settings, steps: int) -> Any:
    """The optimizer, for epochs of so many steps."""
    optimizers, rate = keras.optimizers, _rate(keras, settings, steps)
    decay = settings.weight_decay or None
    if settings.optimizer in ("sgd", "momentum"):
        momentum = 0.9 if settings.optimizer == "momentum" else 0.0
        return optimizers.SGD(rate, momentum=momentum, nesterov=bool(momentum), weight_decay=decay)
    if settings.optimizer == "adamw":
        return optimizers.AdamW(rate, weight_decay=0.004 if decay is None else decay)
    kinds = {"adam": optimizers.Adam, "rmsprop": optimizers.RMSprop}
    return kinds[settings.optimizer](rate, weight_decay=decay)


def _rate(keras: Any, settings: Settings, steps: int) -> Any:
    schedules, lr = keras.optimizers.schedules, settings.lr
    total, warm = steps * settings.epochs, round(steps * settings.warmup)
    if settings.schedule == "step":
        bounds = [max(round(share * total), index) for index, share in enumerate(STEPS, 1)]
        return schedules.PiecewiseConstantDecay(bounds, [lr, lr / 10, lr / 100])
    if settings.schedule == "exponential":
        return schedules.ExponentialDecay(lr, total, LAST)
    if settings.schedule == "constant" and not warm:
        return lr
    # A cosine that ends where it began is a constant with a warm-up before it.
    alpha = 1.0 if settings.schedule == "constant" else 0.0
    if not warm:
        return schedules.CosineDecay(lr, total, alpha)
    return schedules.CosineDecay(lr * START, total - warm, alpha, warmup_target=lr, warmup_steps=warm)
