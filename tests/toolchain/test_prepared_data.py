"""Prepared folders: splits, statistics, bytes; a device makes of a file what training saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from collab.core.preprocessing import ImageSteps, TableSteps, WindowSteps
from collab.errors import InputError, IntegrityError, UsageError
from collab.runtime.preprocessing.raw import raw_inputs
from collab.toolchain.data.findings import Policies
from collab.toolchain.data.images import ImageKind
from collab.toolchain.data.prepare import prepare
from collab.toolchain.data.prepared import SPLITS, Prepared
from collab.toolchain.data.tables import TableKind
from collab.toolchain.data.windows import WindowKind
from tests.integration.processes import command
from tests.unit.toolchain.data import raw

pytestmark = pytest.mark.heavy("toolchain")

IMAGES = ImageKind(
    ImageSteps(height=8, width=8, colour="rgb", fit="cover", layout="chw"), normalise="standard"
)


def origins(prepared: Prepared, split: str) -> list[str]:
    found: list[str] = json.loads((prepared.folder / f"{split}.origins.json").read_text())
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 pictures of two classes."""
    return raw.pictures(tmp_path_factory.mktemp("raw") / "photos", {"cat": 24, "dog": 16})


def test_a_device_makes_of_a_picture_the_bytes_that_training_saw(photos, tmp_path):
    prepared = prepare(photos, IMAGES, tmp_path / "out", seed=3)
    seen = 0
    for split in SPLITS:
        examples = prepared.split(split)
        assert examples.inputs.dtype == np.float32
        for name, label, x in zip(origins(prepared, split), examples.labels, examples.inputs, strict=True):
            ((_, made),) = raw_inputs(photos / name, prepared.preprocessing)
            assert made.tobytes() == x.tobytes()
            assert name.startswith(prepared.classes[label])
            seen += 1
    assert seen == 40


def test_statistics_are_those_of_the_training_split_alone(photos, tmp_path):
    prepared = prepare(photos, IMAGES, tmp_path / "out", seed=3)
    pixels = prepared.raw("train").stored.reshape(-1, 3) / 255
    scaling = prepared.preprocessing.steps.scaling
    assert np.allclose(scaling.shift, pixels.mean(axis=0), atol=1e-9)
    assert np.allclose(scaling.width, pixels.std(axis=0), atol=1e-9)
    everything = np.concatenate([prepared.raw(split).stored for split in SPLITS]).reshape(-1, 3) / 255
    assert not np.allclose(scaling.shift, everything.mean(axis=0), atol=1e-9)


def test_splits_are_by_class_disjoint_and_the_same_for_a_seed(photos, tmp_path):
    one = prepare(photos, IMAGES, tmp_path / "one", seed=3)
    again = prepare(photos, IMAGES, tmp_path / "again", seed=3)
    other = prepare(photos, IMAGES, tmp_path / "other", seed=4)
    assert files(one.folder) == files(again.folder)
    assert one.digest != other.digest
    names = [set(origins(one, split)) for split in SPLITS]
    assert sum(map(len, names)) == len(set.union(*names)) == 40
    assert [np.bincount(one.split(split).labels).tolist() for split in SPLITS] == [[17, 11], [2, 2], [5, 3]]


def test_a_row_is_what_scikit_learn_makes_of_it(tmp_path):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    path = raw.table(tmp_path / "t.csv")
    text = path.read_text().splitlines()
    text[5] = text[5].replace(text[5].split(",")[1], "NA")
    path.write_text("\n".join(text) + "\n")
    prepared = prepare(
        path, TableKind(group="patient"), tmp_path / "out", policies=Policies(missing="fill"), test=0.25
    )
    lines = {split: [int(name.rpartition(" ")[2]) for name in origins(prepared, split)] for split in SPLITS}
    rows = {
        split: np.array([[*text[at - 1].replace("NA", "nan").split(",")[1:4]] for at in lines[split]], object)
        for split in SPLITS
    }
    for split in SPLITS:
        rows[split][:, [0, 2]] = rows[split][:, [0, 2]].astype(float)
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    reference = ColumnTransformer(
        [("age", scaled, [0]), ("colour", OneHotEncoder(), [1]), ("weight", scaled, [2])]
    )
    reference.fit(rows["train"])
    for split in SPLITS:
        want = np.asarray(reference.transform(rows[split]), float)
        assert np.allclose(prepared.split(split).inputs, want, atol=1e-6)
        made = dict(raw_inputs(path, prepared.preprocessing))
        for at, x in zip(lines[split], prepared.split(split).inputs, strict=True):
            assert made[f"{path}, line {at}"].tobytes() == x.tobytes()
    assert isinstance(prepared.preprocessing.steps, TableSteps)
    patients = [{text[at - 1].split(",")[0] for at in lines[split]} for split in SPLITS]
    assert not (patients[0] & patients[1])
    assert not (patients[0] & patients[2])
    assert not (patients[1] & patients[2])


