"""The shipped demo model answers the shipped held-out digits, with LiteRT alone."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from collab import assets
from collab.errors import InputError

FIXTURES = Path(__file__).parents[2] / "data"
LEAST_ACCURACY = 0.97


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(assets.path("digits.json").read_text())
    return loaded


def accuracy_on_held_out(model: Path) -> float:
    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["name"], made["name"]) == ("image", "probabilities")
    with np.load(assets.path("digits_heldout.npz")) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    ready = images.astype(np.float32) / np.float32(255)
    if given["dtype"] == np.int8:
        scale, zero = given["quantization"]
        ready = np.clip(np.round(ready / scale) + zero, -128, 127).astype(np.int8)
    right = 0
    for image, label in zip(ready, labels, strict=True):
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        right += int(interpreter.get_tensor(made["index"])[0].argmax()) == label
    return right / len(labels)


def test_the_demo_model_is_as_good_as_its_card_says(card: dict[str, Any]) -> None:
    reached = accuracy_on_held_out(assets.path("digits.tflite"))
    assert reached >= LEAST_ACCURACY
    # Another CPU may turn one undecided digit over.
    assert reached == pytest.approx(card["held_out"]["accuracy"], abs=0.0021)


@pytest.mark.parametrize("name", ["digits_int8.tflite", "digits_dynamic.tflite"])
def test_the_quantised_fixtures_still_know_their_digits(name: str) -> None:
    assert accuracy_on_held_out(FIXTURES / name) >= LEAST_ACCURACY


@pytest.mark.parametrize("part", ["model", "held_out"])
def test_the_card_names_the_files_that_ship(card: dict[str, Any], part: str) -> None:
    shipped = assets.path(card[part]["file"]).read_bytes()
    assert hashlib.sha256(shipped).hexdigest() == card[part]["sha256"]


def test_the_held_out_digits_are_fifty_of_each(card: dict[str, Any]) -> None:
    with np.load(assets.path("digits_heldout.npz")) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    assert (images.dtype, images.shape) == (np.uint8, (500, 28, 28, 1))
    assert np.bincount(labels).tolist() == [50] * 10
    assert card["held_out"]["images"] == len(labels)


def test_an_asset_that_does_not_ship_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"other\.tflite"):
        assets.path("other.tflite")


def test_importing_the_toolchain_leaves_tensorflow_alone() -> None:
    before = "tensorflow" in sys.modules
    import collab.toolchain.demo_model
    import collab.toolchain.quantised_fixtures  # noqa: F401

    assert ("tensorflow" in sys.modules) == before
