"""What a profile says of a model: places, ranges to time, tensors, codecs at cuts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from collab.assets import path as asset
from collab.codec.tensors import encode
from collab.coordinator.profiled_model import (
    SAMPLE_BYTES,
    Boundary,
    CodecTrials,
    boundaries,
    model_tensors,
    places,
    splits,
    working_bytes,
)
from collab.core.tensor import TensorSpec
from collab.graph import Graph, allowed_cuts, cuts, random_inputs, read_model
from collab.runtime.litert import LiteRT


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_model(asset("digits.tflite"))


def test_operators_are_timed_between_all_cuts_of_a_small_model(graph: Graph):
    assert places(graph) == (0, *allowed_cuts(graph), graph.op_count)


def test_splits_are_the_same_for_a_seed_and_begin_with_the_whole_model(graph: Graph):
    found = list(splits(graph, places(graph), 7))
    assert found == list(splits(graph, places(graph), 7))
    assert found != list(splits(graph, places(graph), 8))
    assert found[0] == ()
    works = set(allowed_cuts(graph))
    for at in found[1:]:
        assert at == tuple(sorted(set(at)))
        assert 0 < len(at) < len(works)
        assert set(at) <= works
    lengths = {b - a for at in found for a, b in pairwise((0, *at, graph.op_count))}
    assert min(lengths) <= 2
    assert max(lengths) == graph.op_count


def test_a_model_without_cuts_has_one_split():
    class Small:
        data, op_count = b"", 1

    assert list(splits(Small(), (0, 1), 0)) == [()]


def test_tensors_tell_the_boundary_of_every_cut(graph: Graph):
    tensors = model_tensors(graph)
    for cut in cuts(graph):
        live = {
            t.name
            for t in tensors
            if t.made < cut.at and (t.output or any(reader >= cut.at for reader in t.readers))
        }
        assert live == {spec.name for spec in cut.tensors}
    assert {t.name for t in tensors if t.made == -1} == {spec.name for spec in graph.inputs}
    assert {t.name for t in tensors if t.output} == {spec.name for spec in graph.outputs}


def test_an_operator_works_on_what_it_reads_and_makes(graph: Graph):
    sizes = working_bytes(graph)
    assert len(sizes) == graph.op_count
    by_cut = {cut.at: cut.bytes for cut in cuts(graph)}
    assert all(sizes[k] >= (by_cut[k] or 0) for k in range(1, graph.op_count))


def test_boundaries_are_what_travels_at_every_place_and_end_with_the_answer(graph: Graph):
    (given,) = random_inputs(graph.inputs, count=1)
    names = [spec.name for spec in graph.inputs]
    found = list(boundaries(graph, places(graph), LiteRT(), [dict(zip(names, given, strict=True))]))
    assert tuple(b.at for b in found) == places(graph)
    by_cut = {cut.at: cut.tensors for cut in cuts(graph)}
    for boundary in found[1:-1]:
        assert tuple(spec for spec, _ in boundary.tensors) == by_cut[boundary.at]
    whole = LiteRT().load(bytes(graph.data), 1)
    ((_, answer),) = found[-1].tensors
    assert answer.tobytes() == whole.run(given)[0].tobytes()
    whole.close()


def _boundary(at: int, array: np.ndarray) -> Boundary:
    return Boundary(at, [(TensorSpec("t", array.shape, array.dtype.name), array)])


def test_codecs_are_judged_by_all_inputs_at_a_place():
    zeros = np.zeros((64, 64), np.float32)
    noise = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    trials = CodecTrials(["int8", "raw+lz4", "raw"])
    trials.add(_boundary(3, zeros))
    trials.add(_boundary(3, noise))
    by_codec = {entry.codec: entry for entry in trials.at(3)}
    assert set(by_codec) == {"int8", "raw+lz4"}
    assert by_codec["int8"].ratio == pytest.approx(4.0, rel=0.01)
    assert 0 < by_codec["int8"].error < 0.01
    assert by_codec["raw+lz4"].error == 0
    spec = TensorSpec("t", zeros.shape, "float32")
    sent = sum(len(encode(spec, array, "raw+lz4").data) for array in (zeros, noise))
    assert by_codec["raw+lz4"].ratio == pytest.approx(2 * zeros.nbytes / sent, rel=0.01)
    assert trials.at(4) == ()


def test_samples_are_bounded_and_of_places_all_over():
    trials = CodecTrials(["int8"])
    for at in range(200):
        trials.add(_boundary(at, np.full((64, 1024), at, np.float32)))
    sample = trials.sample
    assert 0 < sum(spec.nbytes for spec, _ in sample) <= SAMPLE_BYTES
    assert len(sample) > 1
    assert max(float(array[0, 0]) for _, array in sample) > 100


def test_of_a_large_tensor_the_first_rows_are_the_sample():
    trials = CodecTrials(["int8"])
    array = np.arange(4 * SAMPLE_BYTES // 4, dtype=np.float32).reshape(4, -1, 256)
    trials.add(_boundary(1, array))
    ((spec, part),) = trials.sample
    assert spec.nbytes == part.nbytes == SAMPLE_BYTES
    assert part.shape[-1] == 256
    assert np.array_equal(part.ravel(), array.ravel()[: part.size])
