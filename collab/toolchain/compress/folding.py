"""Batch normalisation folded into the layer before it: the same function with fewer numbers."""

from __future__ import annotations

import numpy as np

from collab.toolchain.compress.network import Array, Network, Node

_OUT_AXIS = {"Conv1D": -1, "Conv2D": -1, "Dense": -1, "DepthwiseConv2D": 2}


def fold_batch_norms(network: Network) -> Network:
    """Fold every batch norm that directly follows a linear layer which nothing else reads."""
    for norm in [node for node in network.nodes if node.kind == "BatchNormalization"]:
        before = network.node(norm.inputs[0].node)
        alone = len(network.readers(before.name)) == 1 and not any(
            ref.node == before.name for ref in network.outputs
        )
        if before.kind in _OUT_AXIS and alone and before.config["activation"] == "linear":
            folded = _folded(before, norm)
            network = network.changed({before.name: folded}).without(norm.name, norm.inputs[0])
    return network


def _folded(layer: Node, norm: Node) -> Node:
    kernel = layer.weight("kernel")
    mean, variance = norm.weight("moving_mean"), norm.weight("moving_variance")
    assert kernel is not None
    assert mean is not None
    assert variance is not None
    gamma, beta, bias = norm.weight("gamma"), norm.weight("beta"), layer.weight("bias")
    scale = 1.0 / np.sqrt(variance.astype(np.float64) + norm.config["epsilon"])
    scale = scale if gamma is None else scale * gamma
    shift = ((0.0 if bias is None else bias) - mean) * scale + (0.0 if beta is None else beta)
    scaled: Array = (kernel * _along(scale, kernel.ndim, layer)).astype(np.float32)
    return layer.with_config(use_bias=True).with_weights(kernel=scaled, bias=shift.astype(np.float32))


def _along(scale: np.ndarray[tuple[int, ...], np.dtype[np.float64]], rank: int, layer: Node) -> Array:
    """One factor for each channel that goes out, in the kernel's rank."""
    axis = _OUT_AXIS[layer.kind] % rank
    if layer.kind == "DepthwiseConv2D":
        multiplier = layer.config["depth_multiplier"]
        return scale.reshape(1, 1, -1, multiplier)  # type: ignore[return-value]
    return scale.reshape([-1 if at == axis else 1 for at in range(rank)])  # type: ignore[return-value]
