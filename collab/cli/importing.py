"""``collab model import``: models of other frameworks, compared with their source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.files import read_npz
from collab.cli.model import AsJson
from collab.cli.output import emit, phases, say, show, table
from collab.cli.zoo import described_file
from collab.errors import UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.toolchain.imports.importing import Imported


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", epilog="Example:\n\n    collab model import net.onnx --out net.tflite")(import_)


def import_(
    source: Annotated[
        Path,
        typer.Argument(help="A .keras, .h5, .onnx or .pt2 file, or a SavedModel.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The .keras or .tflite file to write.")],
    inputs: Annotated[
        Path | None, typer.Option(help="Real inputs `[N, …]` as .npz, by the source's names.")
    ] = None,
    examples: Annotated[int, typer.Option(help="How many to compare on.")] = 16,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference allowed, as a share of an output's range over 1.")
    ] = 1e-4,
    signature: Annotated[str, typer.Option(help="Of a SavedModel.")] = "serving_default",
    torch_environment: Annotated[
        Path | None, typer.Option(help="Folder that scripts/torch-environment made, for .pt2.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the inputs where none are given.")] = 0,
    json_: AsJson = False,
) -> None:
    """Take a model of another framework, compare the answers, and write it if they are equal."""
    from collab.toolchain.imports.importing import Wanted, import_model

    if examples < 1 or not tolerance >= 0 or seed < 0:
        raise UsageError("--examples must be at least 1, --tolerance and --seed at least 0")
    wanted = Wanted(
        source=source,
        out=out,
        signature=signature,
        inputs=None if inputs is None else read_npz(inputs, "--inputs"),
        count=examples,
        seed=seed,
        tolerance=tolerance,
        torch=torch_environment,
    )
    with phases() as tell:
        tell("importing", 0, 0)
        made = import_model(wanted, tell)
    if json_:
        emit(_described(made, wanted.out, tolerance))
    else:
        _show(made, wanted.out)


def _described(made: Imported, out: Path, tolerance: float) -> dict[str, Any]:
    return described_file(out) | {
        "format": made.format,
        "inputs": [
            {"name": name, "shape": list(shape), "channels_last": name in made.channels_last}
            for name, shape in made.inputs.items()
        ],
        "examples": made.examples,
        "tolerance": tolerance,
        "outputs": [
            {
                "name": one.output,
                "max_abs_diff": one.max_abs,
                "relative": one.relative,
                "agreement": one.agreement,
            }
            for one in made.differences
        ],
        "remarks": list(made.remarks),
    }


def _show(made: Imported, out: Path) -> None:
    rows = [
        (one.output, one.max_abs, one.relative, "" if one.agreement is None else f"{one.agreement:.1%}")
        for one in made.differences
    ]
    show(table("", ("output", "largest difference", "share of its range", "same class"), rows))
    say(f"{out}: {size(out.stat().st_size)}, compared on {made.examples} examples")
    for name in made.channels_last:
        say(f"remark: {name} has its channels last now")
    for remark in made.remarks:
        say(f"remark: {remark}")
