from __future__ import annotations

import io

import numpy as np
import pytest

from collab.core.preprocessing import ImageSteps, Preprocessing, Scaling
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing import images
from collab.runtime.preprocessing.images import array_pixels, decode_pixels, kept_box
from collab.runtime.preprocessing.raw import raw_inputs
from collab.runtime.preprocessing.scaling import pixels_to_floats

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def file_of(picture, kind="PNG", **options) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def steps(**changes) -> ImageSteps:
    return ImageSteps(**{"height": 20, "width": 30, "colour": "rgb"} | changes)


def test_a_picture_of_the_models_size_comes_out_as_it_is():
    got = decode_pixels(file_of(Image.fromarray(PIXELS)), steps(), "a.png")
    assert np.array_equal(got, PIXELS)


def test_a_picture_that_lies_on_its_side_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise when it is shown
    data = file_of(Image.fromarray(np.rot90(PIXELS, 1).copy()), exif=exif)
    assert np.array_equal(decode_pixels(data, steps(), "a.png"), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_every_kind_of_colour_becomes_the_models(mode, colour):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    picture = Image.fromarray(PIXELS).convert(mode)
    got = images.fitted(picture, steps(colour=colour))
    assert got.shape == (20, 30, 1 if colour == "grey" else 3)
    if kind == "PNG":
        assert np.array_equal(got, decode_pixels(file_of(picture), steps(colour=colour), "a.png"))


def test_cover_keeps_proportions_and_crops_the_middle():
    assert kept_box(30, 20, steps(height=10, width=10, fit="cover")) == (5.0, 0.0, 25.0, 20.0)
    assert kept_box(30, 20, steps(height=10, width=10)) == (0.0, 0.0, 30.0, 20.0)
    assert kept_box(40, 20, steps(height=10, width=10, crop=0.5)) == (10.0, 5.0, 30.0, 15.0)
    whole = decode_pixels(file_of(Image.fromarray(PIXELS)), steps(height=20, width=20, fit="cover"), "a.png")
    assert np.array_equal(whole, PIXELS[:, 5:25])


@pytest.mark.parametrize("filter_", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_every_filter_gives_the_same_pixels_from_a_file_and_from_an_array(filter_):
    wanted = steps(height=9, width=7, filter=filter_)
    got = decode_pixels(file_of(Image.fromarray(PIXELS)), wanted, "a.png")
    assert got.shape == (9, 7, 3)
    assert np.array_equal(got, array_pixels(PIXELS, wanted))


def test_one_picture_alone_has_the_bytes_that_it_has_among_many():
    wanted = steps(scaling=Scaling(method="standard", shift=(0.48, 0.46, 0.4), width=(0.23, 0.22, 0.21)))
    many = RNG.integers(0, 256, (33, 20, 30, 3), np.uint8)
    for layout in ("hwc", "chw"):
        as_wanted = ImageSteps(
            **{f: getattr(wanted, f) for f in wanted.__struct_fields__} | {"layout": layout}
        )
        together = pixels_to_floats(many, as_wanted)
        assert together.dtype == np.float32
        assert all(
            pixels_to_floats(one, as_wanted).tobytes() == x.tobytes()
            for one, x in zip(many, together, strict=True)
        )


def test_scaling_is_by_channel_and_layout_moves_channels_first():
    wanted = steps(
        layout="chw", scaling=Scaling(method="min_max", shift=(0.0, 0.5, 1.0), width=(1.0, 2.0, 4.0))
    )
    got = pixels_to_floats(PIXELS, wanted)
    want = (PIXELS.astype(np.float64) / 255 - [0, 0.5, 1]) / [1, 2, 4]
    assert got.shape == (3, 20, 30)
    assert np.allclose(got, want.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is no PNG"),
        (b"hello", "is no PNG"),
        (file_of(Image.fromarray(PIXELS))[:-40], "cannot be read as a picture"),
        (file_of(Image.fromarray(PIXELS.astype(np.uint16)[..., 0])), "mode I;16"),
    ],
)
def test_what_is_no_picture_is_named(data, text):
    with pytest.raises(InputError, match=text) as refused:
        decode_pixels(data, steps(), "cat/a.png")
    assert str(refused.value).startswith("cat/a.png: ")


def test_pictures_and_files_that_are_too_large_are_refused_before_they_are_decoded(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(LimitExceeded, match="30x20 pixels are over 599"):
        decode_pixels(file_of(Image.fromarray(PIXELS)), steps(), "a.png")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    (tmp_path / "a.png").write_bytes(b"x" * 11)
    with pytest.raises(LimitExceeded, match="11 bytes are over 10"):
        images.read_pixels(tmp_path / "a.png", steps())


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path):
    for name in ("b.png", "a.jpg", "sub/c.png", ".hidden.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file_of(Image.fromarray(PIXELS), "JPEG" if name.endswith("jpg") else "PNG"))
    made = Preprocessing(steps=steps())
    assert [name for name, _ in raw_inputs(tmp_path, made)] == [
        str(tmp_path / name) for name in ("a.jpg", "b.png", "sub/c.png")
    ]
    with pytest.raises(InputError, match="no such file"):
        list(raw_inputs(tmp_path / "none", made))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no files that end in"):
        list(raw_inputs(tmp_path / "empty", made))
