"""What a source and its import are compared on: files of a step's folder, and inputs drawn by a seed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError, TensorError

GIVEN: Final = "given.npz"
"""Inputs of the user's, by the source's names; there only where some were given."""
EXAMPLES: Final = "examples.npz"
EXPECTED: Final = "expected.npz"
GOT: Final = "got.npz"
SMALL: Final = 4
"""Drawn whole numbers are below it: they may be places in a table."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a source; the first size is of the batch."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def fixed(name: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """A shape for one example: an open batch is 1.

    Raises:
        ModelError: another size is open.
    """
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if sizes and sizes[0] is None:
        sizes[0] = 1
    found = tuple(size for size in sizes if size is not None)
    if len(found) != len(sizes):
        raise ModelError(
            f"input {name!r} has the open shape {['?' if s is None else s for s in sizes]}: devices need "
            "fixed ones; export the model anew with its sizes"
        )
    return found


def examples_for(inputs: Sequence[Input], folder: Path, count: int, seed: int) -> list[Array]:
    """Examples ``[n, …]`` of each input: those that were given, else some drawn by the seed.

    Raises:
        TensorError: those that were given do not fit.
    """
    if (folder / GIVEN).exists():
        return _given(inputs, read_arrays(folder / GIVEN), count)
    rng = np.random.default_rng(seed)
    return [_drawn(rng, (count, *one.shape[1:]), one.dtype) for one in inputs]


def _given(inputs: Sequence[Input], arrays: Mapping[str, Array], count: int) -> list[Array]:
    if len(inputs) == 1 and len(arrays) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    found = []
    for one in inputs:
        if one.name not in arrays:
            names = ", ".join(repr(each.name) for each in inputs)
            raise TensorError(f"--inputs: {one.name!r} is missing; the model takes {names}")
        array = arrays[one.name]
        if array.shape[1:] != one.shape[1:] or array.dtype.name != one.dtype or not len(array):
            raise TensorError(
                f"--inputs: {one.name!r} is {array.dtype.name} {list(array.shape)}, the model takes "
                f"{one.dtype} [N, {', '.join(map(str, one.shape[1:]))}]"
            )
        found.append(array[:count])
    if len({len(array) for array in found}) > 1:
        raise TensorError("--inputs: give the same number of examples for each input")
    return found


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.standard_normal(shape, np.float32).astype(kind)
    if kind.kind in "iu":
        return rng.integers(0, SMALL, shape).astype(kind)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    raise ModelError(f"an input is {dtype}: devices take numbers; move what reads it out of the model")


def write_arrays(path: Path, arrays: Sequence[Array] | Mapping[str, Array]) -> None:
    """Write arrays by name, or by their place."""
    named = arrays if isinstance(arrays, Mapping) else {str(i): array for i, array in enumerate(arrays)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in named.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, Array]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def in_order(path: Path) -> list[Array]:
    """The same, by place."""
    arrays = read_arrays(path)
    return [arrays[str(i)] for i in range(len(arrays))]
