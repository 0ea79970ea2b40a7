"""MobileNet V2 and V3 and EfficientNet-B0, from keras.applications.

Sandler et al., 2018, arXiv:1801.04381; Howard et al., 2019, arXiv:1905.02244; Tan and Le, 2019,
arXiv:1905.11946.

What they do to their input there, scaling that differs from one to the next, is left out: a model
sees what the data's preprocessing made.
"""

from __future__ import annotations

import warnings
from typing import Any

from collab.toolchain.zoo.frame import picture_input
from collab.toolchain.zoo.options import KerasOptions, MobileNetOptions, MobileNetV3Options


def mobilenet_v2(keras: Any, shape: tuple[int, ...], classes: int, options: MobileNetOptions) -> Any:
    """MobileNet V2."""
    make = keras.applications.MobileNetV2
    return _adapted(keras, make, shape, classes, options, alpha=options.alpha)


def mobilenet_v3_small(keras: Any, shape: tuple[int, ...], classes: int, options: MobileNetV3Options) -> Any:
    """MobileNet V3 small."""
    return _v3(keras, keras.applications.MobileNetV3Small, shape, classes, options)


def mobilenet_v3_large(keras: Any, shape: tuple[int, ...], classes: int, options: MobileNetV3Options) -> Any:
    """MobileNet V3 large."""
    return _v3(keras, keras.applications.MobileNetV3Large, shape, classes, options)


def efficientnet_b0(keras: Any, shape: tuple[int, ...], classes: int, options: KerasOptions) -> Any:
    """EfficientNet-B0."""
    return _adapted(keras, keras.applications.EfficientNetB0, shape, classes, options)


def _v3(keras: Any, make: Any, shape: tuple[int, ...], classes: int, options: MobileNetV3Options) -> Any:
    more = {"dropout_rate": options.dropout, "include_preprocessing": False}
    return _adapted(
        keras, make, shape, classes, options, alpha=options.alpha, minimalistic=options.minimalistic, **more
    )


def _adapted(
    keras: Any, make: Any, shape: tuple[int, ...], classes: int, options: KerasOptions, **more: Any
) -> Any:
    """The stock model behind our input, without preprocessing of its own."""
    layers = keras.layers
    _, x = picture_input(layers, shape, options)
    with warnings.catch_warnings():
        # It says that it usually sees 1 or 3 channels.
        warnings.simplefilter("ignore")
        stock = make(
            input_tensor=x,
            input_shape=tuple(x.shape[1:]),
            weights=None,
            classes=classes,
            classifier_activation=None if options.logits else "softmax",
            **more,
        )

    def layer(old: Any) -> Any:
        config = old.get_config()
        if isinstance(old, layers.BatchNormalization):
            config["momentum"] = options.norm_momentum
        return type(old).from_config(config)

    def call(new: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(new, (layers.Rescaling, layers.Normalization)):
            return args[0]
        return new(*args, **kwargs)

    made = keras.models.clone_model(stock, call_function=call, clone_function=layer)
    # A clone wants its one input in a list.
    return keras.Model(made.inputs[0], made.outputs[0])
