"""What tensor codecs save, cost and lose, beside the bare libraries.

Dense and half-zero float32 activations, and boundary tensors of the shipped digits
model.  Every codec and its yardstick are timed in turn.  The yardstick is what stands
behind the codec and nothing else: ``ndarray.tobytes`` for raw, ``ndarray.astype`` for
fp16, numpy's whole-array expressions for int8, and the bare library behind those.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.figures import Figure, run
from collab.assets import path as asset
from collab.codec.edges import relative_error
from collab.codec.tensors import Array, codec, decode, encode
from collab.coordinator.planning import open_model
from collab.core.codecs import NAMES, CodecName, parse_codec
from collab.core.tensor import TensorSpec
from collab.graph import split
from collab.runtime.litert import LiteRT

MAX_ERROR = 0.01
"""The error that a plan with these codecs would state."""
_CUTS = (4, 14, 20)


class Data(NamedTuple):
    """A tensor to encode."""

    name: str
    spec: TensorSpec
    array: Array


def tensors(quick: bool) -> Iterator[Data]:
    """Random activations as a convolution gives them, and real ones."""
    rng = np.random.default_rng(0)
    shape = (1, 56, 56, 128) if quick else (1, 112, 112, 256)
    dense = rng.standard_normal(shape, np.float32)
    spec = TensorSpec("x", shape, "float32")
    yield Data("dense", spec, dense)
    yield Data("half zeros", spec, np.maximum(dense, np.float32(0)))
    yield from boundaries()


def boundaries() -> Iterator[Data]:
    """What crosses some cuts of the digits model for one held-out image."""
    graph = open_model(asset("digits.tflite"))
    with np.load(asset("digits_heldout.npz")) as held_out:
        image = held_out["images"][:1].astype(np.float32) / np.float32(255)
    known: dict[str, Array] = {graph.inputs[0].name: image}
    for model in split(graph, _CUTS)[:-1]:
        stage = LiteRT().load(model.data, 1)
        try:
            made = stage.run([known[spec.name] for spec in model.inputs])
        finally:
            stage.close()
        known |= {spec.name: array for spec, array in zip(model.outputs, made, strict=True)}
        largest = max(model.outputs, key=lambda spec: spec.nbytes)
        yield Data(f"digits at {model.stop}", largest, known[largest.name])


# --- yardsticks ------------------------------------------------------------------


class Bare(NamedTuple):
    """The same without this package: from an array to bytes, and back."""

    encode: Callable[[Array], bytes]
    decode: Callable[[bytes], Array]


def bare(name: CodecName, data: Data) -> Bare:
    """The yardstick of a codec."""
    pack, unpack = _packer(name.packer)
    write, read = _elements(name.base, data.array)
    return Bare(lambda array: pack(write(array)), lambda packed: read(unpack(packed)))


def _packer(name: str) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    if name == "lz4":
        import lz4.block

        return lz4.block.compress, lz4.block.decompress
    if name == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress, zstandard.ZstdDecompressor().decompress
    return bytes, bytes


def _elements(base: str, like: Array) -> tuple[Callable[[Array], bytes], Callable[[bytes], Array]]:
    """The most direct numpy."""
    if base == "raw":
        return lambda x: x.tobytes(), lambda b: np.frombuffer(b, like.dtype)
    if base == "fp16":
        return (
            lambda x: x.astype(np.float16).tobytes(),
            lambda b: np.frombuffer(b, np.float16).astype(np.float32),
        )
    axes = tuple(range(like.ndim - 1)) if base == "int8c" else None
    low = like.min(axes, keepdims=True)
    step = np.maximum((like.max(axes, keepdims=True) - low) / np.float32(255), np.finfo(np.float32).tiny)

    def write(array: Array) -> bytes:
        array.min(axes), array.max(axes)
        codes: Array = np.rint((array - low) / step).astype(np.uint8)
        return codes.tobytes()

    def read(data: bytes) -> Array:
        values: Array = np.frombuffer(data, np.uint8).reshape(like.shape) * step + low
        return values

    return write, read


# --- measuring -------------------------------------------------------------------


def in_turn(actions: list[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds of each action, one after another until the time is up."""
    for action in actions:
        action()
    times: list[list[float]] = [[] for _ in actions]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for action, into in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            into.append(time.perf_counter() - start)
    return [statistics.median(into) for into in times]


def measured(name: CodecName, data: Data, seconds: float) -> list[Figure]:
    """Ratio, rates and error of one codec on one tensor."""
    spec, array = data.spec, data.array
    tensor = encode(spec, array, str(name), MAX_ERROR)
    yardstick = bare(name, data)
    packed = yardstick.encode(array)
    encoder = codec(str(name))
    times = in_turn(
        [
            lambda: encoder.encode(spec, array, MAX_ERROR),
            lambda: yardstick.encode(array),
            lambda: decode(tensor),
            lambda: yardstick.decode(packed),
        ],
        seconds,
    )
    rates = [array.nbytes / took / 1e6 for took in times]
    what = f"{data.name}, {name}"
    sent = tensor.codec or "raw"
    how = f"{array.nbytes / 1e3:.0f} kB float32, sent as {sent}"
    exact = name.exact
    error = relative_error(array, tensor)
    figures = [
        Figure(
            f"{what}: ratio",
            array.nbytes / len(tensor.data),
            "times",
            "",
            array.nbytes / len(packed),
            how,
        ),
        Figure(f"{what}: encode", rates[0], "MB/s", "", rates[1], how),
        Figure(f"{what}: decode", rates[2], "MB/s", "", rates[3], how),
        Figure(f"{what}: error", error, "of range", f"<= {0.0 if exact else MAX_ERROR}", None, how),
    ]
    print("; ".join(f"{f.name} {f.value:.4g}" for f in figures), file=sys.stderr)
    return figures


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    seconds = 0.1 if options.quick else 1.0
    return [
        figure
        for data in tensors(options.quick)
        for name in map(parse_codec, NAMES)
        for figure in measured(name, data, seconds)
    ]


if __name__ == "__main__":
    run(measure, __doc__)
