"""Tensors as the wire and plans see them: a name, a static shape, a dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from collab.errors import TensorError

MAX_RANK: Final = 8
"""LiteRT kernels stop at rank 8 (``RuntimeShape::kMaxSmallSize`` and friends)."""

MAX_DIMENSION: Final = (1 << 31) - 1
"""Dimensions are ``int32`` in a ``.tflite`` (``Tensor.shape`` of its schema)."""

MAX_NAME_BYTES: Final = 1024

ITEMSIZE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "bool": 1,
        "int8": 1,
        "uint8": 1,
        "int16": 2,
        "uint16": 2,
        "float16": 2,
        "int32": 4,
        "uint32": 4,
        "float32": 4,
        "int64": 8,
        "uint64": 8,
        "float64": 8,
        "complex64": 8,
        "complex128": 16,
    }
)
"""Bytes per element of every LiteRT dtype that numpy has (names are numpy's)."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, shape (all dimensions static, row-major) and dtype of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of the raw little-endian payload in bytes."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]

    def check(self) -> TensorSpec:
        """Return self, or raise `TensorError` that says what is not allowed."""
        try:
            size = len(self.name.encode())
        except UnicodeEncodeError as error:
            raise TensorError(f"tensor name {self.name[:40]!r}: not valid Unicode") from error
        if not 1 <= size <= MAX_NAME_BYTES:
            raise TensorError(f"tensor name {self.name[:40]!r}: use 1 to {MAX_NAME_BYTES} bytes")
        if self.dtype not in ITEMSIZE:
            known = ", ".join(ITEMSIZE)
            raise TensorError(
                f"tensor {self.name!r}: dtype {self.dtype[:40]!r} cannot travel; use one of {known}"
            )
        if len(self.shape) > MAX_RANK:
            raise TensorError(f"tensor {self.name!r}: rank {len(self.shape)} is over {MAX_RANK}")
        if any(d < 0 for d in self.shape):
            raise TensorError(f"tensor {self.name!r}: shape {list(self.shape)} has a negative dimension")
        if any(d > MAX_DIMENSION for d in self.shape):
            raise TensorError(f"tensor {self.name!r}: a dimension is over {MAX_DIMENSION}")
        return self
