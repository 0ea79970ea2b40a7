"""``collab model convert``: a model in another format, compared with its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.files import read_npz
from collab.cli.model import AsJson
from collab.cli.output import emit, say, show, table
from collab.errors import UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collab.toolchain.convert.converting import Converted

Data = Annotated[Path | None, typer.Option(help="Folder that `collab data prepare` made.")]
Inputs = Annotated[Path | None, typer.Option(help="Real inputs `[N, …]` as .npz, by tensor name.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example:\n\n    collab model convert m.keras --to onnx --out m.onnx --data prepared/"
    )(convert)


def convert(
    model: Annotated[
        Path, typer.Argument(help="A .keras file, or a .tflite for --to c.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="litert, onnx, coreml, c or tensorrt.")],
    out: Annotated[Path, typer.Option(help="The file to write, or the folder of a Core ML package.")],
    data: Data = None,
    inputs: Inputs = None,
    examples: Annotated[int, typer.Option(help="How many of them to compare on.")] = 200,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference allowed, as a share of an output's range over 1.")
    ] = 1e-5,
    half: Annotated[bool, typer.Option("--half", help="Float16 for coreml and tensorrt.")] = False,
    json_: AsJson = False,
) -> None:
    """Convert a model, compare its answers with the source's on real inputs, and write it."""
    from collab.toolchain.convert.converting import TARGETS
    from collab.toolchain.convert.converting import convert as convert_model

    if to not in TARGETS:
        raise UsageError(f"--to {to}: use one of {', '.join(TARGETS)}")
    if examples < 1 or not tolerance >= 0:
        raise UsageError("--examples must be at least 1 and --tolerance at least 0")
    given = real_inputs(data, inputs, examples)
    done = convert_model(model, to, out, given, tolerance, half=half)
    if json_:
        emit(_described(done, to, tolerance))
    else:
        _show(done)


def real_inputs(data: Path | None, inputs: Path | None, most: int) -> Mapping[str, Any] | None:
    """The first examples of a prepared folder's test split, or of an .npz; None where neither is given."""
    if data is not None and inputs is not None:
        raise UsageError("give one of --data and --inputs")
    if inputs is not None:
        return {name: array[:most] for name, array in read_npz(inputs, "--inputs").items()}
    if data is None:
        return None
    from collab.toolchain.data.prepared import Prepared

    return {"input": Prepared.load(data).split("test").inputs[:most]}


def _described(done: Converted, asked: str, tolerance: float) -> dict[str, Any]:
    structure = done.structure
    return {
        "target": asked,
        "written": done.written,
        "files": [{"file": str(path), "sha256": sha256} for path, sha256 in done.files.items()],
        "bytes": done.bytes,
        "examples": done.examples,
        "tolerance": tolerance,
        "differences": [
            {
                "output": one.output,
                "max_abs": one.max_abs,
                "mean_abs": one.mean_abs,
                "relative": one.relative,
                "agreement": one.agreement,
            }
            for one in done.differences
        ],
        "structure": structure
        and {
            "operators": dict(structure.operators),
            "kernels": structure.found.kernels,
            "matched": structure.found.matched,
            "max_difference": structure.found.max_difference,
        },
        "remarks": list(done.remarks),
        "seconds": round(done.seconds, 3),
    }


def _show(done: Converted) -> None:
    rows = [
        (
            one.output,
            f"{one.max_abs:.2e}",
            f"{one.mean_abs:.2e}",
            "-" if one.agreement is None else f"{one.agreement:.2%}",
        )
        for one in done.differences
    ]
    if rows:
        title = f"compared on {done.examples} examples"
        show(table(title, ("output", "largest difference", "mean", "same class"), rows))
    if done.structure is not None:
        found = done.structure.found
        operators = ", ".join(f"{count} {name}" for name, count in done.structure.operators.items())
        say(f"operators: {operators}")
        apart = f"largest difference {found.max_difference:.2e}"
        say(f"kernels: {found.matched} of {found.kernels} found, {apart}")
    for remark in done.remarks:
        say(f"remark: {remark}")
    say(f"{', '.join(map(str, done.files))}: {done.written}, {size(done.bytes)}, {done.seconds:.1f} s")
