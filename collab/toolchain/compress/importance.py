"""How much each class of channels matters, and which of them go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from collab.toolchain.compress.channels import Channels, is_maker
from collab.toolchain.compress.network import Array, Network, Node, Ref

Importance = Literal["l1", "scale", "activation"]
IMPORTANCES: Final = get_args(Importance)
MULTIPLE: Final = 4
"""Widths are rounded to it: kernels work on that many channels at a time."""

Scores = Mapping[str, NDArray[np.float64]]
"""Of each layer's channels; averages are 1, so that layers can be compared."""


def l1_scores(network: Network) -> Scores:
    """Mean magnitude of the weights that make each channel."""
    return {node.name: _even(_magnitude(node)) for node in network.nodes if is_maker(node)}


def scale_scores(network: Network) -> Scores:
    """Magnitude of the batch norm's scale right behind each layer, else that of its weights."""
    scores: dict[str, NDArray[np.float64]] = dict(l1_scores(network))
    for node in network.nodes:
        gamma = node.weight("gamma") if node.kind == "BatchNormalization" else None
        if gamma is not None and node.inputs[0].node in scores:
            scores[node.inputs[0].node] = _even(np.abs(gamma.astype(np.float64)))
    return scores


def activation_scores(network: Network, activations: Mapping[str, Array]) -> Scores:
    """Mean magnitude of what comes out of each layer's activation on real inputs."""
    scores: dict[str, NDArray[np.float64]] = dict(l1_scores(network))
    for name, seen in activations.items():
        scores[name] = _even(np.abs(seen.astype(np.float64)).reshape(-1, seen.shape[-1]).mean(axis=0))
    return scores


def _magnitude(node: Node) -> NDArray[np.float64]:
    kernel = node.weight("kernel")
    if kernel is None:
        kernel = node.weight("pointwise_kernel")
    assert kernel is not None
    mean: NDArray[np.float64] = np.abs(kernel.astype(np.float64)).reshape(-1, kernel.shape[-1]).mean(axis=0)
    return mean


def _even(values: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)


def least(channels: Channels, scores: Scores, share: float) -> frozenset[int]:
    """Classes to take out: of every space the least important ones, about ``share`` of it.

    A space keeps a multiple of `MULTIPLE` channels, and at least that many.
    """
    gone: set[int] = set()
    for names, numbers in channels.spaces().items():
        total = {number: 0.0 for number in numbers}
        for name in names:
            for at, number in enumerate(channels.of[Ref(name)].tolist()):
                if number in total:
                    total[number] += float(scores[name][at])
        keep = kept_of(len(numbers), 1.0 - share)
        order = sorted(numbers, key=lambda number: (-total[number], number))
        gone.update(order[keep:])
    return frozenset(gone)


def kept_of(count: int, share: float) -> int:
    """How many of ``count`` channels stay, a multiple of `MULTIPLE` where there are so many."""
    wanted = max(MULTIPLE, round(count * share / MULTIPLE) * MULTIPLE)
    return min(count, wanted)
