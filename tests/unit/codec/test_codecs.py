"""Every codec over every dtype and shape: exact or within its bound; foreign bytes give TensorError alone."""

from __future__ import annotations

import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import lz4.block
import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from collab.codec.edges import relative_error
from collab.codec.tensors import CODECS, EXACT_CODECS, EncodedTensor, codec, decode, encode
from collab.core.codecs import NAMES, parse_codec
from collab.core.tensor import ITEMSIZE, MAX_RANK, TensorSpec
from collab.errors import TensorError

FLOATS = ("float16", "float32", "float64")
BYTES = 64 * 1024
SLACK = 512 * 1024
"""What a library may take for itself."""

names = st.sampled_from(NAMES)
shapes = hnp.array_shapes(min_dims=0, max_dims=MAX_RANK, min_side=0, max_side=4)


def spec_of(array: np.ndarray) -> TensorSpec:
    return TensorSpec("t", array.shape, array.dtype.name)


def arrays(dtypes: tuple[str, ...]) -> st.SearchStrategy[np.ndarray]:
    return st.sampled_from(sorted(dtypes)).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shapes))


def half_step(array: np.ndarray, name: str) -> np.ndarray:
    """The documented bound of 8-bit codes: half a step, and what rounding in the pair's dtype adds."""
    wide = array.astype(np.float64)
    axis = tuple(range(array.ndim - 1)) if name.startswith("int8c") and array.ndim else None
    low, high = wide.min(axis), wide.max(axis)
    own = 2 * float(np.finfo(array.dtype).eps) * np.maximum(abs(low), abs(high))
    return np.asarray((high - low) / 255 / 2 * (1 + 1e-3) + own)


def within_bound(array: np.ndarray, tensor: EncodedTensor) -> bool:
    back = decode(tensor)
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    if parse_codec(tensor.codec).exact:
        return back.tobytes() == array.tobytes()
    if tensor.codec.startswith("fp16"):
        return bool((back == array.astype(np.float16).astype(array.dtype)).all())
    error = abs(back.astype(np.float64) - array.astype(np.float64))
    return bool((error <= half_step(array, tensor.codec)).all())


def test_every_name_has_a_codec():
    assert tuple(CODECS) == NAMES
    assert {"raw", "raw+lz4", "raw+zstd"} == EXACT_CODECS
    assert codec("zstd") is codec("raw+zstd")


@given(arrays(tuple(ITEMSIZE)), names)
def test_what_comes_back_is_exact_or_within_the_bound(array: np.ndarray, name: str):
    tensor = encode(spec_of(array), array, name)
    assert len(tensor.data) <= array.nbytes
    assert within_bound(array, tensor)
    if array.dtype.name not in FLOATS or parse_codec(name).exact:
        assert parse_codec(tensor.codec).exact


@given(
    st.sampled_from(FLOATS),
    st.integers(0, 2**32),
    st.sampled_from([(1000,), (40, 50), (3, 7, 13, 3), (2000, 1), (300, 300), (70_000, 3)]),
    names,
    st.floats(1e-3, 100),
    st.floats(-100, 100),
)
@example("float32", 1, (70_000, 3), "int8c", 1.0, 0.0)
@example("float32", 1, (140_001,), "int8", 1.0, 0.0)
def test_activations_are_kept_in_the_codec_asked_for_and_within_its_bound(
    dtype, seed, shape, name, scale, shift
):
    rng = np.random.default_rng(seed)
    array = np.asarray(rng.standard_normal(shape) * scale + shift).astype(dtype)
    tensor = encode(spec_of(array), array, name)
    assert within_bound(array, tensor)
    base = parse_codec(name).base
    grows = (base == "fp16" and dtype == "float16") or (base == "int8c" and len(shape) == 1)
    assert parse_codec(tensor.codec).base == ("raw" if grows else base)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_cannot_be_represented_travels_without_loss(name: str, dtype: str, value: float):
    array = np.zeros((64, 16), dtype)
    array[17, 5] = value
    tensor = encode(spec_of(array), array, name)
    assert parse_codec(tensor.codec).exact
    assert decode(tensor).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values",
    [
        (np.finfo("f4").max, -np.finfo("f4").max),
        (np.finfo("f4").max, 0),
        (1e-45, 0),
        (5e-43, 0),
        (1e-38, 3e-36),
        (65519, 0),
        (65520, 0),
        (1e6, 1e6 + 1),
        (0.1, 0.1),
        (-0.0, 0.0),
        (0, 0),
    ],
    ids=str,
)
def test_worst_cases_are_within_the_bound_or_exact(name: str, values: tuple[float, float]):
    array = np.resize(np.array(values, np.float32), (32, 8))
    assert within_bound(array, encode(spec_of(array), array, name))


