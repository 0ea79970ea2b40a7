"""SqueezeNet 1.0 and 1.1 (Iandola et al., 2016, arXiv:1602.07360; 1.1 is its authors' later release)."""

from __future__ import annotations

from typing import Any, Final

from collab.toolchain.zoo.frame import picture_input
from collab.toolchain.zoo.options import SqueezeNetOptions

FIRES: Final = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Filters that squeeze, and of each kind that expand: fire2 to fire9 (table 1)."""


def squeezenet_1_0(keras: Any, shape: tuple[int, ...], classes: int, options: SqueezeNetOptions) -> Any:
    """SqueezeNet 1.0: pooled after conv1, fire4 and fire8."""
    return _squeezenet(keras, shape, classes, options, (96, 7), (4, 8))


def squeezenet_1_1(keras: Any, shape: tuple[int, ...], classes: int, options: SqueezeNetOptions) -> Any:
    """SqueezeNet 1.1: smaller first filters, pooled after conv1, fire3 and fire5."""
    return _squeezenet(keras, shape, classes, options, (64, 3), (3, 5))


def _squeezenet(
    keras: Any,
    shape: tuple[int, ...],
    classes: int,
    options: SqueezeNetOptions,
    stem: tuple[int, int],
    pooled_after: tuple[int, int],
) -> Any:
    layers = keras.layers

    def convolve(x: Any, filters: int, kernel: int, name: str, stride: int = 1, active: bool = True) -> Any:
        return layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same",
            activation="relu" if active else None,
            kernel_initializer="he_uniform",
            name=name,
        )(x)

    given, x = picture_input(layers, shape, options)
    x = convolve(x, *stem, name="conv1", stride=options.stem_stride)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    for number, (squeeze, expand) in enumerate(FIRES, 2):
        x = convolve(x, squeeze, 1, f"fire{number}_squeeze")
        sides = [convolve(x, expand, kernel, f"fire{number}_expand{kernel}") for kernel in (1, 3)]
        x = layers.Concatenate(name=f"fire{number}")(sides)
        if number in pooled_after:
            x = layers.MaxPooling2D(3, 2, padding="same", name=f"pool{number}")(x)
    x = layers.Dropout(options.dropout, name="dropout")(x)
    x = convolve(x, classes, 1, "logits", active=False)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(given, x if options.logits else layers.Softmax(name="probabilities")(x))
