"""Examples are read from files, folders and entry points; what is wrong is named with file and row."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from collab.errors import BackendError, ConfigError, InputError, LimitExceeded
from collab.federated.data import sources
from collab.federated.data.examples import Examples, split
from collab.federated.data.sources import open_data, open_held_out, parse_source, placed
from collab.federated.trainable import Description


def model(shape=(2,), outputs=3, loss="cross_entropy"):
    return Description(
        format=1, loss=loss, batch_size=4, input_shape=shape, output_shape=(outputs,), weights=()
    )


def joined(data):
    """Both parts together, in order of their first input."""
    x = np.concatenate([data.training.x, data.held_out.x])
    y = np.concatenate([data.training.y, data.held_out.y])
    order = np.argsort(x.reshape(len(x), -1)[:, 0])
    return x[order], y[order]


# --- splitting -------------------------------------------------------------------


def test_the_held_out_part_is_drawn_by_seed_and_nothing_is_lost():
    examples = Examples(np.arange(50)[:, None], np.zeros(50, np.int64))
    first, again, other = split(examples, 0.2, 1), split(examples, 0.2, 1), split(examples, 0.2, 2)
    assert (len(first.training), len(first.held_out)) == (40, 10)
    np.testing.assert_array_equal(first.held_out.x, again.held_out.x)
    assert not np.array_equal(first.held_out.x, other.held_out.x)
    np.testing.assert_array_equal(joined(first)[0][:, 0], np.arange(50))
    assert len(split(examples, 0.0).held_out) == 0


# --- the line of settings ----------------------------------------------------------


def test_a_line_names_place_and_options():
    source = parse_source("/data/a b.npz?x=images&scale=255&held_out=0.2&seed=3&limit=10&classes=cat,dog")
    assert (source.place, source.x, source.scale, source.held_out) == ("/data/a b.npz", "images", 255.0, 0.2)
    assert (source.seed, source.limit, source.classes) == (3, 10, ("cat", "dog"))
    named = parse_source("sensors:roof/2?rate=5")
    assert (named.entry_point, named.place, named.more) == ("sensors", "roof/2", {"rate": "5"})


def test_a_line_means_the_same_from_everywhere_once_it_is_placed(tmp_path):
    assert placed("a.npz?scale=255", tmp_path) == f"{tmp_path}/a.npz?scale=255"
    assert placed("/data/a.npz", tmp_path) == "/data/a.npz"
    assert placed("sensors:roof?rate=5", tmp_path) == "sensors:roof?rate=5"


def test_all_examples_are_measured_on_unless_the_line_holds_some_out(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(20.0).reshape(10, 2), y=np.zeros(10, np.int64))
    assert len(open_held_out(str(path), model())) == 10
    measured = open_held_out(f"{path}?held_out=0.3&seed=2", model())
    np.testing.assert_array_equal(measured.x, open_data(f"{path}?held_out=0.3&seed=2", model()).held_out.x)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "names no place"),
        ("a.npz?held_out=1", "held_out='1' does not work; give a number above"),
        ("a.npz?scale=0", "scale='0'"),
        ("a.npz?limit=many", "limit='many'"),
        ("a.npz?sclae=2", "unknown option 'sclae'; use classes"),
        ("a.npz?scale", "write PLACE"),
    ],
)
def test_a_wrong_line_is_refused(line, message):
    with pytest.raises(ConfigError, match=message):
        parse_source(line)


def test_a_place_that_is_not_there_or_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_data(str(tmp_path / "none.npz"), model())
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"give an \.npz file"):
        open_data(str(tmp_path / "a.txt"), model())


# --- npz ---------------------------------------------------------------------------


def save(path, count=10, first=0, **more):
    x = np.stack([np.arange(first, first + count), np.zeros(count)], 1).astype(np.float32)
    np.savez(path, **({"x": x, "y": np.arange(count) % 3} | more))


def test_an_archive_and_a_folder_of_them_are_read(tmp_path):
    save(tmp_path / "b.npz", 4, 10)
    save(tmp_path / "a.npz")
    x, y = joined(open_data(str(tmp_path / "a.npz"), model()))
    np.testing.assert_array_equal(x[:, 0], np.arange(10))
    np.testing.assert_array_equal(y, np.arange(10) % 3)
    x, _ = joined(open_data(str(tmp_path), model()))
    np.testing.assert_array_equal(x[:, 0], np.arange(14))
    x, _ = joined(open_data(f"{tmp_path}?limit=3", model()))
    np.testing.assert_array_equal(x[:, 0], np.arange(3))


def test_images_get_the_channel_that_the_model_wants_and_keep_their_bytes(tmp_path):
    images = np.arange(6 * 8, dtype=np.uint8).reshape(6, 4, 2)
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros(6, np.uint8))
    data = open_data(f"{tmp_path / 'a.npz'}?scale=255&held_out=0", model((4, 2, 1)))
    assert (data.training.x.dtype.name, data.training.x.shape) == ("uint8", (6, 4, 2, 1))
    x, y = data.training.take(np.array([5]))
    assert (x.dtype.name, y.dtype.name, x.max()) == ("float32", "int32", np.float32(47) / np.float32(255))


def test_labels_may_be_names_where_the_order_of_all_is_given(tmp_path):
    save(tmp_path / "a.npz", 4, y=np.array(["dog", "cat", "dog", "dog"]))
    _, y = joined(open_data(f"{tmp_path / 'a.npz'}?classes=cat,dog", model()))
    np.testing.assert_array_equal(y, [1, 0, 1, 1])
    with pytest.raises(InputError, match=r"a\.npz, label 1: 'dog' is no number; give all names"):
        open_data(str(tmp_path / "a.npz"), model())
    with pytest.raises(InputError, match="'dog' is not among classes=cat"):
        open_data(f"{tmp_path / 'a.npz'}?classes=cat", model())


def test_broken_archives_are_refused_by_file(tmp_path):
    file = tmp_path / "a.npz"
    file.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match=r"a\.npz: is broken"):
        open_data(str(file), model())
    save(file, inputs=np.zeros(3), x=np.zeros(3))
    with pytest.raises(InputError, match="'x' must be numbers"):
        open_data(str(file), model())
    save(file, y=np.zeros(9))
    with pytest.raises(InputError, match="10 inputs with 9 labels"):
        open_data(str(file), model())
    save(file, y=np.zeros(10) + 0.5)
    with pytest.raises(InputError, match="are not classes"):
        open_data(str(file), model())
    np.savez(file, a=np.zeros(3))
    with pytest.raises(InputError, match="has a; say which it is, such as x=NAME"):
        open_data(str(file), model())
    np.savez(file, x=np.array([{}]), y=np.zeros(1))
    with pytest.raises(InputError, match=r"a\.npz: "):
        open_data(str(file), model())


def test_an_archive_over_the_bound_is_refused_before_it_is_read(tmp_path):
    save(tmp_path / "a.npz", 1000)
    with pytest.raises(LimitExceeded, match=r"a\.npz: 16000 bytes, there is room for 9999"):
        open_data(str(tmp_path / "a.npz"), model(), max_bytes=9999)


# --- csv ---------------------------------------------------------------------------


def test_a_table_is_read_by_column(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("kind,u,v\n1,0.5,2\n\n2,1.5,-1e3\n0,2.5,7\n")
    x, y = joined(open_data(f"{file}?y=kind", model()))
    np.testing.assert_array_equal(x, np.array([[0.5, 2], [1.5, -1000], [2.5, 7]], np.float32))
    np.testing.assert_array_equal(y, [1, 2, 0])
    x, y = joined(open_data(f"{file}?y=v&x=u", model((1,), 1, "mean_squared_error")))
    np.testing.assert_array_equal(y[:, 0], [2, -1000, 7])
    assert x.shape == (3, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u,v,k\n1,2,0\n1,x,0\n", r"row 3: column 'v' has 'x', which is not a finite number"),
        ("u,v,k\n1,inf,0\n", "row 2: column 'v' has 'inf'"),
        ("u,v,k\n1,2\n", "row 2: 2 values in 3 columns"),
        ("u,v,k\n1,2,1.5\n", "row 2: column 'k': '1.5' is no number"),
        ("1,2,3\n1,2,3\n", "row 1: has numbers only"),
        ("u,v,k\n", "no rows below"),
        ("u\n1\n", "row 1: 1 columns"),
    ],
)
def test_a_wrong_table_is_refused_by_row(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(str(tmp_path / "a.csv"), model())


def test_a_table_over_the_bound_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("u,v,k\n" + "1,2,0\n" * 20)
    with pytest.raises(LimitExceeded, match=r"row 12: the table is over 160 bytes"):
        open_data(str(tmp_path / "a.csv"), model(), max_bytes=160)


# --- pictures ------------------------------------------------------------------------


def paint(path, value, size=(8, 6)):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(exist_ok=True)
    image.new("RGB", size, (value, value, value)).save(path)


def test_pictures_take_the_models_size_and_their_folders_class(tmp_path):
    paint(tmp_path / "dog" / "a.png", 200)
    paint(tmp_path / "cat" / "b.png", 100, (30, 30))
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    data = open_data(f"{tmp_path}?classes=cat,dog&held_out=0", model((4, 5, 1), 2))
    np.testing.assert_array_equal(data.training.y, [0, 1])
    assert (data.training.x.shape, data.training.scale) == ((2, 4, 5, 1), 255.0)
    np.testing.assert_array_equal(data.training.x[:, 0, 0, 0], [100, 200])


def test_wrong_pictures_are_refused_by_file(tmp_path, monkeypatch):
    paint(tmp_path / "0" / "a.png", 1)
    (tmp_path / "0" / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png: is no picture"):
        open_data(str(tmp_path), model((4, 4, 3)))
    with pytest.raises(InputError, match="pictures need a model that takes images"):
        open_data(str(tmp_path), model())
    with pytest.raises(LimitExceeded, match="2 pictures take 96 bytes, over 50"):
        open_data(str(tmp_path), model((4, 4, 3)), max_bytes=50)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BackendError, match=r"Pillow.*pip install 'collab\[images\]'"):
        open_data(str(tmp_path), model((4, 4, 3)))


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither"):
        open_data(str(tmp_path), model((4, 4, 3)))
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="'cat' is no number"):
        open_data(str(tmp_path), model((4, 4, 3)))


# --- entry points ------------------------------------------------------------------------


def test_an_entry_point_gives_examples(monkeypatch):
    asked = []

    def read(place, options, shape):
        asked.append((place, options, shape))
        if place == "broken":
            raise RuntimeError("no sensor")
        return np.arange(8.0).reshape(4, 2), [0, 1, 2, 0]

    monkeypatch.setitem(sys.modules, "their_sensors", types.SimpleNamespace(read=read))
    point = EntryPoint("sensors", "their_sensors:read", "collab.data")
    monkeypatch.setattr(sources, "entry_points", lambda group: [point] if group == "collab.data" else [])
    x, y = joined(open_data("sensors:roof?rate=5", model()))
    assert asked == [("roof", {"rate": "5"}, (2,))]
    np.testing.assert_array_equal(y, [0, 1, 2, 0])
    assert x.shape == (4, 2)
    with pytest.raises(BackendError, match="sensors:broken: no sensor"):
        open_data("sensors:broken", model())
    with pytest.raises(ConfigError, match=r"no installed package.*there are sensors"):
        open_data("others:roof", model())
