"""Options of architectures are typed, and what is wrong is said with what is right."""

from __future__ import annotations

import pytest

from collab.errors import UsageError
from collab.toolchain.zoo import ZOO, build, entry
from collab.toolchain.zoo.options import MlpOptions, MobileNetOptions, TransformerOptions, read_options


def test_text_becomes_what_the_option_is():
    assert read_options(MlpOptions, {"hidden": "64, 32", "logits": "true"}, "mlp") == MlpOptions(
        hidden=(64, 32), logits=True
    )
    assert read_options(MlpOptions, {"hidden": "64"}, "mlp").hidden == (64,)
    assert read_options(MobileNetOptions, {"alpha": "0.5"}, "m").alpha == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alhpa": "1"}, "has no option 'alhpa'; did you mean 'alpha'"),
        ({"zzz": "1"}, "use one of logits, upscale"),
        ({"alpha": "wide"}, "option alpha: Expected `float`"),
        ({"alpha": "0"}, "option alpha: Expected `float` > 0"),
        ({"upscale": "9"}, "option upscale: Expected `int` <= 8"),
    ],
)
def test_a_wrong_option_is_named(given, message):
    with pytest.raises(UsageError, match=message):
        read_options(MobileNetOptions, given, "mobilenet_v2")


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'mobilenet_v2'"):
        entry("mobilnet_v2")
    with pytest.raises(UsageError, match="use one of mobilenet_v2, "):
        entry("???")


@pytest.mark.parametrize(
    ("name", "shape", "more", "message"),
    [
        ("cnn", (28, 28), {}, "HEIGHT,WIDTH,CHANNELS"),
        ("cnn_1d", (28, 28, 1), {}, "STEPS,FEATURES"),
        ("cnn", (28, 28, 1000), {}, "at most 512"),
        ("cnn", (28, 0, 1), {}, "give sizes of one example"),
        ("cnn", (28, 28, 1), {"classes": 1}, "1 classes: give 2"),
        ("cnn", (28, 28, 1), {"seed": -1}, "seed -1"),
    ],
)
def test_what_cannot_be_built_is_refused_before_tensorflow_is_loaded(name, shape, more, message):
    with pytest.raises(UsageError, match=message):
        build(name, input_shape=shape, **({"classes": 3} | more))


def test_defaults_can_be_given_back():
    for name, known in ZOO.items():
        defaults = {field: getattr(known.options(), field) for field in known.options.__struct_fields__}
        assert read_options(known.options, defaults, name) == known.options()


def test_heads_are_of_a_whole_width():
    assert TransformerOptions().width % TransformerOptions().heads == 0
