"""One import: converted in a process of its own, compared with its source, and only then written."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from collab.errors import BackendError, InputError, ModelError, UsageError
from collab.runtime.litert import LiteRT
from collab.toolchain.convert.compare import Difference, difference, differences
from collab.toolchain.convert.source import litert_answers
from collab.toolchain.imports import examples
from collab.toolchain.imports.examples import Array, in_order
from collab.toolchain.keras_files import put_in_place
from collab.toolchain.steps import run_step
from collab.toolchain.steps.work import Progress

Format = Literal["keras", "h5", "saved_model", "onnx", "torch"]

FORMATS: Final[Mapping[str, Format]] = {
    ".keras": "keras",
    ".h5": "h5",
    ".hdf5": "h5",
    ".onnx": "onnx",
    ".pt2": "torch",
}
STEPS: Final[Mapping[Format, str]] = {
    "keras": "import-keras",
    "h5": "import-keras",
    "saved_model": "import-saved-model",
    "onnx": "import-onnx",
}
TOLERANCE: Final = 1e-4
"""Of float32 answers, as `Difference.within` reads it: other kernels, other orders of sums."""
_SCRIPT: Final = Path(__file__).with_name("torch_script.py")


@dataclass(frozen=True)
class Wanted:
    """What to import and how to prove it.

    Attributes:
        signature: of a SavedModel.
        inputs: real ones by the source's names; else some are drawn.
        count: examples to compare on.
        tolerance: largest difference allowed.
        torch: folder of an environment with litert-torch.
    """

    source: Path
    out: Path
    signature: str = "serving_default"
    inputs: Mapping[str, Array] | None = None
    count: int = 16
    seed: int = 0
    tolerance: float = TOLERANCE
    torch: Path | None = None


@dataclass(frozen=True)
class Imported:
    """What was written and how it compares.

    Attributes:
        inputs: the source's, by name and shape.
        examples: how many it was compared on.
        channels_last: inputs whose channels stood first in the source and stand last now.
    """

    format: Format
    inputs: Mapping[str, tuple[int, ...]]
    examples: int
    differences: tuple[Difference, ...]
    channels_last: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())


def format_of(path: Path) -> Format:
    """Tell a source's format by its name and what is in it.

    Raises:
        ModelError: there is nothing, or nothing that can be imported.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise ModelError(f"{path}: is a folder without saved_model.pb, so no SavedModel")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file or folder")
    if path.suffix in (".pt", ".pth"):
        raise ModelError(
            f"{path}: is a pickle, which is code and is not run: write the model with "
            "torch.export.save(torch.export.export(model.eval(), (example,)), 'm.pt2')"
        )
    if path.suffix == ".tflite":
        raise ModelError(f"{path}: is a .tflite already; collab model inspect looks into it")
    if path.suffix not in FORMATS:
        raise ModelError(
            f"{path}: cannot be imported: give {', '.join(FORMATS)} or the folder of a SavedModel"
        )
    return FORMATS[path.suffix]


def import_model(wanted: Wanted, progress: Progress | None = None) -> Imported:
    """Convert a model, compare it with its source, and write it if they agree.

    Raises:
        UsageError: the ending of `out` is not one that the source can become.
        ModelError: the source cannot be read or converted, or the answers differ; nothing was written.
        BackendError: a library is missing.
        InputError: `out` cannot be written.
    """
    found = format_of(wanted.source)
    target = _target(found, wanted.out)
    if not wanted.out.parent.is_dir():
        raise InputError(f"--out {wanted.out}: there is no folder {wanted.out.parent}; make it first")
    settings = {
        "source": str(wanted.source.absolute()),
        "target": target,
        "signature": wanted.signature,
        "count": wanted.count,
        "seed": wanted.seed,
    }
    with tempfile.TemporaryDirectory(prefix=".collab-import-", dir=wanted.out.parent) as name:
        folder = Path(name)
        if wanted.inputs is not None:
            examples.write_arrays(folder / examples.GIVEN, wanted.inputs)
        if found == "torch":
            values = _torch_step(settings, folder, wanted.torch)
        else:
            values = run_step(STEPS[found], settings, folder, progress).values
        made = _compared(found, target, values, folder)
        _check(made, wanted)
        _put(folder / f"model.{target}", wanted.out)
    return made


def _target(found: Format, out: Path) -> str:
    if out.suffix not in (".keras", ".tflite"):
        raise UsageError(f"--out {out}: give a file that ends in .keras or .tflite")
    target = out.suffix.removeprefix(".")
    if target == "keras" and found not in ("keras", "h5"):
        raise UsageError(
            f"--out {out}: a {found} source holds a graph and no layers, so it becomes a .tflite; "
            "to train or prune it, import it from Keras"
        )
    return target


