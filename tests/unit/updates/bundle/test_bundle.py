from __future__ import annotations

import hashlib
import io
import json
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.preprocessing import Quantisation
from collab.errors import CollabError, IntegrityError, ModelError
from collab.updates.bundle import manifest as bounds
from collab.updates.bundle.answers import best, label_port
from collab.updates.bundle.golden import check_golden, golden_inputs
from collab.updates.bundle.inputs import check_input, model_inputs
from collab.updates.bundle.manifest import MANIFEST, About, Port, decode_manifest
from collab.updates.bundle.read import is_bundle, open_bundle
from collab.updates.bundle.write import encode_bundle, write_bundle
from collab.updates.policies.reference import ReferenceFile, decode_reference
from tests.unit.updates.bundle.bundles import IMAGES, INPUT, OUTPUT, SCORES, parts

WHOLE = encode_bundle(parts())


def unpacked(data: bytes = WHOLE) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: list[tuple[str | zipfile.ZipInfo, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return target.getvalue()


def opened(tmp_path, data: bytes):
    path = tmp_path / "m.collab"
    path.write_bytes(data)
    return open_bundle(path)


def test_a_bundle_gives_back_what_went_in(tmp_path):
    bundle = write_bundle(tmp_path / "m.collab", parts())
    want = parts()
    assert bundle.model() == want.model
    assert bundle.preprocessing() == want.preprocessing
    assert bundle.labels() == want.labels
    assert bundle.manifest.about == want.about
    assert bundle.manifest.inputs == (INPUT,)
    golden = bundle.golden()
    assert golden is not None
    inputs, outputs = golden
    assert np.array_equal(inputs["image"], IMAGES)
    assert np.array_equal(outputs["scores"], SCORES)
    (variant,) = bundle.manifest.variants
    assert (variant.backend, bundle.read(variant.file)) == ("onnxruntime", b"onnx")
    assert bundle.digest == hashlib.sha256(unpacked()[MANIFEST]).hexdigest()
    assert is_bundle(tmp_path / "m.collab")
    assert [file.name for file in tmp_path.iterdir()] == ["m.collab"]


def test_a_bundle_may_say_what_its_data_was_like_and_old_ones_do_not(tmp_path):
    assert opened(tmp_path, WHOLE).reference() is None
    said = ReferenceFile(examples=90, accuracy=0.75)
    stored = opened(tmp_path, encode_bundle(parts(reference=said))).reference()
    assert stored is not None
    assert decode_reference(stored, "it") == said
    odd = opened(tmp_path, encode_bundle(parts(reference=ReferenceFile(examples=90, accuracy=7.0))))
    with pytest.raises(ModelError, match=r"reference\.json: accuracy: 7.0 is not within 0 to 1"):
        odd.reference()


def test_the_same_content_is_the_same_bytes_and_other_content_is_not():
    assert encode_bundle(parts()) == WHOLE
    assert encode_bundle(parts(card=b"# Other\n")) != WHOLE
    assert encode_bundle(parts(about=About(name="clothes", version="1.2.1"))) != WHOLE


def test_a_bare_model_is_a_bundle_too(tmp_path):
    bare = parts(preprocessing=None, labels=(), card=None, golden=None, variants={})
    bundle = opened(tmp_path, encode_bundle(bare))
    assert (bundle.preprocessing(), bundle.labels(), bundle.golden()) == (None, (), None)
    assert golden_inputs(bundle, 2) == []
    assert check_golden(bundle, lambda arrays: [], "any") is None


def renamed(name: str) -> bytes:
    """A bundle whose model has another name, in its manifest too."""
    files = unpacked()
    manifest = json.loads(files.pop(MANIFEST))
    files[name] = files.pop("model.tflite")
    manifest["model"]["file"] = name
    return packed([(MANIFEST, json.dumps(manifest).encode()), *files.items()])


@pytest.mark.parametrize(
    "name",
    ["../model.tflite", "/etc/model", "a/../../b", "a\\b", "c:model", "a//b", "a/", "A", "..", "m\0"],
)
def test_a_name_that_leads_out_of_the_bundle_is_refused(tmp_path, name):
    with pytest.raises(ModelError):
        opened(tmp_path, renamed(name))


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("model.tflite")
    entry.external_attr = 0o120777 << 16
    return entry


def unsafe() -> dict[str, bytes]:
    files = unpacked()
    rest = [(name, data) for name, data in files.items() if name != "model.tflite"]
    model = ("model.tflite", files["model.tflite"])
    crowd = [(f"f{i}", b"") for i in range(bounds.MAX_FILES + 2)]
    return {
        "is compressed, encrypted or no plain file": packed([*files.items()], zipfile.ZIP_DEFLATED),
        "'model.tflite' is compressed, encrypted or no": packed([*rest, (link(), b"/etc/passwd")]),
        "'variants/' is compressed, encrypted or no": packed([*rest, model, ("variants/", b"")]),
        "not those of its manifest (more)": packed([*files.items(), ("more", b"")]),
        "not those of its manifest (model.tflite)": packed(rest),
        "not those of its manifest (a size)": packed([*rest, ("model.tflite", b"short")]),
        f"files are over {bounds.MAX_FILES + 1}": packed([*rest, model, *crowd]),
        "is no packaged model, or": packed([model]),
        "is no packaged model": b"PK\x03\x04 and nothing more",
        "or is cut off": WHOLE[:-30],
        "packaged model, or is cut off": b"",
    }


@pytest.mark.parametrize("text", unsafe())
def test_an_unsafe_or_broken_file_is_refused_before_anything_is_read(tmp_path, text):
    with pytest.raises(ModelError) as refused:
        opened(tmp_path, unsafe()[text])
    assert str(refused.value).startswith(f"{tmp_path / 'm.collab'}: ")
    assert text in str(refused.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"'model\.tflite' stands there twice"):
        opened(tmp_path, packed([*unpacked().items(), ("model.tflite", b"other")]))


def test_a_changed_file_is_refused_when_it_is_read(tmp_path):
    files = unpacked()
    files["model.tflite"] = files["model.tflite"][:-1] + b"\0"
    bundle = opened(tmp_path, packed([*files.items()]))
    with pytest.raises(IntegrityError, match=r"model\.tflite is not the file that was packaged"):
        bundle.model()
    assert bundle.labels() == ("coat", "dress", "shirt")


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unseen_or_raises_something_foreign(tmp_path_factory, place, change):
    data = bytearray(WHOLE)
    data[place] ^= change
    path = tmp_path_factory.getbasetemp() / "changed.collab"
    path.write_bytes(data)
    try:
        bundle = open_bundle(path)
        # Dates and the like may change; what is used may not.
        got = {entry.file: bundle.read(entry) for entry in bundle.manifest.files}
        assert got == {name: body for name, body in unpacked().items() if name != MANIFEST}
        bundle.preprocessing()
        bundle.labels()
        bundle.golden()
    except CollabError:
        pass


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version 2, this collab reads 1"),
        ({"signature": "x"}, "unknown field `signature`"),
        ({"inputs": []}, "inputs and outputs must be there"),
        ({"inputs": [{"name": "x", "shape": [-1], "dtype": "float32"}]}, "negative dimension"),
        ({"inputs": [{"name": "x", "shape": [1], "dtype": "string"}]}, "'string' cannot travel"),
        (
            {"outputs": [{"name": "x", "shape": [1], "dtype": "float32", "quantisation": {"scale": 1.0}}]},
            "is float32 and has a quantisation",
        ),
        (
            {"outputs": [{"name": "x", "shape": [1], "dtype": "int8", "quantisation": {"scale": 0.0}}]},
            "has scale 0.0",
        ),
        ({"model": {"file": "model.tflite", "sha256": "0", "bytes": 1}}, "not a SHA-256"),
        (
            {"model": {"file": "model.tflite", "sha256": "0" * 64, "bytes": 1 << 40}},
            f"over {bounds.MAX_FILE_BYTES}",
        ),
        (
            {"labels": {"file": "labels.json", "sha256": "0" * 64, "bytes": 1 << 30}},
            f"over {bounds.MAX_SIDE_BYTES}",
        ),
        ({"labels": {"file": "model.tflite", "sha256": "0" * 64, "bytes": 1}}, "stands there twice"),
        ({"about": {"name": "no good"}}, "name 'no good'"),
        ({"about": {"name": "a", "version": "x" * 2000}}, "over 1024 characters"),
        (
            {"golden": {"count": 9, "inputs": [], "outputs": [], "runtime_class": ""}},
            "golden.inputs: 0 files for 1 tensors",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_by_the_field(change, text):
    data = json.dumps(json.loads(unpacked()[MANIFEST]) | change).encode()
    with pytest.raises(ModelError) as refused:
        decode_manifest(data)
    assert text in str(refused.value)


def test_what_cannot_be_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(ModelError, match=r"has \d+ bytes, over"):
        encode_bundle(parts(card=b"x" * (bounds.MAX_SIDE_BYTES + 1)))
    with pytest.raises(CollabError, match="cannot be written"):
        write_bundle(tmp_path / "none" / "m.collab", parts())
    assert not list(tmp_path.iterdir())


def test_labels_name_the_output_that_has_as_many_numbers():
    other = Port(name="boxes", shape=(1, 4), dtype="float32")
    assert label_port([other, OUTPUT], 3) == OUTPUT
    with pytest.raises(ModelError, match="5 labels do not say which output"):
        label_port([other, OUTPUT], 5)
    top = best(np.array([[-28, 100, 100]], np.int8), OUTPUT, ("a", "b", "c"), 2)
    assert [(one.label, one.score) for one in top] == [("b", 228 / 256), ("c", 228 / 256)]


def test_a_preprocessing_that_makes_another_shape_is_refused():
    steps = parts().preprocessing
    check_input([INPUT], steps)
    wide = msgspec.structs.replace(INPUT, shape=(1, 4, 5, 1))
    with pytest.raises(ModelError, match=r"takes \[1, 4, 5, 1\] and the preprocessing makes \[1, 4, 4, 1\]"):
        check_input([wide], steps)
    with pytest.raises(ModelError, match="has inputs 'image', 'image'"):
        check_input([INPUT, INPUT], steps)
    with pytest.raises(ModelError, match="is int8 without a quantisation"):
        check_input([msgspec.structs.replace(INPUT, dtype="int8")], steps)
    whole = msgspec.structs.replace(INPUT, dtype="uint8", quantisation=Quantisation(scale=0.5))
    assert (
        model_inputs(whole, np.full((1, 4, 4, 1), 3.0, np.float32)).tolist()
        == np.full((1, 1, 4, 4, 1), 6).tolist()
    )


def test_packaged_answers_are_compared_exactly_within_one_class_only(tmp_path):
    bundle = opened(tmp_path, WHOLE)
    answers = {IMAGES[i].tobytes(): SCORES[i] for i in range(2)}

    def right(arrays):
        return [answers[arrays[0].tobytes()]]

    def off_by_one(arrays):
        return [np.where(right(arrays)[0] > 0, right(arrays)[0] - 1, right(arrays)[0] + 1).astype(np.int8)]

    report = check_golden(bundle, right, "litert test")
    assert (report.compared, report.exact, report.max_abs_diff, report.passed) == (2, 2, 0.0, True)
    report = check_golden(bundle, off_by_one, "litert test")
    assert (report.exact, report.max_abs_diff, report.passed) == (0, 1 / 256, False)
    assert check_golden(bundle, off_by_one, "another").passed
    assert [list(one) for one in golden_inputs(bundle, 1)] == [["image"]]
