"""MobileNetV2 as a ``.tflite``: the published structure with random weights, made without TensorFlow.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
Times and sizes do not depend on the weights' values; answers are compared with the whole model's.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from tests.tflite_builder import ModelBuilder, SubgraphBuilder

_BLOCKS: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, repeats and first stride."""
# schema.fbs: ActivationFunctionType, Padding
_RELU6: Final = 3
_SAME: Final = 0


class _Layers:
    def __init__(self, graph: SubgraphBuilder, seed: int) -> None:
        self._graph, self._rng = graph, np.random.default_rng(seed)

    def _weights(self, shape: tuple[int, ...], fan_in: int) -> np.ndarray[Any, Any]:
        return self._rng.normal(0, math.sqrt(2 / fan_in), shape).astype(np.float32)

    def _windowed(
        self, kind: str, x: int, weights: np.ndarray[Any, Any], channels: int, stride: int, **fields: Any
    ) -> int:
        graph = self._graph
        n, height, width, _ = graph.shape_of(x)
        bias = self._rng.normal(0, 0.05, channels).astype(np.float32)
        number = len(graph.table.tensors)
        return graph.op(
            kind,
            [x, graph.const(f"w{number}", weights), graph.const(f"b{number}", bias)],
            name=f"y{number}",
            shape=[n, math.ceil(height / stride), math.ceil(width / stride), channels],
            fields={"padding": _SAME, "strideH": stride, "strideW": stride, **fields},
            options="Conv2DOptions" if kind == "CONV_2D" else "DepthwiseConv2DOptions",
        )

    def conv(self, x: int, channels: int, kernel: int, stride: int = 1, activation: int = _RELU6) -> int:
        """A convolution; a bottleneck's projection has no activation."""
        before = self._graph.shape_of(x)[-1]
        weights = self._weights((channels, kernel, kernel, before), kernel * kernel * before)
        return self._windowed("CONV_2D", x, weights, channels, stride, fusedActivationFunction=activation)

    def depthwise(self, x: int, stride: int) -> int:
        """A 3x3 convolution of each channel alone."""
        channels = self._graph.shape_of(x)[-1]
        weights = self._weights((1, 3, 3, channels), 9)
        fields = {"fusedActivationFunction": _RELU6, "depthMultiplier": 1}
        return self._windowed("DEPTHWISE_CONV_2D", x, weights, channels, stride, **fields)

    def bottleneck(self, x: int, expansion: int, channels: int, stride: int) -> int:
        """Expand, filter, project, and add where shapes allow."""
        before = self._graph.shape_of(x)[-1]
        y = self.conv(x, expansion * before, 1) if expansion != 1 else x
        y = self.conv(self.depthwise(y, stride), channels, 1, activation=0)
        return self._graph.add(x, y) if stride == 1 and before == channels else y

    def classify(self, x: int, classes: int) -> int:
        """Mean over the image, one dense layer, softmax."""
        graph = self._graph
        axes = graph.const("axes", [1, 2], "int32")
        channels = graph.shape_of(x)[-1]
        mean = graph.op("MEAN", [x, axes], shape=[1, channels], options="ReducerOptions")
        logits = graph.dense(mean, self._weights((classes, channels), channels))
        return graph.op(
            "SOFTMAX", [logits], shape=[1, classes], options="SoftmaxOptions", fields={"beta": 1.0}
        )


def mobilenet_v2(side: int = 224, classes: int = 1000, seed: int = 0) -> bytes:
    """MobileNetV2 of width 1 for float32 images [1, side, side, 3]."""
    builder = ModelBuilder()
    graph = builder.main
    layers = _Layers(graph, seed)
    x = layers.conv(graph.input("image", [1, side, side, 3]), 32, 3, stride=2)
    for expansion, channels, repeats, stride in _BLOCKS:
        for i in range(repeats):
            x = layers.bottleneck(x, expansion, channels, stride if i == 0 else 1)
    graph.output(layers.classify(layers.conv(x, 1280, 1), classes))
    return builder.build()
