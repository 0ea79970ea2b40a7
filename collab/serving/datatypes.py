"""The protocol's datatypes, and numpy's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from collab.codec.tensors import Array
from collab.errors import TensorError

TO_NUMPY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "FP32": "float32",
        "FP64": "float64",
    }
)
"""Open Inference Protocol, "Tensor Data Types"; BYTES and BF16 are not among what a plan carries."""

FROM_NUMPY: Final[Mapping[str, str]] = MappingProxyType({dtype: name for name, dtype in TO_NUMPY.items()})
_OF: Final = {np.dtype(dtype): name for name, dtype in TO_NUMPY.items()}
"""By dtype itself: to make its name takes longer than all else about it."""


def to_numpy(datatype: str, tensor: str) -> str:
    """Numpy's name of a datatype; raises `TensorError` for one that no plan carries."""
    try:
        return TO_NUMPY[datatype]
    except KeyError:
        known = ", ".join(TO_NUMPY)
        raise TensorError(
            f"tensor {tensor[:80]!r}: datatype {datatype[:40]!r} cannot be used here; give one of {known}"
        ) from None


def from_numpy(dtype: str) -> str:
    """The datatype of a dtype; one that the protocol lacks keeps its own name."""
    return FROM_NUMPY.get(dtype, dtype.upper())


def datatype_of(array: Array) -> str:
    """The datatype of an output."""
    return _OF[array.dtype]
