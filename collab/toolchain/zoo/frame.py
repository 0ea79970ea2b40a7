"""What comes before and after every network of pictures: its input at a workable size, its classifier."""

from __future__ import annotations

from typing import Any

from collab.errors import UsageError
from collab.toolchain.zoo.options import PictureOptions

LEAST_PX = 32
"""Networks that halve a picture five times need this much; smaller ones get a border of zeros."""
MAX_CHANNELS = 512


def picture_input(
    layers: Any, shape: tuple[int, ...], options: PictureOptions, least: int = LEAST_PX
) -> tuple[Any, Any]:
    """The input, and it upscaled and padded to at least ``least`` pixels each way.

    Args:
        layers: ``keras.layers``.
        shape: height, width and channels.
    """
    given = x = layers.Input(shape, name="image")
    height, width = shape[0] * options.upscale, shape[1] * options.upscale
    if options.upscale > 1:
        x = layers.UpSampling2D(options.upscale, name="upscale")(x)
    if height < least or width < least:
        rows, columns = (_border(least - edge) for edge in (height, width))
        x = layers.ZeroPadding2D((rows, columns), name="border")(x)
    return given, x


def _border(missing: int) -> tuple[int, int]:
    missing = max(missing, 0)
    return missing // 2, missing - missing // 2


def classifier(layers: Any, x: Any, classes: int, logits: bool) -> Any:
    """Scores of the classes from features ``[n, features]``."""
    x = layers.Dense(classes, name="logits")(x)
    return x if logits else layers.Softmax(name="probabilities")(x)


def check_picture(shape: tuple[int, ...], owner: str) -> None:
    """Refuse what is no picture; raises `UsageError`."""
    if len(shape) != 3:
        raise UsageError(f"{owner}: takes pictures, so give --input HEIGHT,WIDTH,CHANNELS; got {list(shape)}")
    if shape[2] > MAX_CHANNELS:
        raise UsageError(f"{owner}: {shape[2]} channels; at most {MAX_CHANNELS}, the channels stand last")


def check_steps(shape: tuple[int, ...], owner: str) -> None:
    """Refuse what is no window of a stream; raises `UsageError`."""
    if len(shape) != 2:
        raise UsageError(
            f"{owner}: takes windows of streams, so give --input STEPS,FEATURES; got {list(shape)}"
        )
