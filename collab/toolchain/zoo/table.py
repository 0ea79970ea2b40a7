"""The only table of architectures: names, what they take, and how large they are said to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from collab.errors import UsageError
from collab.toolchain.zoo import applications, efficientnet_lite, options, plain, shufflenet, squeezenet
from collab.toolchain.zoo.options import nearest

Takes = Literal["pictures", "windows", "anything"]
Builder = Callable[[Any, tuple[int, ...], int, Any], Any]


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        takes: what its input is.
        shape: of the input that it is known by, with ``classes`` classes.
        parameters: trained numbers there.
        published: what its authors say of that, as they write it; empty for our own.
        source: where they say it.
        options: what can be chosen.
        make: builds it from ``keras``, the input's shape, classes and options.
    """

    takes: Takes
    shape: tuple[int, ...]
    classes: int
    parameters: int
    published: str
    source: str
    options: type[options.Options]
    make: Builder


def _imagenet(
    parameters: int, published: str, source: str, kind: type[options.Options], make: Builder
) -> Entry:
    return Entry("pictures", (224, 224, 3), 1000, parameters, published, source, kind, make)


_V2: Final = "Ma et al. 2018, table 5"
_V3: Final = "Howard et al. 2019, table 3"

ZOO: Final[Mapping[str, Entry]] = {
    "mobilenet_v2": _imagenet(
        3_504_872,
        "3.4M",
        "Sandler et al. 2018, table 4",
        options.MobileNetOptions,
        applications.mobilenet_v2,
    ),
    "mobilenet_v3_small": _imagenet(
        2_542_856, "2.5M", _V3, options.MobileNetV3Options, applications.mobilenet_v3_small
    ),
    "mobilenet_v3_large": _imagenet(
        5_483_032, "5.4M", _V3, options.MobileNetV3Options, applications.mobilenet_v3_large
    ),
    "efficientnet_b0": _imagenet(
        5_288_548, "5.3M", "Tan and Le 2019, table 2", options.KerasOptions, applications.efficientnet_b0
    ),
    "efficientnet_lite0": _imagenet(
        4_652_008,
        "4.7M",
        "TPU repository, efficientnet/lite",
        options.LiteOptions,
        efficientnet_lite.efficientnet_lite0,
    ),
    "squeezenet_1_0": _imagenet(
        1_248_424,
        "1,248,424",
        "Iandola et al. 2016, table 1",
        options.SqueezeNetOptions,
        squeezenet.squeezenet_1_0,
    ),
    "squeezenet_1_1": _imagenet(
        1_235_496,
        "1.2M",
        "SqueezeNet repository, v1.1",
        options.SqueezeNetOptions,
        squeezenet.squeezenet_1_1,
    ),
    "shufflenet_v2_0_5x": _imagenet(
        1_366_792, "1.4M", _V2, options.ShuffleNetOptions, shufflenet.shufflenet_v2_0_5x
    ),
    "shufflenet_v2_1x": _imagenet(
        2_278_604, "2.3M", _V2, options.ShuffleNetOptions, shufflenet.shufflenet_v2_1x
    ),
    "shufflenet_v2_1_5x": _imagenet(
        3_503_624, "3.5M", _V2, options.ShuffleNetOptions, shufflenet.shufflenet_v2_1_5x
    ),
    "shufflenet_v2_2x": _imagenet(
        7_393_996, "7.4M", _V2, options.ShuffleNetOptions, shufflenet.shufflenet_v2_2x
    ),
    "mlp": Entry("anything", (28, 28, 1), 10, 109_386, "", "", options.MlpOptions, plain.mlp),
    "cnn": Entry("pictures", (28, 28, 1), 10, 468_010, "", "", options.CnnOptions, plain.cnn),
    "cnn_small": Entry("pictures", (28, 28, 1), 10, 29_650, "", "", options.SmallCnnOptions, plain.cnn),
    "cnn_1d": Entry("windows", (128, 6), 6, 32_390, "", "", options.Cnn1dOptions, plain.cnn_1d),
    "transformer": Entry(
        "windows", (128, 6), 6, 76_038, "", "", options.TransformerOptions, plain.transformer
    ),
}


def entry(name: str) -> Entry:
    """Look an architecture up; raises `UsageError` that says which is nearest."""
    if name not in ZOO:
        raise UsageError(f"{name}: is no architecture of the zoo; {nearest(name, list(ZOO))}")
    return ZOO[name]
