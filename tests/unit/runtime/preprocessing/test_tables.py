from __future__ import annotations

import numpy as np
import pytest

from collab.core.preprocessing import Category, Number, Preprocessing, TableSteps, WindowSteps
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing import tables
from collab.runtime.preprocessing.raw import raw_inputs
from collab.runtime.preprocessing.tables import read_table, table_inputs

COLUMNS = (
    Number(name="age", fill=30.0, low=0.0, high=100.0, shift=40.0, width=20.0),
    Category(name="colour", values=("blue", "red"), fill="red"),
    Category(name="grade", values=("a", "b"), encoding="ordinal", unknown="refuse"),
)
STEPS = Preprocessing(steps=TableSteps(columns=COLUMNS))


def inputs(tmp_path, text: str, steps: Preprocessing = STEPS):
    path = tmp_path / "x.csv"
    path.write_text(text)
    return [x for _, x in raw_inputs(path, steps)]


def test_numbers_are_filled_clipped_and_scaled_and_names_encoded(tmp_path):
    rows = inputs(tmp_path, "grade,colour,age,other\nb,red,60,1\na, blue ,NA,2\n\na,green,500,3\nb,,-7,4\n")
    assert np.array(rows).tolist() == [[1, 0, 1, 1], [-0.5, 1, 0, 0], [3, 0, 0, 0], [-2, 0, 1, 1]]
    assert rows[0].dtype == np.float32


def test_one_row_alone_has_the_bytes_that_it_has_among_many(tmp_path):
    rng = np.random.default_rng(3)
    lines = [f"{rng.normal(40, 30):.17g},{rng.choice(['red', 'blue'])},a" for _ in range(50)]
    head = "age,colour,grade\n"
    many = inputs(tmp_path, head + "\n".join(lines))
    assert all(
        inputs(tmp_path, head + line)[0].tobytes() == x.tobytes() for line, x in zip(lines, many, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,grade\n1,a\n", "has no column 'colour'; it has age, grade"),
        ("age,colour,grade\n1,red\n", "line 2: 2 values in 3 columns"),
        ("age,colour,grade\nx,red,a\n", "line 2: column 'age' has 'x', which is not a finite number"),
        ("age,colour,grade\n1,red,a\ninf,red,a\n", "line 3: column 'age' has 'inf'"),
        ("age,colour,grade\n1e39,red,a\n", "line 2: column 'age' has '1e39'"),
        ("age,colour,grade\n1,red,z\n", "line 2: column 'grade' has 'z', which was not trained on"),
        ("age,colour,grade\n1,red,\n", "line 2: column 'grade' is missing; give a value"),
        ("age,colour,grade\n", "has no rows below its column names"),
        ("1,2,3\n1,2,3\n", "line 1: has numbers only"),
        ("age,age,grade\n1,2,a\n", "'age' stands there twice"),
        ("", "line 1: 0 columns"),
    ],
)
def test_a_wrong_table_is_refused_by_its_line(tmp_path, text, message):
    with pytest.raises(InputError) as refused:
        inputs(tmp_path, text)
    assert message in str(refused.value)
    assert "x.csv" in str(refused.value)


def test_tables_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.setattr(tables, "MAX_ROWS", 1)
    with pytest.raises(LimitExceeded, match="over 1 rows"):
        read_table(tmp_path / "x.csv")
    monkeypatch.setattr(tables, "MAX_FILE_BYTES", 5)
    with pytest.raises(LimitExceeded, match="12 bytes are over 5"):
        read_table(tmp_path / "x.csv")


def test_a_missing_value_without_a_stand_in_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("age\n\n?\n")
    steps = TableSteps(columns=(Number(name="age", fill=None),))
    with pytest.raises(InputError, match="line 3: column 'age' is missing"):
        table_inputs(read_table(path), steps)


WINDOWS = WindowSteps(
    channels=("x", "y"), length=4, step=2, low=(None, -1.0), high=(2.0, None), gap="previous"
)


def test_a_recording_becomes_windows_with_gaps_filled_from_before(tmp_path):
    text = "t,y,x\n" + "".join(f"{i},{'' if i == 3 else -i},{i}\n" for i in range(7))
    got = inputs(tmp_path, text, Preprocessing(steps=WINDOWS))
    assert [window.tolist() for window in got] == [
        [[0, 0], [1, -1], [2, -1], [2, -1]],
        [[2, -1], [2, -1], [2, -1], [2, -1]],
    ]


@pytest.mark.parametrize("feature", ["raw", "spectrum", "moments"])
def test_features_are_what_numpy_says_and_the_same_alone_as_among_many(tmp_path, feature):
    rng = np.random.default_rng(5)
    samples = rng.normal(size=(40, 2))
    head = "x,y\n"
    lines = [f"{x!r},{y!r}\n" for x, y in samples.tolist()]
    steps = WindowSteps(channels=("x", "y"), length=16, step=8, feature=feature)
    got = inputs(tmp_path, head + "".join(lines), Preprocessing(steps=steps))
    assert len(got) == 4
    for i, window in enumerate(got):
        part = samples[8 * i : 8 * i + 16]
        want = {
            "raw": part,
            "spectrum": np.abs(np.fft.fft(part, axis=0))[:9] / 16,
            "moments": np.stack([part.mean(0), part.std(0), part.min(0), part.max(0)]),
        }[feature]
        assert np.allclose(window, want, atol=1e-6)
        alone = inputs(tmp_path, head + "".join(lines[8 * i : 8 * i + 16]), Preprocessing(steps=steps))
        assert alone[0].tobytes() == window.tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "has 1 samples, a window is 4; record for longer"),
        ("x,y\n,2\n1,2\n1,2\n1,2\n", "line 2: column 'x' is missing and no sample stands before it"),
        ("x\n1\n1\n1\n1\n", "has no column 'y'"),
    ],
)
def test_a_wrong_recording_is_refused(tmp_path, text, message):
    with pytest.raises(InputError) as refused:
        inputs(tmp_path, text, Preprocessing(steps=WINDOWS))
    assert message in str(refused.value)
