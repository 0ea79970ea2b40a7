"""Boxes: suppression against its definition, and what detectors' numbers decode to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from collab.core.transforms import Anchors, DecodeBoxes, Nms
from collab.runtime.transforms import boxes as transforms
from collab.runtime.transforms.images import letterbox
from tests.unit.runtime.transforms import plain

PLACES = st.integers(0, 8).map(lambda n: n / 8)


@st.composite
def detections(draw):
    count, classes = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    places = draw(arrays(np.float32, (count, 4), elements=PLACES.map(np.float32)))
    scores = draw(arrays(np.float32, (count, classes), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))
    return places, scores


@settings(max_examples=150, deadline=None)
@given(detections(), st.booleans(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.0, 0.4]))
def test_suppression_is_greedy_as_its_definition_says(found, per_class, iou, score):
    places, scores = found
    options = Nms(most=5, iou=iou, score=score, per_class=per_class)
    kept, rated, kinds, count = transforms.suppress(options, places, scores)
    want = plain.suppress(places, scores, 5, iou, score, per_class)
    assert count.tolist() == [len(want)]
    for at, (box, value, kind) in enumerate(want):
        assert np.array_equal(kept[at], box)
        assert (rated[at], kinds[at]) == (value, kind)
    assert not kept[len(want) :].any()
    assert not rated[len(want) :].any()


def test_boxes_of_one_class_may_overlap_those_of_another():
    places = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9]], np.float32)
    scores = np.array([[0.9, 0], [0, 0.8]], np.float32)
    assert transforms.suppress(Nms(most=4, per_class=True), places, scores)[3].tolist() == [2]
    assert transforms.suppress(Nms(most=4, per_class=False), places, scores)[3].tolist() == [1]


def test_the_background_is_no_class():
    places = np.array([[0, 0, 1, 1]], np.float32)
    scores = np.array([[0.9, 0.2, 0.6]], np.float32)
    _, rated, kinds, count = transforms.suppress(
        Nms(most=2, per_class=False, background=True), places, scores
    )
    assert (count.tolist(), kinds[0], rated[0]) == ([1], 2, np.float32(0.6))


def test_what_is_not_a_number_is_left_out():
    places = np.array([[np.nan, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.2, 0.2]], np.float32)
    scores = np.array([0.9, 0.8, np.nan], np.float32)
    kept, _, _, count = transforms.suppress(Nms(most=3), places, scores)
    assert count.tolist() == [1]
    assert kept[0].tolist() == [0, 0, 1, 1]


def test_offsets_of_nothing_decode_to_the_anchors():
    options = DecodeBoxes(anchors=((0.5, 0.5, 0.2, 0.4), (0.1, 0.2, 0.2, 0.2)))
    anchors = transforms.anchors_of(options.anchors)
    made = transforms.decode(options, anchors, np.zeros((1, 2, 4), np.float32))
    assert np.allclose(made, [[0.4, 0.3, 0.6, 0.7], [0, 0.1, 0.2, 0.3]])


def test_offsets_move_and_stretch_anchors():
    options = DecodeBoxes(anchors=((0.5, 0.5, 0.2, 0.4),))
    anchors = transforms.anchors_of(options.anchors)
    given_ = np.array([[[10, -5, 5 * np.log(2), 0]]], np.float32)
    made = transforms.decode(options, anchors, given_)
    assert np.allclose(made, [[0.7 - 0.2, 0.3 - 0.2, 0.7 + 0.2, 0.3 + 0.2]])


def test_anchors_of_grids_are_their_cells_centres():
    options = DecodeBoxes(
        anchors=Anchors(grids=((2, 2, 2), (1, 1, 1))), order="xywh", scales=(128,) * 4, exponential=False
    )
    anchors = transforms.anchors_of(options.anchors)
    assert anchors[:, :2].tolist() == [
        *([0.25, 0.25],) * 2,
        *([0.25, 0.75],) * 2,
        *([0.75, 0.25],) * 2,
        *([0.75, 0.75],) * 2,
        [0.5, 0.5],
    ]
    given_ = np.zeros((1, 9, 16), np.float32)
    given_[0, 8, :4] = 64, -32, 128, 64  # x, y, w, h in pixels of 128
    made = transforms.decode(options, anchors, given_)
    assert np.allclose(made[8], [0, 0.5, 0.5, 1.5])


def test_only_the_hottest_cell_of_a_place_keeps_its_score():
    heat = np.zeros((1, 4, 4, 1), np.float32)
    heat[0, 1, 1], heat[0, 1, 2], heat[0, 3, 3] = 0.9, 0.8, 0.5
    sizes = np.full((1, 4, 4, 2), 0.25, np.float32)
    found, scores = transforms.centre_points(heat, sizes, None)
    best = scores.reshape(4, 4)
    assert (best[1, 1], best[1, 2], best[3, 3]) == (np.float32(0.9), 0, np.float32(0.5))
    assert np.allclose(found[5], [0.25, 0.25, 0.5, 0.5])
    offsets = np.zeros((1, 4, 4, 2), np.float32)
    assert np.allclose(transforms.centre_points(heat, sizes, offsets)[0][5], [0.125, 0.125, 0.375, 0.375])


@pytest.mark.parametrize(("image", "size"), [((40, 80), (32, 32)), ((90, 30), (64, 96)), ((10, 10), (7, 7))])
def test_boxes_of_a_letterbox_go_back_to_the_image(image, size):
    (height, width), (y, x) = letterbox(image, size)
    whole = np.array([[y / size[0], x / size[1], (y + height) / size[0], (x + width) / size[1]]], np.float32)
    assert np.allclose(transforms.unletterbox(image, size, whole), [[0, 0, 1, 1]], atol=1e-6)