def _compared(found: Format, target: str, values: Mapping[str, Any], folder: Path) -> Imported:
    """Run what was made on the source's examples."""
    inputs = {each["name"]: tuple(each["shape"]) for each in values["inputs"]}
    given, expected = (in_order(folder / name) for name in (examples.EXAMPLES, examples.EXPECTED))
    moved: list[str] = []
    if target == "keras":
        apart = differences(values["outputs"], expected, in_order(folder / examples.GOT))
    else:
        data = (folder / "model.tflite").read_bytes()
        # Those of torch have names of no meaning, in the order of the source.
        named = found != "torch"
        into = list(values.get("converted_inputs", inputs)) if named else None
        out_of = list(values.get("converted_outputs", values["outputs"])) if named else None
        got, moved = _answers(data, list(inputs), given, into, out_of, found == "onnx")
        apart = [
            _nearest(name, one, two) for name, one, two in zip(values["outputs"], expected, got, strict=True)
        ]
    remarks = [] if all(one.varied for one in apart) else ["one answer for all inputs: give real --inputs"]
    return Imported(found, inputs, len(given[0]), tuple(apart), tuple(moved), tuple(remarks))


def _answers(
    data: bytes,
    names: Sequence[str],
    given: Sequence[Array],
    into: Sequence[str] | None,
    out_of: Sequence[str] | None,
    moves: bool,
) -> tuple[list[Array], list[str]]:
    """LiteRT's answers in the source's order, and the inputs whose channels moved to the end.

    Args:
        into: names of the converted inputs in the source's order, or None where order says it.
        out_of: the same for outputs.
        moves: whether the converter puts channels last wherever it can.
    """
    backend = LiteRT()
    stage = backend.load(data, 1)
    try:
        takes, makes = stage.inputs, [spec.name for spec in stage.outputs]
    finally:
        stage.close()
    order = range(len(takes)) if into is None else [list(into).index(spec.name) for spec in takes]
    fed, moved = [], []
    for spec, place in zip(takes, order, strict=True):
        array = given[place]
        last = np.moveaxis(array, 1, -1) if array.ndim > 2 else array
        if moves and array.ndim > 2 and last.shape[1:] == spec.shape[1:]:
            fed.append(np.ascontiguousarray(last))
            moved.append(names[place])
        elif array.shape[1:] == spec.shape[1:]:
            fed.append(array)
        else:
            raise ModelError(
                f"input {names[place]!r} became {list(spec.shape)} from {[1, *array.shape[1:]]}: "
                "export the model with its channels last"
            )
    answers = litert_answers(data, backend, fed)
    wanted = makes if out_of is None else out_of
    return [answers[makes.index(name)] for name in wanted], moved


def _nearest(name: str, expected: Array, got: Array) -> Difference:
    """The difference; an output whose channels moved to the end is moved back."""
    found = difference(name, expected, got)
    if expected.ndim > 2:
        back = np.moveaxis(got, -1, 1)
        if back.shape == expected.shape:
            return min(found, difference(name, expected, back), key=lambda one: one.max_abs)
    return found


def _check(made: Imported, wanted: Wanted) -> None:
    for one in made.differences:
        if not one.within(wanted.tolerance):
            raise ModelError(
                f"output {one.output!r} differs from the source's by {one.relative:.3g} at most, over "
                f"{wanted.tolerance:g}: nothing was written; give real --inputs, or a larger --tolerance"
            )


def _put(part: Path, out: Path) -> None:
    try:
        put_in_place(part, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _torch_step(settings: Mapping[str, Any], folder: Path, environment: Path | None) -> Mapping[str, Any]:
    python = None if environment is None else environment / "bin" / "python"
    if python is None or not python.is_file():
        raise BackendError(
            "PyTorch and litert-torch live in an environment of their own: make it with "
            "scripts/torch-environment DIR and give --torch-environment DIR"
        )
    request = folder / "request.json"
    request.write_text(json.dumps(dict(settings)), encoding="utf-8")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with open(folder / "log.txt", "wb") as log:
        code = subprocess.run(
            [str(python), "-I", str(_SCRIPT), str(request)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ,
            check=False,
        ).returncode
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(f"litert-torch: its process ended without a result, exit code {code}") from error
    if "error" in result:
        raise ModelError(result["error"])
    values: Mapping[str, Any] = result["values"]
    return values
