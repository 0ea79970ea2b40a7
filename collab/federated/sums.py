"""Opened sums of masked updates: as a blob of the checkpoint, and as what a round comes to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError, IntegrityError
from collab.federated.exchange import pack_arrays, unpack_arrays
from collab.federated.privacy.fixed_point import Encoding, Shapes, Sum, decode_sum
from collab.federated.privacy.masking import Masking
from collab.federated.privacy.masks import Ring
from collab.federated.update import Update

_NUMBERS, _CLIENTS = "numbers", "clients"


def pack_sum(masking: Masking, model: Shapes, total: Ring, clients: int) -> bytes:
    """A sum that so many clients are in; raises `ProtocolError` where it cannot be one of honest vectors."""
    decode_sum(masking.encoding, masking.shapes(model), total, clients)
    numbers = total.astype(np.uint64).view(np.int64)
    return pack_arrays({_NUMBERS: numbers, _CLIENTS: np.array([clients], np.int64)})


def unpack_sum(data: bytes, encoding: Encoding) -> tuple[Ring, int]:
    """The sum and its clients again; raises `IntegrityError`."""
    found = unpack_arrays(data)
    if found.keys() != {_NUMBERS, _CLIENTS}:
        raise IntegrityError("sum of masked updates: its blob holds something else")
    return found[_NUMBERS].view(np.uint64).astype(encoding.type), int(found[_CLIENTS][0])


class MeanOfSum:
    """A `Combiner` for a round of which only the sum is known: the mean, weighted as the clients did it."""

    def __init__(self, masking: Masking, model: Shapes, total: Ring, clients: int) -> None:
        self._sum: Sum = decode_sum(masking.encoding, masking.shapes(model), total, clients)

    def add(self, update: Update, weight: int) -> None:
        """There are no single updates; raises `ConfigError`."""
        raise ConfigError("secure aggregation: a single update cannot be added to an opened sum")

    def combined(self) -> dict[str, NDArray[np.float64]]:
        """The mean."""
        return self._sum.mean()
