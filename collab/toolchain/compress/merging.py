"""Merging similar neurons: channels that compute nearly the same become one.

After batch norms are folded, a channel is its incoming weights and bias.  Where nothing but
positively homogeneous, channel-wise functions lie between it and its readers, two channels
whose weights point the same way differ by a factor, so one can stand for both when it gets
the other's outgoing weights times that factor (data-free pruning, Srinivas and Babu 2015,
arXiv:1507.06149; clusters in place of pairs).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.toolchain.compress.channels import Channels, is_maker
from collab.toolchain.compress.importance import kept_of
from collab.toolchain.compress.network import Network, Node, Ref
from collab.toolchain.compress.surgery import Merged

_HOMOGENEOUS: Final = frozenset(
    {
        *("ReLU", "LeakyReLU", "Relu", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "Flatten"),
        *("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "ZeroPadding2D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
        *("Reshape", "Cropping2D", "UpSampling2D", "Activation"),
    }
)


def alike(network: Network, channels: Channels, share: float) -> tuple[frozenset[int], Merged]:
    """Which classes go, about ``share`` of every space that can be merged, and who takes over."""
    gone: set[int] = set()
    merged: dict[int, tuple[int, float]] = {}
    for names, numbers in channels.spaces().items():
        if len(names) == 1 and _mergeable(network, names[0]):
            node = network.node(names[0])
            for number, heir, factor in _clusters(node, channels, numbers, kept_of(len(numbers), 1 - share)):
                gone.add(number)
                merged[number] = (heir, factor)
    return frozenset(gone), merged


def _mergeable(network: Network, name: str) -> bool:
    """Whether all the way from a layer to those that mix its channels is homogeneous."""
    node = network.node(name)
    if node.kind.startswith("Separable") or not _bends_alike(node):
        return False
    todo = [name]
    while todo:
        current = todo.pop()
        if any(ref.node == current for ref in network.outputs):
            return False
        for reader in network.readers(current):
            if is_maker(reader):
                if reader.kind.startswith("Separable"):
                    return False
            elif reader.kind in _HOMOGENEOUS and _bends_alike(reader):
                todo.append(reader.name)
            else:
                return False
    return True


def _bends_alike(node: Node) -> bool:
    """Whether f(s·x) = s·f(x) for every s > 0."""
    config = node.config
    if node.kind == "ReLU" and (config.get("max_value") is not None or config.get("threshold")):
        return False
    return config.get("activation", "linear") in ("linear", "relu", "leaky_relu")


def _clusters(
    node: Node, channels: Channels, numbers: tuple[int, ...], keep: int
) -> list[tuple[int, int, float]]:
    """(class that goes, class that takes over, factor); greedy, the most similar pairs first."""
    kernel, bias = node.weight("kernel"), node.weight("bias")
    assert kernel is not None
    rows = kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64)
    if bias is not None:
        rows = np.concatenate([rows, bias[:, None].astype(np.float64)], axis=1)
    place = {number: at for at, number in enumerate(channels.of[Ref(node.name)].tolist())}
    own = rows[[place[number] for number in numbers]]
    norms = np.maximum(np.linalg.norm(own, axis=1), 1e-12)
    cosine = (own @ own.T) / np.outer(norms, norms)
    heirs = _heirs(cosine, norms, len(numbers) - keep)
    return [(numbers[at], numbers[heir], float(norms[at] / norms[heir])) for at, heir in heirs]


def _heirs(cosine: NDArray[np.float64], norms: NDArray[np.float64], merges: int) -> list[tuple[int, int]]:
    """(one that goes, one that stays), the stronger of each pair staying; heirs never go."""
    first, second = np.triu_indices(len(norms), 1)
    heir_of: dict[int, int] = {}
    heirs: set[int] = set()
    for pair in np.argsort(-cosine[first, second], kind="stable"):
        if len(heir_of) == merges:
            break
        weak, strong = sorted((int(first[pair]), int(second[pair])), key=lambda at: (norms[at], -at))
        if weak in heirs and strong not in heirs:
            weak, strong = strong, weak
        if weak in heirs or weak in heir_of or strong in heir_of:
            continue
        heir_of[weak] = strong
        heirs.add(strong)
    return sorted(heir_of.items())
