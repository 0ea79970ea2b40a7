from __future__ import annotations

import json

import msgspec
import pytest

from collab.core import preprocessing as spec
from collab.core.preprocessing import (
    Category,
    ImageSteps,
    Number,
    Preprocessing,
    Scaling,
    TableSteps,
    WindowSteps,
    decode_preprocessing,
    to_json,
)
from collab.errors import ConfigError

IMAGE = ImageSteps(
    height=8, width=6, colour="rgb", scaling=Scaling(method="standard", shift=(0.1,), width=(2.0,))
)
TABLE = TableSteps(
    columns=(
        Number(name="age", fill=3.0, low=0.0, high=120.0, shift=40.0, width=9.0),
        Category(name="colour", values=("red", "blue"), fill="red"),
        Category(name="grade", values=("a", "b"), encoding="ordinal"),
    )
)
WINDOWS = WindowSteps(
    channels=("x", "y"), length=16, step=8, low=(None, -1.0), high=(None, 1.0), feature="spectrum"
)


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        (IMAGE, (8, 6, 3)),
        (msgspec.structs.replace(IMAGE, layout="chw", colour="grey"), (1, 8, 6)),
        (TABLE, (4,)),
        (WINDOWS, (9, 2)),
        (msgspec.structs.replace(WINDOWS, feature="raw"), (16, 2)),
        (msgspec.structs.replace(WINDOWS, feature="moments"), (4, 2)),
    ],
)
def test_a_file_says_the_same_when_it_is_read_again(steps, shape):
    made = Preprocessing(steps=steps)
    assert made.input_shape == shape
    assert decode_preprocessing(to_json(made)) == made
    assert to_json(decode_preprocessing(to_json(made))) == to_json(made)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version: 2"),
        ({"more": 1}, "unknown field `more`"),
        (
            {"steps": {"kind": "image", "height": 1, "width": 1, "colour": "rgb", "hue": 3}},
            "unknown field `hue`",
        ),
        ({"steps": {"kind": "sound"}}, "Invalid value 'sound'"),
        ({"steps": {"kind": "image", "height": 0, "width": 1, "colour": "rgb"}}, "steps.height: 0"),
        ({"steps": {"kind": "image", "height": 8, "width": 99999, "colour": "rgb"}}, "steps.width: 99999"),
        ({"steps": {"kind": "image", "height": 8, "width": 8, "colour": "rgb", "scale": 0}}, "steps.scale"),
        ({"steps": {"kind": "image", "height": 8, "width": 8, "colour": "rgb", "crop": 1.5}}, "steps.crop"),
        ({"steps": {"kind": "table", "columns": []}}, "steps.columns: 0"),
        (
            {"steps": {"kind": "windows", "channels": ["a", "a"], "length": 4, "step": 1}},
            "'a' stands there twice",
        ),
        ({"steps": {"kind": "windows", "channels": ["a"], "length": 4, "step": 0}}, "steps.step: 0"),
        (
            {"steps": {"kind": "windows", "channels": ["a"], "length": 4, "step": 1, "low": [1, 2]}},
            "steps.low",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_the_field(change, text):
    data = json.dumps(json.loads(to_json(Preprocessing(steps=IMAGE))) | change).encode()
    with pytest.raises(ConfigError) as refused:
        decode_preprocessing(data, "m.json")
    assert text in str(refused.value)
    assert str(refused.value).startswith("m.json: ")


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (Number(name="a", fill=float("nan")), "no float32"),
        (Number(name="a", fill=None, width=0.0), "width: 0.0"),
        (Number(name="a", fill=None, low=2.0, high=1.0), "low: 2.0 is over high"),
        (Category(name="a", values=()), "values: 0"),
        (Category(name="a", values=("x",), fill="y"), "fill: 'y'"),
        (Category(name="a" * 999, values=("x",)), "1 to 256 characters"),
    ],
)
def test_a_wrong_column_is_refused_by_its_name(column, text):
    with pytest.raises(ConfigError, match=text):
        Preprocessing(steps=TableSteps(columns=(column,))).check()


def test_places_of_all_columns_together_are_bounded():
    many = tuple(Category(name=f"c{i}", values=tuple(f"v{k}" for k in range(100))) for i in range(101))
    with pytest.raises(ConfigError, match=str(spec.MAX_CATEGORIES)):
        Preprocessing(steps=TableSteps(columns=many)).check()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b" " * (spec.MAX_BYTES + 1)])
def test_what_is_no_json_is_a_clear_error(data):
    with pytest.raises(ConfigError):
        decode_preprocessing(data)
