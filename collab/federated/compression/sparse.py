"""Positions of the elements that travel: gaps between them, or a bit for every element."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import TensorError
from collab.federated.compression.elements import from_planes, planes

Positions = NDArray[np.int64]

BITMAP: Final = 0
WIDTHS: Final = (BITMAP, 1, 2, 4)
"""Bytes of a gap; none for a bitmap."""


def largest(flat: NDArray[np.floating], share: float) -> Positions:
    """Positions of that share of the elements, at least one, that are largest in magnitude; in order."""
    keep = min(flat.size, max(1, round(share * flat.size)))
    if keep == flat.size:
        return np.arange(flat.size)
    chosen = np.argpartition(np.abs(flat), flat.size - keep)[flat.size - keep :]
    return np.sort(chosen).astype(np.int64, copy=False)


def size(width: int, kept: int, count: int) -> int:
    """Bytes that positions take."""
    return (count + 7) // 8 if width == BITMAP else width * kept


def write(positions: Positions, count: int) -> tuple[int, bytes]:
    """The width that takes the fewest bytes, and these."""
    gaps = np.diff(positions, prepend=-1) - 1
    most = int(gaps.max(initial=0))
    width = 1 if most < 1 << 8 else 2 if most < 1 << 16 else 4
    if size(BITMAP, len(positions), count) < size(width, len(positions), count):
        bits = np.zeros(count, np.uint8)
        bits[positions] = 1
        return BITMAP, np.packbits(bits).tobytes()
    return width, planes(gaps.astype(f"<u{width}"))


def read(width: int, data: memoryview, kept: int, count: int, name: str) -> Positions:
    """Strictly rising positions below ``count`` from exactly `size` bytes; raises `TensorError`."""
    if width == BITMAP:
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        positions = np.flatnonzero(bits)
    else:
        positions = np.cumsum(from_planes(data, np.dtype(f"u{width}")).astype(np.int64) + 1) - 1
    if len(positions) != kept or (kept and positions[-1] >= count):
        raise TensorError(f"tensor {name!r}: positions that are not {kept} of {count}")
    return positions