@pytest.mark.parametrize("name", ["int8", "int8c", "int8+zstd"])
def test_constant_tensors_are_kept_exactly(name: str):
    array = np.full((100, 3), 0.1, np.float32)
    tensor = encode(spec_of(array), array, name)
    assert tensor.codec == name
    assert decode(tensor).tobytes() == array.tobytes()


def test_the_layout_of_int8_is_the_documented_one():
    array = np.array([-1, 0.25, 0.5, 1.0] * 4, np.float32)
    data = encode(spec_of(array), array, "int8").data
    assert bytes(data[:8]) == np.array([-1, 2 / 255], "<f4").tobytes()
    assert list(data[8:12]) == [0, 159, 191, 255]


def test_the_layout_of_int8c_is_all_lows_then_all_steps():
    array = np.array([[0, 10], [255, 10], [0.5, 10], [1.5, 10]] * 20, np.float32)
    data = encode(spec_of(array), array, "int8c").data
    assert bytes(data[:16]) == np.array([0, 10, 1, 0], "<f4").tobytes()
    assert list(data[16:24]) == [0, 0, 255, 0, 0, 0, 2, 0], "a half goes to the even code"


def test_a_tensor_that_would_be_wrong_by_more_than_is_allowed_travels_without_loss():
    array = np.linspace(1000, 1001, 600, dtype=np.float32).reshape(20, 30)
    spec = spec_of(array)
    assert encode(spec, array, "fp16", 0.01).codec == "", "the step of binary16 at 1000 is 0.5"
    assert encode(spec, array, "fp16", 0.5).codec == "fp16"
    assert encode(spec, array, "int8+zstd", 0.001).codec == "raw+zstd"
    assert encode(spec, array, "int8", 0.01).codec == "int8"
    error = abs(np.subtract(decode(encode(spec, array, "int8", 0.01)), array, dtype="f8")).max()
    assert error <= 0.01 * (array.max() - array.min())


@given(
    st.sampled_from(FLOATS),
    st.integers(0, 2**32),
    st.sampled_from(["fp16", "int8", "int8c"]),
    st.floats(-5, 3),
    st.floats(-3, 4),
    st.sampled_from([0.001, 0.00197, 0.0021, 0.01, 0.1]),
)
@example("float32", 0, "int8", -1.4, 4.0, 0.0021)
@example("float16", 0, "int8", -0.5, 1.0, 0.0021)
def test_what_is_sent_with_loss_is_within_the_error_allowed_even_far_from_zero(
    dtype, seed, name, scale, shift, most
):
    rng = np.random.default_rng(seed)
    array = (10**shift + rng.standard_normal((40, 30)) * 10**scale).astype(dtype)
    tensor = encode(spec_of(array), array, name, most)
    assert relative_error(array, tensor) <= most


@pytest.mark.parametrize("name", ["raw+zstd", "raw+lz4"])
def test_what_does_not_pack_travels_unpacked(name: str):
    array = np.frombuffer(np.random.default_rng(0).bytes(4096), np.uint8)
    assert encode(spec_of(array), array, name).codec == ""


def test_codecs_may_be_used_by_many_threads_at_a_time():
    array = np.maximum(np.random.default_rng(1).standard_normal((64, 500)), 0).astype(np.float32)
    spec = spec_of(array)
    expected = {name: decode(encode(spec, array, name)).tobytes() for name in NAMES}

    def work(number: int) -> bool:
        name = NAMES[number % len(NAMES)]
        return decode(encode(spec, array, name)).tobytes() == expected[name]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(20 * len(NAMES))))


