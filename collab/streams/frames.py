"""What sources give: frames in the forms that devices have them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, Union

import numpy as np
from numpy.typing import NDArray

MAX_FRAME_BYTES: Final = 64 << 20
"""Of one frame as it comes: a file, a message."""


class Picture(Protocol):
    """A decoded picture whose pixels are taken only if the frame is used."""

    def pixels(self) -> NDArray[np.uint8]:
        """``[height, width, 3]``, red first; raises `CollabError` where it cannot be converted."""
        ...


Form = Literal["auto", "image", "array", "tensor"]


class Payload(NamedTuple):
    """A message, and what it is said to be: a picture's file, an .npy or .npz, or a tensor's bytes."""

    data: bytes
    form: Form = "auto"


Data = Union[Payload, Path, Picture, Mapping[str, NDArray[Any]]]
"""A message, a file that is read when the frame is used, a picture, or a plan's own tensors."""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        name: what it is of, for people: a file, a topic, a frame's number.
        captured_ms: when it was taken, Unix milliseconds by this device's clock.
    """

    name: str
    captured_ms: int
    data: Data
