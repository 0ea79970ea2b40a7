"""Pipelines: tensors are checked through all steps, plans are wired, and run in one process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from collab.assets import path as asset
from collab.client.follow import takes_the_place
from collab.client.local import LocalModel
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import NodeView
from collab.coordinator.deploy import _check_transforms
from collab.coordinator.one_process import in_one_process, is_pipeline, open_models
from collab.coordinator.pipelines import fit
from collab.coordinator.planning import read_graph, stage_blobs
from collab.coordinator.retarget import retarget
from collab.coordinator.whole import local_model
from collab.core.ids import NodeName, PlanName
from collab.core.pipeline import convert_pipeline
from collab.core.plan import NodeRef
from collab.core.transforms import EACH, KINDS, Nms
from collab.errors import ModelError, PlanError
from collab.planner.prediction import chain_of
from collab.runtime.litert import LiteRT
from collab.toolchain.scenes import scene

DATA = Path(__file__).parents[2] / "data"
DIGITS = str(asset("digits.tflite"))
IMAGES = {"image": {"shape": [3, 28, 28, 1], "dtype": "float32"}}
READ = {"id": "read", "of": "input.image", "model": DIGITS}


def fitted(*steps, outputs=("read",), **more):
    tree = {"steps": list(steps), "outputs": list(outputs), **more}
    return fit(convert_pipeline(tree), PlanName("t"), Path())


def placed(found, where=None):
    where = where or {}
    places = {stage.id: tuple(where.get(stage.id, "a")) for stage in found.stages}
    return found.placed(places, [NodeRef(name=NodeName(name)) for name in "abc"])


@pytest.fixture(scope="module")
def scenes():
    """The shipped pipeline."""
    file = asset("scene_pipeline.yaml")
    return fit(convert_pipeline(yaml.safe_load(file.read_text())), PlanName("x"), file.parent)


@pytest.fixture(scope="module")
def drawn():
    """Held-out scenes."""
    with np.load(asset("digits_heldout.npz")) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    rng = np.random.default_rng(11)
    return [scene(images, labels, rng) for _ in range(12)]


def test_what_only_a_model_reads_need_not_be_declared():
    found = fitted(READ)
    assert [(s.name, s.shape) for s in found.inputs] == [("image", (1, 28, 28, 1))]
    assert [s.name for s in found.outputs] == ["read.probabilities"]
    plan = placed(found)
    assert stage_blobs(plan, Path()) == found.blobs
    assert [entry.file for entry in plan.stages[0].file_names] == ["image", "probabilities"]


@pytest.mark.parametrize(
    ("steps", "more", "message"),
    [
        (
            [{**READ, "of": "input.x"}],
            {"inputs": {"x": {"shape": [1, 8, 8, 1]}}},
            r"\(read\)\.of: 'x' is float32\[1, 8, 8, 1\], .*'image' takes float32\[1, 28, 28, 1\]",
        ),
        ([READ], {"inputs": IMAGES}, "give each: true to run it for every row"),
        (
            [READ],
            {"inputs": {"image": {"shape": [1, 28, 28, 1], "dtype": "uint8"}}},
            "put a transform between them",
        ),
        ([{**READ, "each": True}], {}, "declare it under inputs"),
        ([{**READ, "of": ["input.image", "input.y"]}], {}, "2 given; the model takes 1: image"),
        ([{**READ, "of": {"x": "input.image"}}], {}, "the model's inputs are image"),
        ([{**READ, "each": "input.image"}], {"inputs": IMAGES}, "each: 'image' .* is no count"),
        ([{**READ, "at": [99]}], {}, r"\(read\)\.at"),
        (
            [{"id": "read", "of": "input.x", "transform": {"kind": "softmax"}}],
            {},
            "'input.x': declare it under inputs",
        ),
        (
            [{"id": "read", "of": "input.x", "transform": {"kind": "nms", "most": 3}}],
            {"inputs": {"x": {"shape": [3, 4]}}},
            r"steps\[0\] \(read\)\.transform: nms: takes boxes and scores, got 1",
        ),
        (
            [READ],
            {"inputs": {"image": {"shape": [1, -28, 28, 1]}}},
            r"inputs \(image\): .* negative dimension",
        ),
        (
            [{"id": "read", "of": "input.x", "transform": {"kind": "quantise"}}],
            {"inputs": {"x": {"shape": [3]}}},
            "tells its scale; give scale and zero",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_step(steps, more, message):
    with pytest.raises(PlanError, match=message):
        fitted(*steps, **more)


def test_an_input_that_nothing_reads_is_refused():
    more = {"shape": [1]}
    with pytest.raises(PlanError, match=r"inputs \(y\): no step reads it"):
        fitted(READ, inputs={"image": {"shape": [1, 28, 28, 1]}, "y": more})


def test_answers_that_no_step_has_meet_in_one_more():
    top = {"id": "top", "of": "read", "transform": {"kind": "top_k", "k": 3}}
    log = {"id": "log", "of": "read", "transform": {"kind": "softmax"}}
    found = fitted(READ, top, outputs=["read.probabilities", "top.indices"])
    assert [stage.id for stage in found.stages] == ["read", "top"]
    found = fitted(READ, top, log, outputs=["top.indices", "log"])
    assert [stage.id for stage in found.stages] == ["read", "top", "log", "answer"]
    plan = placed(found, {"top": "b", "answer": "b"})
    image = np.random.default_rng(0).random((1, 28, 28, 1), np.float32)
    indices, probabilities = in_one_process(plan, found.graphs)([image])
    alone = LiteRT().load(Path(DIGITS), 1).run([image])[0]
    assert indices[0].tolist() == np.argsort(-alone[0], kind="stable")[:3].tolist()
    assert probabilities.shape == (1, 10)


def test_a_quantised_model_tells_the_scale_of_what_goes_in_and_comes_out():
    found = fitted(
        {"id": "q", "of": "input.x", "transform": {"kind": "quantise"}},
        {"id": "read", "of": "q", "model": str(DATA / "digits_int8.tflite")},
        {"id": "real", "of": "read", "transform": {"kind": "dequantise"}},
        outputs=["real"],
        inputs={"x": {"shape": [1, 28, 28, 1]}},
    )
    graph = found.graphs["read"]
    scales = [graph.scales[spec.name] for spec in (*graph.inputs, *graph.outputs)]
    assert [(s.transform.scale, s.transform.zero) for s in found.stages if s.transform is not None] == scales
    with np.load(asset("digits_heldout.npz")) as held_out:
        images, labels = held_out["images"][:20].astype(np.float32) / 255, held_out["labels"][:20]
    run = in_one_process(placed(found), found.graphs)
    right = [
        int(run([image[None]])[0].argmax()) == label for image, label in zip(images, labels, strict=True)
    ]
    assert sum(right) >= 19


def test_a_model_may_be_cut_and_run_for_each_row_and_answers_the_same():
    rows = {**READ, "each": "input.n"}
    given = {**IMAGES, "n": {"shape": [1], "dtype": "int32"}}
    whole, cut = fitted(rows, inputs=given), fitted({**rows, "at": [5, 20]}, inputs=given)
    assert [stage.id for stage in cut.stages] == ["read-0", "read-1", "read-2"]
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    answers = [
        in_one_process(placed(found), found.graphs)([images, np.array([2], np.int32)])[0]
        for found in (whole, cut)
    ]
    one = LiteRT().load(Path(DIGITS), 1)
    want = np.concatenate([one.run([image[None]])[0] for image in images[:2]])
    for answer in answers:
        assert answer[:2].tobytes() == want.tobytes()
        assert not answer[2].any()


def test_the_shipped_pipeline_reads_the_digits_of_held_out_scenes(scenes, drawn):
    run = in_one_process(placed(scenes), scenes.graphs)
    right = there = said = 0
    for one in drawn:
        found, _, counts, probabilities = run([one.image[None]])
        boxes, count = found.astype(np.float32), int(counts[0])
        said += count
        there += len(one.labels)
        middles = (boxes[:count, :2] + boxes[:count, 2:]) / 2 * 192
        for box, label in zip(one.boxes, one.labels, strict=True):
            off = np.abs(middles - (box[:2] + box[2:]) / 2).max(axis=1, initial=0)
            right += bool(len(off)) and int(probabilities[: len(off)][off.argmin()].argmax()) == label
    assert there > 20
    assert right / there > 0.9
    assert abs(said - there) <= 2


def test_a_requester_computes_a_pipeline_from_a_folder_of_its_models(scenes, tmp_path):
    plan = placed(scenes)
    model = local_model(plan, Path())
    assert isinstance(model, LocalModel)
    moved = plan.replace(models=tuple(_at(m, "elsewhere/" + Path(m.path).name) for m in plan.models))
    with pytest.raises(ModelError, match="scene_detector"):
        local_model(moved, tmp_path)
    for name in ("scene_detector.tflite", "digits.tflite"):
        (tmp_path / name).write_bytes(asset(name).read_bytes())
    assert open_models(moved, tmp_path).keys() == {"detect", "digit"}
    (tmp_path / "digits.tflite").write_bytes((DATA / "digits_int8.tflite").read_bytes())
    with pytest.raises(ModelError, match="give the folder of the files"):
        local_model(moved, tmp_path)


def _at(model, path):
    return msgspec.structs.replace(model, path=path)


def view(name, transforms):
    described = pb.DescribeReply(name=name, software="collab/0.1", transforms=transforms)
    return NodeView(NodeName(name), "grpc://h:1", described, 1.0)


def test_a_node_that_does_not_know_a_transform_is_named(scenes):
    plan = placed(scenes, {"digit": "b"})
    views = {name: view(name, (*KINDS, EACH)) for name in "ab"}
    _check_transforms(plan, views)
    with pytest.raises(
        PlanError, match=r"stages\[0\].transform: 'resize' is not known on node 'a'.*knows none"
    ):
        _check_transforms(plan, views | {"a": view("a", ())})
    with pytest.raises(PlanError, match=r"stages\[7\].each: 'each' is not known on node 'b'"):
        _check_transforms(plan, views | {"b": view("b", KINDS)})


def test_what_pipelines_cannot_do_yet_is_refused_by_name(scenes):
    plan = placed(scenes)
    assert is_pipeline(plan)
    with pytest.raises(PlanError, match="is of 2 models; one can be replaced"):
        retarget(plan, scenes.graphs["digit"], scenes.graphs["digit"], "m.tflite")
    one = placed(fitted({**READ, "each": True}, inputs=IMAGES))
    graph = read_graph(Path(DIGITS))
    with pytest.raises(PlanError, match="is a pipeline, whose models cannot be replaced"):
        retarget(one, graph, graph, "m.tflite")
    with pytest.raises(PlanError, match="no plain chain"):
        chain_of(plan)


def test_other_transforms_are_other_work(scenes):
    plan = placed(scenes)
    boxes = plan.stage("boxes")
    stricter = _at_stage(plan, "boxes", transform=Nms(most=8, score=0.9))
    assert takes_the_place(placed(scenes, {"digit": "b"}), plan, same_model=True)
    assert not takes_the_place(stricter, plan, same_model=True)
    assert takes_the_place(stricter, plan, same_model=False), "as other weights are"
    assert boxes.transform != stricter.stage("boxes").transform


def _at_stage(plan, stage_id, **changes):
    replaced = (msgspec.structs.replace(s, **changes) if s.id == stage_id else s for s in plan.stages)
    return plan.replace(stages=tuple(replaced))


def test_the_card_of_the_shipped_detector_is_of_its_file():
    card = json.loads(asset("scene_detector.json").read_text())
    data = asset("scene_detector.tflite").read_bytes()
    assert card["model"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert card["model"]["bytes"] == len(data) < 200_000
    assert min(card["held_out"]["precision"], card["held_out"]["recall"]) > 0.95
