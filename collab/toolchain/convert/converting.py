"""One conversion: made, compared with its source on real inputs, and only then written."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collab.codec.tensors import Array
from collab.errors import InputError, ModelError, UsageError
from collab.graph import read_model
from collab.runtime.litert import LiteRT
from collab.toolchain.convert import tensorrt
from collab.toolchain.convert.c_array import array_bytes, c_header, c_source, variable_name
from collab.toolchain.convert.compare import Difference, differences
from collab.toolchain.convert.coreml import (
    SUFFIX,
    StructureCheck,
    check_structure,
    keras_to_coreml,
    read_package,
)
from collab.toolchain.convert.litert import keras_to_litert
from collab.toolchain.convert.onnx import keras_to_onnx, onnx_answers
from collab.toolchain.convert.source import Source, litert_answers, load_keras, matched
from collab.toolchain.keras_files import write_durably

TARGETS: Final = ("litert", "onnx", "coreml", "c", "tensorrt")


@dataclass(frozen=True)
class Converted:
    """What was written and how it compares.

    Attributes:
        written: the format of the file, which is onnx where TensorRT was wanted and is not there.
        files: SHA-256 of each file by its path.
        examples: how many it was compared on; 0 where bytes or the structure were compared.
    """

    written: str
    files: Mapping[Path, str]
    bytes: int
    examples: int
    differences: tuple[Difference, ...]
    structure: StructureCheck | None
    remarks: tuple[str, ...]
    seconds: float


def convert(
    path: Path,
    target: str,
    out: Path,
    examples: Mapping[str, Array] | None,
    tolerance: float,
    *,
    half: bool = False,
) -> Converted:
    """Convert a model file and write it where its answers are within ``tolerance`` of the source's.

    Args:
        path: ``.keras``, or ``.tflite`` for a C array.
        target: one of `TARGETS`.
        out: the file, or the folder of a Core ML package.
        examples: real inputs ``[n, …]`` by name.
        tolerance: as `Difference.within` reads it.
        half: float16 numbers in a Core ML package or TensorRT engine.

    Raises:
        ModelError: the source cannot be read or converted, or the answers differ; nothing was written.
        TensorError: the examples do not fit the model.
    """
    begun = time.monotonic()
    if half and target not in ("coreml", "tensorrt"):
        raise UsageError(f"--half goes with coreml and tensorrt; for {target} use collab model compress")
    if path.suffix == ".tflite":
        return _from_litert(path, target, out, begun)
    if examples is None:
        raise UsageError("give --data DIR or --inputs x.npz: a conversion is compared on real inputs")
    if target == "c":
        variable_name(out)
    source = load_keras(path)
    given = matched(source.inputs, examples, "examples")
    work = _Work(source, given, tolerance, out, half, begun)
    steps = {
        "litert": work.litert,
        "onnx": work.onnx,
        "coreml": work.coreml,
        "c": work.c_array,
        "tensorrt": work.tensorrt,
    }
    return steps[target]()


def _from_litert(path: Path, target: str, out: Path, begun: float) -> Converted:
    if target == "litert":
        raise UsageError(f"{path}: is a .tflite already")
    if target != "c":
        raise ModelError(
            f"{path}: {target} is made from the Keras model: give the .keras file that it was converted from"
        )
    data = bytes(read_model(path).data)
    return _write_c(data, out, (), 0, begun)


@dataclass(frozen=True)
class _Work:
    source: Source
    given: list[Array]
    tolerance: float
    out: Path
    half: bool
    begun: float

    def litert(self) -> Converted:
        data, found = self._litert()
        return self._file("litert", data, found)

    def _litert(self) -> tuple[bytes, tuple[Difference, ...]]:
        data = keras_to_litert(self.source.model)
        return data, self._compared("LiteRT", _by_name(data, self.source, self.given))

    def c_array(self) -> Converted:
        data, found = self._litert()
        return _write_c(data, self.out, found, len(self.given[0]), self.begun)

    def onnx(self) -> Converted:
        data = keras_to_onnx(self.source)
        return self._file("onnx", data, self._compared("ONNX", onnx_answers(data, self.given)))

    def tensorrt(self) -> Converted:
        data = keras_to_onnx(self.source)
        found = self._compared("ONNX", onnx_answers(data, self.given))
        if tensorrt.installed():
            note = "the ONNX model was compared; compare the engine with collab model validate on its GPU"
            return self._file("tensorrt", tensorrt.build_engine(data, half=self.half), found, note)
        place = self.out if self.out.suffix == ".onnx" else self.out.with_suffix(".onnx")
        return self._file("onnx", data, found, tensorrt.remark(place, half=self.half), place)

    def coreml(self) -> Converted:
        if self.out.suffix != SUFFIX:
            raise UsageError(f"--out {self.out}: a Core ML package is a folder that ends in {SUFFIX}")
        _ready(self.out)
        with tempfile.TemporaryDirectory(prefix=".collab-", dir=self.out.parent) as folder:
            package = keras_to_coreml(self.source, Path(folder), half=self.half)
            check = check_structure(self.source, read_package(package))
            # Half precision moves every number by up to one part in 2,048.
            wrong = check.wrong(max(self.tolerance, 1e-3) if self.half else max(self.tolerance, 1e-5))
            if wrong:
                raise ModelError(f"Core ML is not the same model: {wrong}; nothing was written")
            _replace_folder(package, self.out)
        files = {path: _sha256(path.read_bytes()) for path in sorted(self.out.rglob("*")) if path.is_file()}
        note = "prediction needs macOS: ends, operators and kernels were compared, not answers"
        size = sum(path.stat().st_size for path in files)
        return Converted("coreml", files, size, 0, (), check, (note,), time.monotonic() - self.begun)

    def _compared(self, what: str, answers: list[Array]) -> tuple[Difference, ...]:
        expected = self.source.answers(self.given)
        found = tuple(differences(self.source.outputs, expected, answers))
        for one in found:
            if not one.within(self.tolerance):
                raise ModelError(
                    f"{what} differs from {self.source.path.name} at output {one.output!r} by "
                    f"{one.max_abs:.3g} ({one.relative:.3g} of its range), over --tolerance "
                    f"{self.tolerance:g}; nothing was written"
                )
        return found

    def _file(
        self,
        written: str,
        data: bytes,
        found: tuple[Difference, ...],
        note: str | None = None,
        place: Path | None = None,
    ) -> Converted:
        place = place or self.out
        write_durably(place, data)
        notes = [note] if note else []
        if len(self.given[0]) > 1 and not any(one.varied for one in found):
            notes.append(
                "every example gets the same answer, so equality proves little: train the model first"
            )
        return Converted(
            written,
            {place: _sha256(data)},
            len(data),
            len(self.given[0]),
            found,
            None,
            tuple(notes),
            time.monotonic() - self.begun,
        )


def _by_name(data: bytes, source: Source, given: list[Array]) -> list[Array]:
    """LiteRT's answers in the source's order: interpreters may order both ends otherwise."""
    backend = LiteRT()
    stage = backend.load(data, 1)
    inputs = [spec.name for spec in source.inputs]
    order = [inputs.index(spec.name) for spec in stage.inputs]
    made = [spec.name for spec in stage.outputs]
    stage.close()
    answers = litert_answers(data, backend, [given[i] for i in order])
    return [answers[made.index(name)] for name in source.outputs]


def _write_c(data: bytes, out: Path, found: tuple[Difference, ...], examples: int, begun: float) -> Converted:
    name = variable_name(out)
    header = out.with_suffix(".h")
    text = {
        header: c_header(name, _sha256(data)).encode(),
        out: c_source(data, name, header.name).encode(),
    }
    if array_bytes(text[out]) != data:
        raise ModelError("the C array is not the model: nothing was written")
    for path, content in text.items():
        write_durably(path, content)
    files = {path: _sha256(content) for path, content in text.items()}
    note = f"{len(data)} bytes of flash; the array was read back and is the .tflite byte for byte"
    return Converted("c", files, len(data), examples, found, None, (note,), time.monotonic() - begun)


def _ready(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _replace_folder(made: Path, place: Path) -> None:
    """Put a package in its place; an older package there goes, anything else is refused."""
    if place.exists() and not (place / "Manifest.json").is_file():
        raise InputError(f"--out {place}: is there already and no Core ML package; remove it first")
    try:
        if place.exists():
            place.replace(made.with_name("old"))
        made.replace(place)
        shutil.rmtree(made.with_name("old"), ignore_errors=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {error.strerror}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
