"""Resized images and crops are what their definitions, written element by element, give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from collab.core.transforms import Crop, Resize
from collab.runtime.transforms.images import Cropping, Resizing, letterbox
from tests.unit.runtime.transforms import plain

SIDES = st.integers(1, 9)


@st.composite
def images(draw, most=2):
    shape = (draw(st.integers(1, most)), draw(SIDES), draw(SIDES), draw(st.integers(1, 2)))
    dtype = draw(st.sampled_from([np.uint8, np.float32, np.int8]))
    numbers = st.floats(-100, 100, width=32) if dtype is np.float32 else st.integers(*ends(dtype))
    return draw(arrays(dtype, shape, elements=numbers))


def ends(dtype):
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


@settings(max_examples=60, deadline=None)
@given(images(), SIDES, SIDES, st.sampled_from(["bilinear", "nearest"]))
def test_a_resized_image_is_its_definition_bit_for_bit(image, height, width, method):
    options = Resize(size=(height, width), method=method)
    made = Resizing(options, *image.shape[1:3])(image)
    want = plain.resize(image, (height, width), method)
    assert made.dtype == want.dtype
    assert np.array_equal(made, want)


@settings(max_examples=60, deadline=None)
@given(
    images(most=1),
    arrays(np.float32, st.tuples(st.integers(1, 4), st.just(4)), elements=st.floats(-1, 2, width=16)),
    SIDES,
    SIDES,
)
def test_a_crop_is_its_definition(image, boxes, height, width):
    made = Cropping(Crop(size=(height, width), fill=7))(image, boxes, len(boxes))
    want = plain.crop(image, boxes, (height, width), 7)
    # Samples on the edge may fall on either side of it by their last bit.
    edge = (made == 7) != (want == 7)
    assert edge.mean() < 0.2
    assert np.allclose(made[~edge], want[~edge], rtol=1e-5, atol=1e-3)


def test_crops_past_the_count_are_zeros_and_cost_nothing():
    image = np.ones((1, 8, 8, 1), np.uint8)
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    made = Cropping(Crop(size=(4, 4), fill=5))(image, boxes, 1)
    assert made[0].min() == 1
    assert not made[1].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_a_box_of_odd_numbers_gives_what_fills(value):
    boxes = np.array([[value, 0, 1, 1], [0, 0, value, 1]], np.float32)
    made = Cropping(Crop(size=(3, 3), fill=2))(np.ones((1, 8, 8, 1), np.uint8), boxes, 2)
    assert np.isfinite(made).all()
    assert made[0].max() == 2


def test_nearest_crops_pick_pixels():
    image = np.arange(16, dtype=np.int8).reshape(1, 4, 4, 1)
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    made = Cropping(Crop(size=(4, 4), method="nearest"))(image, boxes, 1)
    assert np.array_equal(made[0], image[0])


def test_a_letterboxed_image_keeps_its_proportions():
    image = np.full((1, 40, 80, 3), 200, np.uint8)
    made = Resizing(Resize(size=(32, 32), aspect="letterbox", fill=9, dtype="uint8"), 40, 80)(image)
    assert (made.shape, made.dtype.name) == ((1, 32, 32, 3), "uint8")
    assert letterbox((40, 80), (32, 32)) == ((16, 32), (8, 0))
    assert (made[0, 8:24] == 200).all()
    assert (made[0, :8] == 9).all()
    assert (made[0, 24:] == 9).all()


def test_whole_numbers_are_rounded_and_kept_in_their_range():
    image = np.array([-300, 0.5, 1.5, 99.6, 300, 254.5], np.float32).reshape(1, 1, 6, 1)
    made = Resizing(Resize(size=(1, 6), dtype="uint8"), 1, 6)(image)
    assert made.reshape(-1).tolist() == [0, 0, 2, 100, 255, 254]
