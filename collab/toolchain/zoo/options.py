"""What each architecture lets be chosen: frozen structures with bounds, no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from collab.core.plan import Frozen
from collab.errors import UsageError

Width = Annotated[float, Meta(gt=0, le=4)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Units = Annotated[int, Meta(ge=1, le=65_536)]
Kernel = Annotated[int, Meta(ge=1, le=31)]
Stride = Annotated[int, Meta(ge=1, le=2)]
Depth = Annotated[int, Meta(ge=1, le=64)]


class Options(Frozen, frozen=True, kw_only=True):
    """What all have.

    Attributes:
        logits: answer logits in place of probabilities.
    """

    logits: bool = False


class PictureOptions(Options, frozen=True, kw_only=True):
    """What the networks made for photographs have.

    Attributes:
        upscale: how many times larger the picture becomes first, by repeating pixels: these
            networks halve it five times, which leaves little of a small one.
        dropout: share of features left out before the classifier, in training.
    """

    upscale: Annotated[int, Meta(ge=1, le=8)] = 1
    dropout: Share = 0.2


class KerasOptions(PictureOptions, frozen=True, kw_only=True):
    """Those of keras.applications.

    Attributes:
        norm_momentum: of batch normalisation.  The published 0.999 needs thousands of steps
            before its averages can be used; short trainings want less.
    """

    norm_momentum: Share = 0.9


class MobileNetOptions(KerasOptions, frozen=True, kw_only=True):
    """MobileNets.

    Attributes:
        alpha: width multiplier.
    """

    alpha: Width = 1.0


class MobileNetV3Options(MobileNetOptions, frozen=True, kw_only=True):
    """MobileNet V3.

    Attributes:
        minimalistic: without squeeze-and-excite, hard swish and 5×5 kernels.
    """

    minimalistic: bool = False


class StemOptions(PictureOptions, frozen=True, kw_only=True):
    """Networks written here.

    Attributes:
        stem_stride: of the first convolution; 1 keeps more of small pictures.
    """

    stem_stride: Stride = 2


class LiteOptions(StemOptions, frozen=True, kw_only=True):
    """EfficientNet-lite.

    Attributes:
        norm_momentum: of batch normalisation.
    """

    norm_momentum: Share = 0.9


class SqueezeNetOptions(StemOptions, frozen=True, kw_only=True):
    """SqueezeNet; its paper drops half of the features."""

    dropout: Share = 0.5


class ShuffleNetOptions(StemOptions, frozen=True, kw_only=True):
    """ShuffleNet V2.

    Attributes:
        norm_momentum: of batch normalisation.
    """

    dropout: Share = 0.0
    norm_momentum: Share = 0.9


class MlpOptions(Options, frozen=True, kw_only=True):
    """A perceptron.

    Attributes:
        hidden: units of each hidden layer.
    """

    hidden: Annotated[tuple[Units, ...], Meta(min_length=1, max_length=64)] = (128, 64)
    dropout: Share = 0.0


class CnnOptions(Options, frozen=True, kw_only=True):
    """A plain CNN: pairs of 3×3 convolutions, each pair pooled, and hidden units.

    Attributes:
        filters: of each pair; as many pairs as numbers.
        hidden: units before the classifier.
    """

    filters: Annotated[tuple[Units, ...], Meta(min_length=1, max_length=16)] = (32, 64)
    hidden: Units = 128
    dropout: Share = 0.3


class SmallCnnOptions(CnnOptions, frozen=True, kw_only=True):
    """The same, small."""

    filters: Annotated[tuple[Units, ...], Meta(min_length=1, max_length=16)] = (8, 16)
    hidden: Units = 32
    dropout: Share = 0.1


class Cnn1dOptions(Options, frozen=True, kw_only=True):
    """A CNN over time, for windows of sensor streams.

    Attributes:
        filters: of each convolution, each followed by pooling over two steps.
        kernel: steps that a convolution sees.
    """

    filters: Annotated[tuple[Units, ...], Meta(min_length=1, max_length=16)] = (32, 64, 64)
    kernel: Kernel = 5
    dropout: Share = 0.2


class TransformerOptions(Options, frozen=True, kw_only=True):
    """An encoder over steps.

    Attributes:
        width: features of a step within it.
        heads: that attend in each block; they divide ``width``.
        depth: blocks.
    """

    width: Units = 64
    heads: Annotated[int, Meta(ge=1, le=64)] = 4
    depth: Depth = 2
    dropout: Share = 0.1


AnyOptions = TypeVar("AnyOptions", bound=Options)


def read_options(kind: type[AnyOptions], given: Mapping[str, Any], owner: str) -> AnyOptions:
    """Check options; text becomes what the option is.

    Raises:
        UsageError: there is no such option, or its value cannot be.
    """
    fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
    names = list(fields)
    for name in given:
        if name not in names:
            raise UsageError(f"{owner}: has no option {name!r}; {nearest(name, names)}")
    values = {
        name: [part.strip() for part in value.split(",")]
        if isinstance(value, str) and isinstance(fields[name], tuple)
        else value
        for name, value in given.items()
    }
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"{owner}: option {_where(error)}") from error


def nearest(name: str, names: list[str]) -> str:
    """Words that point at the name that was probably meant."""
    close = get_close_matches(name, names, 1, 0.5)
    every = ", ".join(names)
    return f"did you mean {close[0]!r}? There are {every}" if close else f"use one of {every}"


def _where(error: msgspec.ValidationError) -> str:
    said, _, path = str(error).partition(" - at `$.")
    return f"{path.rstrip('`')}: {said}" if path else said