@pytest.mark.parametrize("feature", ["raw", "spectrum"])
def test_windows_of_one_recording_stay_together_and_a_device_makes_the_same(tmp_path, feature):
    source = raw.recordings(tmp_path / "rec")
    prepared = prepare(source, WindowKind(length=32, step=16, feature=feature), tmp_path / "out")
    assert isinstance(prepared.preprocessing.steps, WindowSteps)
    made = dict(raw_inputs(source, prepared.preprocessing))
    groups = []
    for split in SPLITS:
        names = origins(prepared, split)
        groups.append({name.partition(",")[0] for name in names})
        for name, x in zip(names, prepared.split(split).inputs, strict=True):
            assert made[f"{source}/{name}"].tobytes() == x.tobytes()
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12
    card = json.loads((prepared.folder / "card.json").read_text())
    assert all(one["train"] and one["validation"] and one["test"] for one in card["classes"])


def test_idx_files_keep_the_split_that_they_name(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "d").mkdir()
    for part, count in (("train", 60), ("t10k", 20)):
        raw.idx(tmp_path / "d" / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 5, 5)))
        raw.idx(tmp_path / "d" / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 3)
    kind = ImageKind(ImageSteps(height=5, width=5, colour="grey"), classes=("a", "b", "c"))
    prepared = prepare(tmp_path / "d", kind, tmp_path / "out", validation=0.2)
    assert {split: prepared.count(split) for split in SPLITS} == {"train": 48, "validation": 12, "test": 20}
    assert prepared.split("test").labels.tolist() == [i % 3 for i in range(20)]


def test_a_changed_file_or_folder_is_refused(photos, tmp_path):
    prepared = prepare(photos, IMAGES, tmp_path / "out")
    with pytest.raises(InputError, match="is there already"):
        prepare(photos, IMAGES, tmp_path / "out")
    with pytest.raises(UsageError, match="has no split 'holdout'"):
        prepared.split("holdout")
    for name, attempt in (
        ("train.inputs.npy", lambda: prepared.split("train")),
        ("preprocessing.json", lambda: Prepared.load(prepared.folder)),
    ):
        path = prepared.folder / name
        data = path.read_bytes()
        path.write_bytes(data[:-2] + b"\n\n")
        with pytest.raises(IntegrityError, match=f"{name}: is not the file that was prepared"):
            attempt()
        path.write_bytes(data)
    with pytest.raises(InputError, match="is missing; make the folder with"):
        Prepared.load(tmp_path)


def test_too_few_groups_are_refused(tmp_path):
    source = raw.recordings(tmp_path / "rec", each=1)
    with pytest.raises(InputError, match="2 groups are too few"):
        prepare(source, WindowKind(length=32, step=16), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_prepares_and_shows(photos, tmp_path):
    arguments = ("--kind", "images", "--size", "8x8", "--normalise", "min_max", "--licence", "CC0", "--out")
    made = command("data", "prepare", photos, *arguments, tmp_path / "out", "--json")
    assert made.code == 0, made.err
    shown = command("data", "show", tmp_path / "out", "--json")
    assert shown.json == made.json
    assert shown.json["counts"] == {"train": 28, "validation": 4, "test": 8}
    assert "CC0" in (tmp_path / "out" / "card.md").read_text()
    assert str(photos.parent) not in "".join(map(str, files(tmp_path / "out").values()))
    assert command("data", "show", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--kind", "sound"), "--kind sound: give images, table or windows"),
        (("--kind", "images"), "--size '': give height and width"),
        (("--kind", "images", "--size", "8x8", "--fit", "crop"), "--fit crop: give stretch or cover"),
        (("--kind", "images", "--size", "8x8", "--resize", "cubic"), "--resize cubic: give nearest"),
        (("--kind", "images", "--size", "8x8", "--test", "0.95"), "leave more than a tenth"),
        (("--kind", "images", "--size", "8x8", "--group", "day"), "give --group folder"),
        (("--kind", "windows"), "--length: give the samples"),
        (("--kind", "table", "--range", "age=9"), "give COLUMN=LEAST:GREATEST"),
    ],
)
def test_a_wrong_option_is_named(photos, tmp_path, arguments, text):
    done = command("data", "prepare", photos, *arguments, "--out", tmp_path / "out")
    (line,) = done.errors
    assert text in line
    assert done.code in (1, 2)
    assert not list(tmp_path.iterdir())
