"""Windows over ``[height, channels, width, batch]``, one axis after the other.

What a window takes from an image is first picked along the columns and then along the rows, and gradients
go back the other way.  So a window of 3×3 costs six picks and not nine, and those along the rows, which
are the larger ones, are single runs of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from collab.errors import ModelError
from collab.toolchain.trainable.writer import GraphWriter, Ref

SAME, VALID = 0, 1
"""``Padding`` of schema.fbs."""
ROWS, COLUMNS = 0, 2
"""Axes of an image."""


@dataclass(frozen=True, slots=True)
class Line:
    """Windows along one axis.

    Attributes:
        axis: `ROWS` or `COLUMNS`.
        size: elements of a window.
        stride: elements from one window to the next.
        length: elements of the image.
        same: whether the image is padded so that every stride gives a window.
    """

    axis: int
    size: int
    stride: int
    length: int
    same: bool

    @property
    def count(self) -> int:
        """Number of windows."""
        if self.same:
            return -(-self.length // self.stride)
        return (self.length - self.size) // self.stride + 1

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and behind, as TensorFlow puts them."""
        total = max((self.count - 1) * self.stride + self.size - self.length, 0) if self.same else 0
        return total // 2, total - total // 2

    def around(self, before: int, behind: int) -> list[tuple[int, int]]:
        """What `GraphWriter.pad` wants for this axis alone."""
        return [(before, behind) if axis == self.axis else (0, 0) for axis in range(4)]

    def pick(self, g: GraphWriter, padded: Ref, at: int) -> Ref:
        """The element at this place of each window; `padded` has its padding.

        Strided slices go element by element in LiteRT; blocks of a reshaped image go in runs.
        """
        if self.stride == 1:
            return self.cut(g, padded, at, self.count)
        shape = list(padded.shape)
        blocks = -(-shape[self.axis] // self.stride)
        padded = g.pad(padded, self.around(0, blocks * self.stride - shape[self.axis]))
        shape[self.axis] = self.count
        block, offset = divmod(at, self.stride)
        if self.axis == ROWS:
            rest = padded.size // (blocks * self.stride)
            cut = g.reshape(padded, (blocks, self.stride, rest))
            return g.reshape(g.slice(cut, (block, offset, 0), (self.count, 1, rest)), shape)
        height, channels, _, batch = padded.shape
        cut = g.reshape(padded, (height * channels, blocks, self.stride * batch))
        made = g.slice(cut, (0, block, offset * batch), (height * channels, self.count, batch))
        return g.reshape(made, shape)

    def cut(self, g: GraphWriter, x: Ref, begin: int, count: int) -> Ref:
        """So many rows or columns of an image."""
        size = [count if axis == self.axis else d for axis, d in enumerate(x.shape)]
        return g.slice(x, [begin if axis == self.axis else 0 for axis in range(4)], size)

    def place(self, g: GraphWriter, parts: Sequence[Ref]) -> Ref:
        """Gradients of each element of the windows, in their order -> of the image."""
        if self.size == self.stride:
            return self._fit(g, self._weave(g, parts), -self.padding[0])
        total: Ref | None = None
        for number, part in enumerate(parts):
            at = number - self.padding[0]
            if at < self.length and at + (self.count - 1) * self.stride >= 0:  # some lie in the padding only
                placed = self._fit(g, self._spread(g, part), at)
                total = placed if total is None else g.add(total, placed)
        assert total is not None
        return total

    def _weave(self, g: GraphWriter, parts: Sequence[Ref]) -> Ref:
        """Windows that lie side by side: the first element of each, then the second, and so on."""
        height, channels, width, batch = parts[0].shape
        if self.axis == ROWS:
            lines = [g.reshape(part, (height, channels * width * batch)) for part in parts]
            return g.reshape(g.concat(lines, 1), (height * self.size, channels, width, batch))
        lines = [g.reshape(part, (height * channels * width, batch)) for part in parts]
        return g.reshape(g.concat(lines, 1), (height, channels, width * self.size, batch))

    def _spread(self, g: GraphWriter, part: Ref) -> Ref:
        """One element's gradients as far apart as windows are, zeros between them."""
        if self.stride == 1:
            return part
        height, channels, width, batch = part.shape
        if self.axis == ROWS:
            row = channels * width * batch
            wide = g.pad(g.reshape(part, (height, row)), [(0, 0), (0, (self.stride - 1) * row)])
            return g.reshape(wide, (height * self.stride, channels, width, batch))
        wide = g.reshape(part, (height * channels * width, batch))
        wide = g.pad(wide, [(0, 0), (0, (self.stride - 1) * batch)])
        return g.reshape(wide, (height, channels, width * self.stride, batch))

    def _fit(self, g: GraphWriter, x: Ref, at: int) -> Ref:
        """Rows or columns that begin at a place of the image, cut or filled up with zeros to its length."""
        begin = max(0, -at)
        count = min(x.shape[self.axis] - begin, self.length - max(at, 0))
        x = self.cut(g, x, begin, count)
        return g.pad(x, self.around(max(at, 0), self.length - max(at, 0) - count))


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
    def rows(self) -> Line:
        """Along the height."""
        return Line(ROWS, self.size[0], self.stride[0], self.image[0], self.same)

    @property
    def columns(self) -> Line:
        """Along the width."""
        return Line(COLUMNS, self.size[1], self.stride[1], self.image[1], self.same)

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return self.rows.count, self.columns.count

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros before and behind, as TensorFlow puts them."""
        return self.rows.padding, self.columns.padding

    def pad(self, g: GraphWriter, x: Ref, value: float = 0.0) -> Ref:
        """The image with its padding."""
        (top, bottom), (left, right) = self.padding
        around = [(top, bottom), (0, 0), (left, right), (0, 0)]
        return g.pad_with(x, around, value) if value else g.pad(x, around)

    def pick(self, g: GraphWriter, padded: Ref) -> list[list[Ref]]:
        """Each element of the windows, ``[rows, channels, columns, batch]``, by row and column within one."""
        lines = [self.columns.pick(g, padded, at) for at in range(self.size[1])]
        return [[self.rows.pick(g, line, at) for line in lines] for at in range(self.size[0])]

    def place(self, g: GraphWriter, parts: Sequence[Sequence[Ref]]) -> Ref:
        """Gradients of each element, by row and column within a window -> of the image."""
        columns = [self.rows.place(g, column) for column in zip(*parts, strict=True)]
        return self.columns.place(g, columns)
