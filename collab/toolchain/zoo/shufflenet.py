"""ShuffleNet V2 (Ma et al., 2018, arXiv:1807.11164, figure 3 c and d, table 5)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from collab.toolchain.zoo.frame import classifier, picture_input
from collab.toolchain.zoo.options import ShuffleNetOptions

STEM: Final = 24
REPEATS: Final = (4, 8, 4)
WIDTHS: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "0_5x": (48, 96, 192, 1024),
    "1x": (116, 232, 464, 1024),
    "1_5x": (176, 352, 704, 1024),
    "2x": (244, 488, 976, 2048),
}
"""Channels of stages 2 to 4 and of conv5."""


def _shufflenet(
    width: str, keras: Any, shape: tuple[int, ...], classes: int, options: ShuffleNetOptions
) -> Any:
    layers = keras.layers

    def normed(x: Any, name: str, active: bool) -> Any:
        x = layers.BatchNormalization(momentum=options.norm_momentum, epsilon=1e-5, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if active else x

    def convolve(x: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
        x = layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_uniform",
            name=name,
        )(x)
        return normed(x, name, True)

    def depthwise(x: Any, stride: int, name: str) -> Any:
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=name)(x)
        return normed(x, name, False)

    def branch(x: Any, filters: int, stride: int, name: str) -> Any:
        x = convolve(x, filters, 1, 1, f"{name}_in")
        return convolve(depthwise(x, stride, f"{name}_depthwise"), filters, 1, 1, f"{name}_out")

    def unit(x: Any, filters: int, stride: int, name: str) -> Any:
        half = filters // 2
        if stride == 1:
            kept, x = keras.ops.split(x, 2, axis=-1)
        else:
            kept = convolve(depthwise(x, 2, f"{name}_down_depthwise"), half, 1, 1, f"{name}_down")
        joined = layers.Concatenate(name=f"{name}_join")([kept, branch(x, half, stride, name)])
        return shuffled(layers, joined, name)

    given, x = picture_input(layers, shape, options)
    x = convolve(x, STEM, 3, options.stem_stride, "conv1")
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    *stages, last = WIDTHS[width]
    for stage, (filters, repeats) in enumerate(zip(stages, REPEATS, strict=True), 2):
        for repeat in range(repeats):
            x = unit(x, filters, 1 if repeat else 2, f"stage{stage}_{repeat + 1}")
    x = convolve(x, last, 1, 1, "conv5")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if options.dropout:
        x = layers.Dropout(options.dropout, name="dropout")(x)
    return keras.Model(given, classifier(layers, x, classes, options.logits))


def shuffled(layers: Any, x: Any, name: str, groups: int = 2) -> Any:
    """Channels of the groups in turn, by reshapes and a transposition, which every runtime has."""
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height, width, groups, channels // groups), name=f"{name}_apart")(x)
    x = layers.Permute((1, 2, 4, 3), name=f"{name}_shuffle")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_together")(x)


shufflenet_v2_0_5x = partial(_shufflenet, "0_5x")
shufflenet_v2_1x = partial(_shufflenet, "1x")
shufflenet_v2_1_5x = partial(_shufflenet, "1_5x")
shufflenet_v2_2x = partial(_shufflenet, "2x")
