"""Sources are told by what they are; what cannot be imported is refused before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import BackendError, InputError, ModelError, TensorError, UsageError
from collab.toolchain.imports.examples import GIVEN, Input, examples_for, fixed, write_arrays
from collab.toolchain.imports.importing import Wanted, format_of, import_model


def test_formats_are_told_apart(tmp_path):
    for name, found in (("a.keras", "keras"), ("a.h5", "h5"), ("a.onnx", "onnx"), ("a.pt2", "torch")):
        (tmp_path / name).write_bytes(b"x")
        assert format_of(tmp_path / name) == found
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"x")
    assert format_of(tmp_path / "m") == "saved_model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.onnx", "no such file"),
        ("a.pth", "is a pickle, .*torch.export.save"),
        ("a.tflite", "is a .tflite already"),
        ("a.pb", "give .keras, .h5"),
    ],
)
def test_what_cannot_be_imported_says_what_can(tmp_path, name, message):
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=message):
        format_of(tmp_path / name)
    with pytest.raises(ModelError, match="no SavedModel"):
        format_of(tmp_path)


def test_targets_and_places_are_checked_first(tmp_path):
    source = tmp_path / "m.onnx"
    source.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"ends in .keras or .tflite"):
        import_model(Wanted(source, tmp_path / "o.onnx"))
    with pytest.raises(UsageError, match="holds a graph and no layers"):
        import_model(Wanted(source, tmp_path / "o.keras"))
    with pytest.raises(InputError, match="there is no folder"):
        import_model(Wanted(source, tmp_path / "none" / "o.tflite"))
    (tmp_path / "m.pt2").write_bytes(b"x")
    with pytest.raises(BackendError, match="scripts/torch-environment"):
        import_model(Wanted(tmp_path / "m.pt2", tmp_path / "o.tflite"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.pt2"]


def test_an_open_batch_is_one_and_other_open_sizes_are_refused():
    assert fixed("x", (None, 3)) == (1, 3)
    assert fixed("x", (4, 3)) == (4, 3)
    with pytest.raises(ModelError, match=r"input 'x' has the open shape \[1, '\?'\]"):
        fixed("x", (None, None))


def test_drawn_examples_depend_on_the_seed_and_whole_numbers_are_small(tmp_path):
    inputs = [Input("x", (1, 50), "float32"), Input("i", (1, 50), "int32"), Input("b", (1, 50), "bool")]
    one, same, other = (examples_for(inputs, tmp_path, 4, seed) for seed in (1, 1, 2))
    for left, right in zip(one, same, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(one[0], other[0])
    assert [array.dtype.name for array in one] == ["float32", "int32", "bool"]
    assert one[1].min() >= 0
    assert one[1].max() < 4
    with pytest.raises(ModelError, match="devices take numbers"):
        examples_for([Input("s", (1,), "str")], tmp_path, 1, 0)


def test_given_examples_must_fit(tmp_path):
    inputs = [Input("x", (1, 3), "float32"), Input("y", (1, 2), "float32")]
    x, y = np.ones((5, 3), np.float32), np.ones((5, 2), np.float32)
    for arrays, message in (
        ({"x": x}, "'y' is missing"),
        ({"x": x, "y": y.astype(np.float64)}, r"'y' is float64 \[5, 2\], the model takes float32 \[N, 2\]"),
        ({"x": x, "y": y[:4]}, "same number"),
    ):
        write_arrays(tmp_path / GIVEN, arrays)
        with pytest.raises(TensorError, match=message):
            examples_for(inputs, tmp_path, 16, 0)
    write_arrays(tmp_path / GIVEN, {"x": x, "y": y})
    assert [array.shape for array in examples_for(inputs, tmp_path, 4, 0)] == [(4, 3), (4, 2)]
