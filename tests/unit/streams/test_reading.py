"""Frames to requests: what a plan takes goes through, and nothing that comes makes it fall over."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collab.core.preprocessing import ImageSteps, Number, Preprocessing, Quantisation, TableSteps
from collab.core.streams import Reading
from collab.core.tensor import TensorSpec
from collab.errors import InputError, LimitExceeded
from collab.streams.frames import MAX_FRAME_BYTES, Frame, Payload
from collab.streams.reading import FrameReader, answered

IMAGE = TensorSpec("x", (1, 4, 4, 3), "float32")
PICTURES = Reading(
    preprocessing=Preprocessing(steps=ImageSteps(height=4, width=4, colour="rgb")),
    labels=("cat", "dog"),
    scores="y",
)
TABLES = Reading(
    preprocessing=Preprocessing(
        steps=TableSteps(columns=(Number(name="a", fill=None), Number(name="b", fill=None)))
    )
)
ROW = TensorSpec("x", (1, 2), "float32")


def read(data: object, reading: Reading | None = PICTURES, spec: TensorSpec = IMAGE) -> list:
    return FrameReader((spec,), reading).requests(Frame("frame", 0, data))


def tried(payload: Payload, reading: Reading | None) -> bool:
    """Whether a payload became the plan's input, or an error that names the frame."""
    try:
        (request,) = read(payload, reading)
    except (InputError, LimitExceeded) as error:
        return str(error).startswith("frame")
    return bool(request["x"].shape == IMAGE.shape)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def png(pixels: np.ndarray) -> bytes:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.fromarray(pixels).save(out, format="png")
    return out.getvalue()


PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
WANTED = (PIXELS.astype(np.float32) / np.float32(255))[None]


class Decoded:
    """A camera's frame."""

    def pixels(self) -> np.ndarray:
        return PIXELS


@pytest.mark.parametrize("form", ["auto", "image"])
def test_a_picture_goes_through_the_preprocessing(form: str):
    (request,) = read(Payload(png(PIXELS), form))
    assert np.array_equal(request["x"], WANTED)


@pytest.mark.parametrize("data", [Decoded(), Payload(npy(PIXELS)), Payload(npy(np.asfortranarray(PIXELS)))])
def test_pixels_go_through_it_too(data: object):
    pytest.importorskip("PIL.Image")
    (request,) = read(data)
    assert np.array_equal(request["x"], WANTED)


@pytest.mark.parametrize("reading", [None, PICTURES])
@pytest.mark.parametrize("form", ["npy", "npz", "tensor", "mapping"])
def test_the_plans_own_tensors_go_through_as_they_are(reading: Reading | None, form: str):
    x = np.random.default_rng(0).random(IMAGE.shape).astype(np.float32)
    data = {
        "npy": Payload(npy(x)),
        "npz": Payload(npz(x=x)),
        "tensor": Payload(x.tobytes()),
        "mapping": {"x": x},
    }
    (request,) = read(data[form], reading)
    assert np.array_equal(request["x"], x)
    assert request["x"].dtype == np.float32


def test_a_quantised_plan_takes_integers():
    steps = Reading(
        preprocessing=PICTURES.preprocessing, quantisation=Quantisation(scale=1 / 255, zero_point=-128)
    )
    (request,) = read(Payload(png(PIXELS)), steps, TensorSpec("x", (1, 4, 4, 3), "int8"))
    assert request["x"].dtype == np.int8
    assert np.array_equal(request["x"][0], PIXELS.astype(np.int16) - 128)


