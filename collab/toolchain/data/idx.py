"""Files of the idx format, plain or gzipped, as MNIST and Fashion-MNIST come in.

http://yann.lecun.com/exdb/mnist describes it.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError, LimitExceeded

MAX_BYTES: Final = 4 << 30
_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, most_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """The array of one file.

    Raises:
        InputError: it is no idx file, or is cut off.
        LimitExceeded: it is larger than `most_bytes`.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 8:
                raise InputError(f"{path}: is no idx file")
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            dtype = np.dtype(_TYPES[head[2]])
            size = math.prod(shape) * dtype.itemsize
            if size > most_bytes:
                raise LimitExceeded(f"{path}: {size} bytes are over {most_bytes}")
            data = file.read(size + 1)
    except (OSError, EOFError, struct.error) as error:
        reason = getattr(error, "strerror", None) or "is cut off"
        raise InputError(f"{path}: {reason}; fetch the file again") from error
    if len(data) != size:
        raise InputError(f"{path}: has other bytes than its header says; fetch the file again")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
