"""What is wrong with raw data is named, counted, and dropped or refused; nothing is written."""

from __future__ import annotations

import numpy as np
import pytest

from collab.core.preprocessing import ImageSteps
from collab.errors import InputError, LimitExceeded
from collab.toolchain.data.collected import Collected, check_classes, class_labels, without_duplicates
from collab.toolchain.data.findings import Findings, Policies
from collab.toolchain.data.idx import read_idx
from collab.toolchain.data.images import ImageKind
from collab.toolchain.data.prepare import prepare
from collab.toolchain.data.tables import TableKind
from collab.toolchain.data.windows import WindowKind
from tests.unit.toolchain.data import raw

STEPS = ImageSteps(height=6, width=6, colour="rgb")


@pytest.fixture
def photos(tmp_path):
    pytest.importorskip("PIL.Image")
    return raw.pictures(tmp_path / "photos", {"cat": 4, "dog": 4})


def refusal(source, kind, out, **options) -> str:
    """Why a source cannot be prepared; nothing may be left behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError) as refused:
        prepare(source, kind, out, **options)
    assert sorted(out.parent.iterdir()) == before
    return str(refused.value)


def test_an_unreadable_picture_among_good_ones_is_named(photos, tmp_path):
    (photos / "dog" / "bad.jpg").write_bytes((photos / "dog" / "001.jpg").read_bytes()[:200])
    (photos / "cat" / "worse.png").write_text("hello")
    text = refusal(photos, ImageKind(STEPS), tmp_path / "out")
    assert f"{photos / 'dog' / 'bad.jpg'}: cannot be read as a picture" in text
    assert f"{photos / 'cat' / 'worse.png'}" in text
    assert text.endswith("remove them, or give --corrupt drop")


def test_an_unreadable_picture_is_dropped_and_listed_where_that_is_asked_for(photos):
    (photos / "dog" / "bad.jpg").write_text("hello")
    findings = Findings()
    found = ImageKind(STEPS).collect(photos, Policies(corrupt="drop"), findings)
    assert (len(found), findings.dropped["corrupt"]) == (8, 1)
    (listed,) = findings.listed["corrupt"]
    assert listed.where == str(photos / "dog" / "bad.jpg")
    assert found.content.shape == (8, 6, 6, 3)


def test_an_empty_class_is_named(photos, tmp_path):
    (photos / "eel").mkdir()
    assert "class 'eel' is empty" in refusal(photos, ImageKind(STEPS), tmp_path / "out")


def test_a_folder_that_is_no_class_is_named(photos, tmp_path):
    kind = ImageKind(STEPS, classes=("cat", "cow"))
    assert "'dog' is none of --classes cat,cow" in refusal(photos, kind, tmp_path / "out")


def test_a_class_with_fewer_examples_than_splits_is_named(photos, tmp_path):
    raw.pictures(photos / "..", {"photos/eel": 2}, seed=9)
    assert "class 'eel' has 2 examples for 3 splits" in refusal(photos, ImageKind(STEPS), tmp_path / "out")


def test_folders_of_splits_and_of_groups_are_kept(tmp_path):
    pytest.importorskip("PIL.Image")
    for i, split in enumerate(("train", "test")):
        raw.pictures(tmp_path / "d" / split, {"cat/monday": 2, "cat/friday": 1, "dog": 2}, seed=i)
    found = ImageKind(STEPS, group="folder").collect(tmp_path / "d", Policies(), Findings())
    assert found.given == ["test"] * 5 + ["train"] * 5
    assert found.classes == ("cat", "dog")
    assert set(found.groups[:3]) == {"cat/monday", "cat/friday"}


def test_labels_out_of_range_are_named(tmp_path):
    x = np.zeros((3, 6, 6), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.array([0, 1, 2]))
    text = refusal(tmp_path / "d.npz", ImageKind(STEPS, classes=("cat", "dog")), tmp_path / "out")
    assert f"{tmp_path / 'd.npz'}, row 2: label '2' is none of the 2 of --classes" in text
    for y, message in (
        ([0, 1, -1], "row 2: label -1 is no class"),
        ([0, 0.5, 1], "row 1: label 0.5 is no class"),
    ):
        np.savez(tmp_path / "d.npz", x=x, y=np.array(y))
        assert message in refusal(tmp_path / "d.npz", ImageKind(STEPS), tmp_path / "out")


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"x": np.zeros((3, 6, 6), np.float32), "y": np.zeros(3)}, "images are float32[3, 6, 6]"),
        ({"x": np.zeros((3, 6, 6), np.uint8), "y": np.zeros(2)}, "labels of shape (2,) for 3 inputs"),
        ({"x": np.zeros((3, 6, 6), np.uint8)}, "has no array 'y'"),
        ({"y": np.zeros(3)}, "has no array 'x'"),
    ],
)
def test_a_wrong_archive_says_what_it_must_hold(tmp_path, arrays, text):
    np.savez(tmp_path / "d.npz", **arrays)
    assert text in refusal(tmp_path / "d.npz", ImageKind(STEPS), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            "p1,NaN,red,70,no",
            "line 2: column 'age' is missing (missing); fill them in, or give --missing fill or drop",
        ),
        ("p1,inf,red,70,no", "line 2: column 'age' has 'inf', no finite number (corrupt); correct them"),
        ("p1,old,red,70,no", "line 2: column 'age' has 'old', no finite number"),
        ("p1,400,red,70,no", "line 2: column 'age' has 400, not 0 to 120 (out of range)"),
        ("p1,40,red,70,", "line 2: the label is missing"),
        ("p1,40,,70,no", "line 2: column 'colour' is missing"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, change, text):
    path = raw.table(tmp_path / "t.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], change, *lines[1:]]) + "\n")
    kind = TableKind(bounds={"age": (0, 120)}, group="patient")
    assert text in refusal(path, kind, tmp_path / "out")


def test_faulty_rows_are_dropped_or_mended_and_counted(tmp_path):
    path = raw.table(tmp_path / "t.csv")
    with path.open("a") as file:
        file.write("p1,NaN,red,70,no\np2,old,red,70,no\np3,400,red,70,no\np4,40,red,70,\n")
    findings = Findings()
    policies = Policies(corrupt="drop", missing="fill", out_of_range="clip")
    kind = TableKind(bounds={"age": (0, 120)}, group="patient")
    found = kind.collect(path, policies, findings)
    assert len(found) == 62
    assert findings.dropped == {"corrupt": 1, "missing": 1}
    assert findings.mended == {"missing": 1, "out_of_range": 1}
    assert found.groups[-1] == "p3"
    assert found.classes == ("no", "yes")


def test_a_missing_sample_or_label_spoils_the_windows_that_hold_it(tmp_path):
    path = tmp_path / "r.csv"
    rows = [f"{i if i != 9 else ''},{'a' if i < 20 else 'b'},r{i // 20}\n" for i in range(40)]
    path.write_text("x,activity,recording\n" + "".join(rows))
    kind = WindowKind(length=5, step=5, label="activity", group="recording")
    assert "line 11: column 'x' is missing" in refusal(path, kind, tmp_path / "out")
    findings = Findings()
    found = kind.collect(path, Policies(missing="drop"), findings)
    assert (len(found), findings.dropped) == (7, {"missing": 1})
    assert set(found.groups) == {"r0", "r1"}
    filled = kind.collect(path, Policies(missing="fill"), Findings())
    assert filled.content[1, :, 0].tolist() == [5, 6, 7, 8, 8]
    mixed = WindowKind(length=15, step=5, label="activity", group="activity", channels=("x",))
    assert set(mixed.collect(path, Policies(missing="fill"), Findings()).labels.tolist()) == {0, 1}
    across = Findings()
    WindowKind(length=15, step=5, label="activity", channels=("x",)).collect(
        path, Policies(missing="fill"), across
    )
    assert across.dropped["mixed"] == 2


def collected(content, labels, given=()) -> Collected:
    names = [f"f{i}" for i in range(len(labels))]
    return Collected(np.array(content, np.uint8), np.array(labels, np.int64), ("a", "b"), names, (), given)


def test_of_the_same_content_one_is_kept_and_of_two_classes_none():
    found = collected([[1], [1], [2], [3], [3], [3]], [0, 0, 1, 0, 1, 0])
    findings = Findings()
    kept = without_duplicates(found, Policies(), findings)
    assert list(kept.origins) == ["f0", "f2"]
    assert findings.dropped == {"duplicate": 1, "conflict": 3}
    assert "the same as f4, in classes a and b" in findings.listed["conflict"][0].why
    assert without_duplicates(found, Policies(duplicates="keep"), Findings()) is found
    with pytest.raises(InputError, match="f1: the same as f0"):
        without_duplicates(found, Policies(duplicates="fail"), Findings())


def test_a_test_split_that_the_source_names_stays_whole():
    found = collected([[1], [1], [1], [2], [2]], [0, 0, 0, 0, 1], ["train", "test", "test", "train", "test"])
    kept = without_duplicates(found, Policies(), Findings())
    assert list(kept.origins) == ["f1", "f2", "f4"]


def test_names_are_numbered_in_order_and_numbers_by_their_size():
    labels, classes = class_labels(["10", "9", "10", "b"], ["w"] * 4, ())
    assert (labels.tolist(), classes) == ([1, 0, 1, 2], ("9", "10", "b"))
    assert class_labels(["1", "cat"], ["w"] * 2, ("cat", "dog"))[0].tolist() == [1, 0]
    with pytest.raises(InputError, match="label '1' is none"):
        class_labels(["1"], ["w"], ("7", "9"))


def test_one_class_is_not_enough():
    with pytest.raises(InputError, match="one class, 'a'"):
        check_classes(Collected(np.zeros((3, 1)), np.zeros(3, np.int64), ("a",), ["x"] * 3), 3)


def test_idx_files_are_read_and_broken_ones_refused(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = raw.idx(tmp_path / "a-idx3-ubyte.gz", array)
    assert np.array_equal(read_idx(path), array)
    with pytest.raises(LimitExceeded, match="24 bytes are over 23"):
        read_idx(path, 23)
    data = path.read_bytes()
    plain = tmp_path / "a-idx3-ubyte"
    for broken in (b"", b"\0\0\x08", b"\0\0\x08\x03\0\0\0\x02", b"\0\0\x07\x01\0\0\0\x00"):
        plain.write_bytes(broken)
        with pytest.raises(InputError):
            read_idx(plain)
    path.write_bytes(data[:-12])
    with pytest.raises(InputError, match="fetch the file again"):
        read_idx(path)


def test_more_than_fits_is_refused_before_it_is_read(photos, monkeypatch):
    monkeypatch.setattr("collab.toolchain.data.images.MAX_BYTES", 100)
    with pytest.raises(LimitExceeded, match="8 images take 864 bytes, over 100"):
        ImageKind(STEPS).collect(photos, Policies(), Findings())