def test_each_row_of_a_table_is_a_request(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    requests = read(file, TABLES, ROW)
    assert [request["x"].tolist() for request in requests] == [[[1.0, 2.0]], [[3.0, 4.0]]]


@pytest.mark.parametrize(
    ("data", "reading", "text"),
    [
        (Payload(b"GIF89a"), None, "needs the preprocessing"),
        (Payload(b"123", "tensor"), None, "3 bytes; 'x' float32[1, 4, 4, 3] has 192"),
        (Payload(b"123", "image"), PICTURES, "cannot be read as a picture"),
        (Payload(npz(y=WANTED)), PICTURES, "has no array 'x'"),
        (Payload(npz(x=WANTED.astype(np.float64))), PICTURES, "'x' has over 192 bytes|'x' is float64"),
        (Payload(npy(WANTED.astype(np.float64))), PICTURES, r"is float64\[1, 4, 4, 3\]"),
        (Payload(npy(np.array(["a"]))), PICTURES, "holds no numbers"),
        (Payload(b"PK\x03\x04rest"), PICTURES, "is no .npz"),
        ({"z": WANTED}, None, "has no array 'x'"),
        (Path("/nowhere/1.png"), PICTURES, "No such file"),
    ],
)
def test_what_the_plan_does_not_take_is_named(data: object, reading: Reading | None, text: str):
    with pytest.raises(
        (InputError, LimitExceeded), match=text.replace("[1, 4, 4, 3] has", r"\[1, 4, 4, 3\] has")
    ):
        read(data, reading)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says that it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_a_picture_that_says_it_is_huge_is_refused_before_it_is_decoded():
    pytest.importorskip("PIL.Image")
    with pytest.raises((LimitExceeded, InputError), match=r"64000000|exceeds limit"):
        read(Payload(bomb(60_000, 60_000)))


def test_an_array_that_says_it_is_huge_takes_no_memory():
    header = (
        npy(np.zeros(1, np.uint8))[:10]
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }"
    )
    with pytest.raises(InputError):
        read(Payload(header))


def test_an_archive_that_unpacks_to_too_much_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(50_000_000))
    with pytest.raises(LimitExceeded, match="has over 192 bytes"):
        read(Payload(out.getvalue()))


def test_a_file_over_the_bound_is_not_read(tmp_path: Path):
    file = tmp_path / "1.png"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FRAME_BYTES + 1)
    with pytest.raises(LimitExceeded, match="are over"):
        read(file)


STARTS = [
    b"",
    b"\x93NUMPY\x01\x00",
    b"\x93NUMPY\x02\x00",
    b"PK\x03\x04",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"\xff\xd8\xff",
]


@given(
    start=st.sampled_from(STARTS),
    rest=st.binary(max_size=400),
    form=st.sampled_from(["auto", "image", "array", "tensor"]),
    reading=st.sampled_from([None, PICTURES]),
)
@example(start=b"\x93NUMPY\x01\x00", rest=b"\x0a\x00{'descr':1", form="auto", reading=None)
def test_any_bytes_are_a_request_or_a_clear_error(
    start: bytes, rest: bytes, form: str, reading: Reading | None
):
    pytest.importorskip("PIL.Image")
    assert tried(Payload(start + rest, form), reading)


@given(
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=6),
    kind=st.integers(0, 2),
)
def test_damaged_files_are_a_request_or_a_clear_error(flips: list[tuple[int, int]], kind: int):
    data = bytearray((png(PIXELS), npy(WANTED), npz(x=WANTED))[kind])
    for at, bits in flips:
        data[at % len(data)] ^= bits
    assert tried(Payload(bytes(data)), PICTURES)


def test_answers_have_their_best_labels_or_numbers_that_json_has():
    outputs = {"y": np.array([[0.25, 0.75]], np.float32)}
    assert answered(outputs, PICTURES, 1) == {"top": [{"label": "dog", "score": 0.75}]}
    told = answered({"y": np.array([np.nan, np.inf, 1.5], np.float32), "n": np.array([3])}, None, 3)
    assert told == {"outputs": {"y": [None, None, 1.5], "n": [3]}}
    assert answered(outputs, PICTURES, 0) == {"outputs": {"y": [[0.25, 0.75]]}}
