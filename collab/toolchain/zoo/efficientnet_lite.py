"""EfficientNet-lite0: B0 without squeeze-and-excite, ReLU6 for swish, stem and head not scaled.

As published in the TPU repository's ``efficientnet/lite``; B0's blocks are those of Tan and Le,
2019, arXiv:1905.11946, table 1.
"""

from __future__ import annotations

from typing import Any, Final

from collab.toolchain.zoo.frame import classifier, picture_input
from collab.toolchain.zoo.options import LiteOptions

STEM: Final = 32
HEAD: Final = 1280
BLOCKS: Final = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, filters, repeats, stride of the first, kernel."""


def efficientnet_lite0(keras: Any, shape: tuple[int, ...], classes: int, options: LiteOptions) -> Any:
    """EfficientNet-lite0."""
    layers = keras.layers

    def normed(x: Any, name: str, active: bool = True) -> Any:
        x = layers.BatchNormalization(momentum=options.norm_momentum, epsilon=1e-3, name=f"{name}_norm")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if active else x

    def convolve(x: Any, filters: int, kernel: int, stride: int, name: str, active: bool = True) -> Any:
        made = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)
        return normed(made, name, active)

    def block(x: Any, expansion: int, filters: int, stride: int, kernel: int, name: str) -> Any:
        inner = x if expansion == 1 else convolve(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
        inner = layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
        )(inner)
        inner = normed(inner, f"{name}_depthwise")
        inner = convolve(inner, filters, 1, 1, f"{name}_project", active=False)
        if stride != 1 or x.shape[-1] != filters:
            return inner
        return layers.Add(name=f"{name}_add")([x, inner])

    given, x = picture_input(layers, shape, options)
    x = convolve(x, STEM, 3, options.stem_stride, "stem")
    for index, (expansion, filters, repeats, stride, kernel) in enumerate(BLOCKS, 1):
        for repeat in range(repeats):
            x = block(x, expansion, filters, 1 if repeat else stride, kernel, f"block{index}_{repeat + 1}")
    x = convolve(x, HEAD, 1, 1, "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(options.dropout, name="dropout")(x)
    return keras.Model(given, classifier(layers, x, classes, options.logits))
