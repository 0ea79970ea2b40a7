"""What a trainable ``.tflite`` says of itself, so that any LiteRT can train it.

Its signatures, all of builtin operators:

``train``
    ``x`` float32 ``[batch, …]``, ``y`` int32 ``[batch]`` (classes) or float32 ``[batch, …]``,
    ``weight`` float32 ``[batch]``, one ``mask:LAYER`` for each dropout layer and one
    ``parameter:NAME`` for each parameter -> ``loss`` (sum of each example's loss times its
    weight), ``correct`` (sum of the weights of examples named right), one ``gradient:NAME`` for
    each weight, one ``statistic:NAME`` for each statistic of batches.
``evaluate``
    the same without masks -> ``loss``, ``correct``.
``infer``
    ``x`` ``[1, …]`` and the parameters -> ``y``, as the model runs later.
``initial``
    nothing -> one ``parameter:NAME`` for each parameter, and ``description``: `Description` as
    JSON in uint8; where it has any, ``calibration``: inputs from which int8 ranges are taken.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.decoding import prepare
from collab.errors import ModelError

TRAIN: Final = "train"
EVALUATE: Final = "evaluate"
INFER: Final = "infer"
INITIAL: Final = "initial"

PARAMETER: Final = "parameter:"
GRADIENT: Final = "gradient:"
STATISTIC: Final = "statistic:"
MASK: Final = "mask:"
CALIBRATION: Final = "calibration"

FORMAT: Final = 1
MAX_DESCRIPTION_BYTES: Final = 1 << 20


Loss = Literal["cross_entropy", "mean_squared_error"]


class Weight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter, in the model's own order."""

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    """Statistics of batches are averaged like weights, but have no gradients."""


class DropoutMask(msgspec.Struct, frozen=True):
    """How the mask of a dropout layer is drawn."""

    rate: float
    shape: tuple[int, ...]
    """Of one example."""


class Description(msgspec.Struct, frozen=True):
    """What cannot be read from the signatures themselves."""

    format: int
    loss: Loss
    batch_size: int
    input_shape: tuple[int, ...]
    """Of one example."""
    output_shape: tuple[int, ...]
    weights: tuple[Weight, ...]
    dropout: dict[str, DropoutMask] = {}
    """By the name of the layer."""
    step_bytes: int = 0
    """Most that is alive at a time in a step, without the weights."""

    def encode(self) -> NDArray[np.uint8]:
        """As the tensor in the file."""
        return np.frombuffer(msgspec.json.encode(self), np.uint8)


def read_description(tensor: NDArray[np.uint8]) -> Description:
    """Read it back.

    Raises:
        ModelError: it is not one, or of a later format.
    """
    if tensor.dtype != np.uint8 or tensor.ndim != 1 or tensor.size > MAX_DESCRIPTION_BYTES:
        raise ModelError("signature 'initial' has no readable 'description': export the model again")
    try:
        found = msgspec.json.decode(tensor.tobytes(), type=Description)
    except msgspec.DecodeError as error:
        raise ModelError(f"'description' of a trainable model: {error}: export the model again") from error
    if found.format != FORMAT:
        raise ModelError(f"the trainable model has format {found.format}; this version reads {FORMAT}")
    return found


prepare(Description)
