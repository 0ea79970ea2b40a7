"""Pictures to pixels of a model's size.  Needs Pillow.

Decoding and resizing of 8-bit pixels are whole-number arithmetic in Pillow, so one
version of it gives the same pixels on every machine.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import ImageSteps
from collab.errors import BackendError, InputError, LimitExceeded

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})
FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
MAX_FILE_BYTES: Final = 256 << 20
MAX_PIXELS: Final = 64_000_000
"""Of one picture before it takes the model's size."""

_MODES: Final = {"grey": "L", "rgb": "RGB"}
_DEEP: Final = ("I", "F")
"""Modes of more than 8 bits begin so; converting them would clip."""


def pillow() -> Any:
    """The module ``PIL.Image``; raises `BackendError` where it is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise BackendError(
            "Pillow, which reads pictures, is missing: pip install 'collab[images]'"
        ) from error
    return Image


def read_pixels(file: Path, steps: ImageSteps) -> NDArray[np.uint8]:
    """A picture's pixels ``[height, width, channels]``.

    Raises:
        InputError: the file is no picture that can be read.
        LimitExceeded: it is too large.
        BackendError: Pillow is missing.
    """
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise LimitExceeded(f"{file}: {size} bytes are over {MAX_FILE_BYTES}")
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    return decode_pixels(data, steps, str(file))


def decode_pixels(data: bytes, steps: ImageSteps, where: str) -> NDArray[np.uint8]:
    """The same from a picture's bytes."""
    image = pillow()
    from PIL import ImageOps

    try:
        with image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise LimitExceeded(f"{where}: {picture.width}x{picture.height} pixels are over {MAX_PIXELS}")
            if picture.mode.startswith(_DEEP):
                raise InputError(f"{where}: has pixels of mode {picture.mode}; convert it to 8 bits")
            picture.load()
            return fitted(ImageOps.exif_transpose(picture), steps)
    except (InputError, LimitExceeded):
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        reason = (
            "is no PNG, JPEG, BMP, GIF or WebP" if type(error).__name__ == "UnidentifiedImageError" else error
        )
        raise InputError(f"{where}: cannot be read as a picture ({reason})") from error


def array_pixels(pixels: NDArray[np.uint8], steps: ImageSteps) -> NDArray[np.uint8]:
    """Pixels ``[height, width]`` or ``[height, width, 1 or 3]`` of any size as those of a model's size."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return fitted(pillow().fromarray(np.ascontiguousarray(pixels)), steps)


def fitted(picture: Image, steps: ImageSteps) -> NDArray[np.uint8]:
    """A decoded picture in the model's colours and size."""
    image = pillow()
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode != _MODES[steps.colour]:
        picture = picture.convert(_MODES[steps.colour])
    box = kept_box(picture.width, picture.height, steps)
    whole = (0.0, 0.0, float(picture.width), float(picture.height))
    if box != whole or picture.size != (steps.width, steps.height):
        resampling = image.Resampling[steps.filter.upper()]
        picture = picture.resize((steps.width, steps.height), resampling, box=box)
    return np.array(picture, np.uint8).reshape(steps.height, steps.width, steps.channels)


def kept_box(width: int, height: int, steps: ImageSteps) -> tuple[float, float, float, float]:
    """What of a picture is kept: left, upper, right and lower edge."""
    across, down = width * steps.crop, height * steps.crop
    if steps.fit == "cover":
        share = min(across / steps.width, down / steps.height)
        across, down = steps.width * share, steps.height * share
    left, upper = (width - across) / 2, (height - down) / 2
    # Rounding must not leave the picture.
    return (max(left, 0.0), max(upper, 0.0), min(left + across, width), min(upper + down, height))
