"""Windows over ``[channels, height, width, batch]``: where they lie, and how gradients go back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from collab.errors import ModelError
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape

SAME, VALID = 0, 1
"""``Padding`` of schema.fbs."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Height and width of windows, how far apart they are, and zeros around the image.

    Attributes:
        size: height and width of a window.
        stride: rows and columns from one window to the next.
        image: height and width of the image.
        same: whether the image is padded so that every stride gives a window.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    image: tuple[int, int]
    same: bool

    def __post_init__(self) -> None:
        if not self.same and any(s > i for s, i in zip(self.size, self.image, strict=True)):
            raise ModelError(f"a window of {self.size} does not fit into an image of {self.image}")

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        height, width = (
            -(-i // s) if self.same else (i - k) // s + 1
            for i, k, s in zip(self.image, self.size, self.stride, strict=True)
        )
        return height, width

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros before and behind, as TensorFlow puts them."""
        found = []
        for i, k, s, n in zip(self.image, self.size, self.stride, self.count, strict=True):
            total = max((n - 1) * s + k - i, 0) if self.same else 0
            found.append((total // 2, total - total // 2))
        return found[0], found[1]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width with the zeros."""
        (top, bottom), (left, right) = self.padding
        return self.image[0] + top + bottom, self.image[1] + left + right

    @property
    def apart(self) -> bool:
        """Whether windows neither overlap nor leave rows or columns between them."""
        return self.size == self.stride

    def offsets(self) -> list[tuple[int, int]]:
        """Row and column of each element within a window, row by row."""
        return [(i, j) for i in range(self.size[0]) for j in range(self.size[1])]

    def pad(self, g: GraphWriter, x: Ref, value: float = 0.0) -> Ref:
        """The image with its padding."""
        around = [(0, 0), *self.padding, (0, 0)]
        return g.pad_with(x, around, value) if value else g.pad(x, around)

    def pick(self, g: GraphWriter, padded: Ref, at: tuple[int, int]) -> Ref:
        """One element of each window, ``[channels, rows, columns, batch]``."""
        channels, batch = padded.shape[0], padded.shape[3]
        begin, end = [0, *at, 0], [channels, 0, 0, batch]
        for axis in (0, 1):
            end[1 + axis] = at[axis] + (self.count[axis] - 1) * self.stride[axis] + 1
        return g.strided(padded, begin, end, [1, *self.stride, 1])

    def place(self, g: GraphWriter, parts: Sequence[Ref]) -> Ref:
        """Gradients of the elements of each window, in the order of `offsets` -> of the image."""
        if self.apart:
            return self._crop(g, self._interleave(g, parts))
        total: Ref | None = None
        for part, at in zip(parts, self.offsets(), strict=True):
            placed = self._spread(g, part, at)
            total = placed if total is None else g.add(total, placed)
        assert total is not None
        return self._crop(g, total)

    def _interleave(self, g: GraphWriter, parts: Sequence[Ref]) -> Ref:
        """Windows that lie side by side: their elements are woven into rows, and rows into images."""
        (rows, columns), (height, width) = self.count, self.size
        channels, batch = parts[0].shape[0], parts[0].shape[3]
        lines = []
        for i in range(height):
            line = [
                g.reshape(part, (channels * rows, columns, 1, batch))
                for part in parts[i * width : (i + 1) * width]
            ]
            lines.append(g.reshape(g.concat(line, 2), (channels, rows, 1, columns * width * batch)))
        whole = g.reshape(g.concat(lines, 2), (channels, rows * height, columns * width, batch))
        padded = self.padded
        behind = [(0, max(0, padded[axis] - whole.shape[1 + axis])) for axis in (0, 1)]
        return g.pad(whole, [(0, 0), *behind, (0, 0)])

    def _spread(self, g: GraphWriter, part: Ref, at: tuple[int, int]) -> Ref:
        """One element's gradients where they belong in the padded image, zeros elsewhere."""
        channels, rows, columns, batch = part.shape
        down, right = self.stride
        if right > 1:
            part = g.pad(
                g.reshape(part, (channels * rows, columns, batch)), [(0, 0), (0, 0), (0, (right - 1) * batch)]
            )
        if down > 1:
            width = columns * right * batch
            part = g.pad(g.reshape(part, (channels, rows, width)), [(0, 0), (0, 0), (0, (down - 1) * width)])
        shape = (channels, rows * down, columns * right, batch)
        part = g.reshape(part, shape)
        keep = [min(shape[1 + axis], self.padded[axis] - at[axis]) for axis in (0, 1)]
        part = g.slice(part, (0, 0, 0, 0), (channels, *keep, batch))
        around = [(at[axis], self.padded[axis] - at[axis] - keep[axis]) for axis in (0, 1)]
        return g.pad(part, [(0, 0), *around, (0, 0)])

    def _crop(self, g: GraphWriter, padded: Ref) -> Ref:
        (top, _), (left, _) = self.padding
        shape: Shape = (padded.shape[0], *self.image, padded.shape[3])
        return g.slice(padded, (0, top, left, 0), shape)