# --- foreign bytes -------------------------------------------------------------------


def refused(spec: TensorSpec, name: str, data: bytes) -> None:
    """Nothing but a tensor of the spec or `TensorError` comes of it, in bounded memory."""
    decode(encode(spec, np.zeros(spec.shape, spec.dtype), name))
    tracemalloc.start()
    try:
        back = decode(EncodedTensor(spec, name, memoryview(data)))
        assert (back.shape, back.dtype.name) == (spec.shape, spec.dtype)
    except TensorError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 2 * spec.nbytes + SLACK


specs = st.builds(
    TensorSpec,
    st.just("t"),
    st.sampled_from([(), (0,), (7,), (30, 20), (2, 3, 40, 3)]),
    st.sampled_from(sorted(ITEMSIZE)),
)


@given(specs, names, st.binary(max_size=600))
def test_random_bytes_are_refused_or_a_tensor(spec: TensorSpec, name: str, data: bytes):
    refused(spec, name, data)


@given(names, st.data())
def test_damaged_tensors_are_refused_or_a_tensor(name: str, data: st.DataObject):
    array = np.repeat(np.linspace(-1, 1, 200, dtype=np.float32), 3).reshape(200, 3)
    good = bytearray(encode(spec_of(array), array, name).data)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, min(60, len(good) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)) | st.just(len(good)))
    refused(spec_of(array), name, bytes(good[:cut]))
    refused(spec_of(array), name, bytes(good) + data.draw(st.binary(max_size=20)))


def bombs() -> dict[str, bytes]:
    plain = bytes(256 << 20)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    wide = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    return {
        "raw+zstd": zstandard.ZstdCompressor().compress(plain),
        "int8+zstd": unsized.compress(plain),
        "fp16+zstd": zstandard.ZstdCompressor(compression_params=wide).compress(plain),
        "raw+lz4": lz4.block.compress(plain, store_size=False),
    }


def test_bombs_are_refused_in_the_memory_of_the_tensor():
    spec = TensorSpec("t", (BYTES // 4,), "float32")
    for name, data in bombs().items():
        tracemalloc.start()
        with pytest.raises(TensorError, match=r"tensor 't': (zstd|lz4)"):
            decode(EncodedTensor(spec, name, memoryview(data)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= spec.nbytes + SLACK, name


def test_a_frame_that_lies_about_its_size_is_refused():
    spec = TensorSpec("t", (BYTES,), "uint8")
    data = bytearray(zstandard.ZstdCompressor().compress(bytes(2 * BYTES)))
    at = data.index((2 * BYTES - 0).to_bytes(4, "little"))
    data[at : at + 4] = BYTES.to_bytes(4, "little")
    assert zstandard.get_frame_parameters(bytes(data)).content_size == BYTES
    with pytest.raises(TensorError, match="damaged"):
        decode(EncodedTensor(spec, "raw+zstd", memoryview(bytes(data))))


def test_a_lossy_codec_for_a_dtype_that_it_never_takes_is_refused():
    for name in ("fp16", "int8", "int8c+zstd"):
        with pytest.raises(TensorError, match=r"int32\[100, 4\] is not sent as"):
            decode(EncodedTensor(TensorSpec("t", (100, 4), "int32"), name, memoryview(bytes(800))))


@pytest.mark.parametrize("pair", [(math.nan, 1), (0, math.inf), (3e38, 3e38), (0, -1)])
def test_a_range_that_is_none_is_refused(pair: tuple[float, float]):
    data = np.array(pair, "<f4").tobytes() + bytes(100)
    with pytest.raises(TensorError, match="a range that is not one"):
        decode(EncodedTensor(TensorSpec("t", (100,), "float32"), "int8", memoryview(data)))


def test_fp16_that_is_not_finite_is_refused():
    data = np.full(100, math.nan, "<f2").tobytes()
    with pytest.raises(TensorError, match="not finite"):
        decode(EncodedTensor(TensorSpec("t", (100,), "float32"), "fp16", memoryview(data)))
