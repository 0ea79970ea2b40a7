"""``collab model package`` and ``snippet``: a model and what belongs to it in one file, and in code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from collab.cli.data import AsJson
from collab.cli.output import emit, say
from collab.errors import InputError, UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.toolchain.data.prepared import Prepared
    from collab.toolchain.packaging import Belongings

MAX_LABEL_BYTES: Final = 16 << 20

EXAMPLE = """
Examples:

    collab model package m.tflite --data data/ --out m.collab

    collab model package m.tflite --preprocessing preprocessing.json --labels cat,dog --out m.collab
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=EXAMPLE)(package)
    app.command(epilog="Example:\n\n    collab model snippet m.collab --language kotlin --out app/")(snippet)


def package(
    model: Annotated[Path, typer.Argument(help="A .tflite file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The bundle to write, such as m.collab.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Prepared folder that it was trained on: preprocessing, labels, card, examples."),
    ] = None,
    preprocessing: Annotated[
        Path | None, typer.Option(help="preprocessing.json; that of --data otherwise.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Names in order, or a file with one a line.")] = "",
    card: Annotated[Path | None, typer.Option(help="Card to put in; that of --data otherwise.")] = None,
    golden: Annotated[int, typer.Option(help="Examples of --data to put in, with their answers.")] = 8,
    reference: Annotated[
        bool, typer.Option(help="Whether to put in what inputs and answers of --data are like.")
    ] = True,
    variant: Annotated[
        list[str] | None, typer.Option(help="The model for another back end, such as onnxruntime=m.onnx.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model; that of the file otherwise.")] = "",
    version: Annotated[str, typer.Option(help="Version of the model.")] = "",
    devices: Annotated[str, typer.Option(help="Devices that it is for, such as pi-4,jetson-nano.")] = "",
    provenance: Annotated[
        list[str] | None, typer.Option(help="Where it comes from, such as commit=1a2b3c.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Bundle a model with its preprocessing, labels, card and digests."""
    from collab.coordinator.planning import plan_name
    from collab.toolchain.data.prepared import Prepared
    from collab.toolchain.packaging import package as package_model
    from collab.updates.bundle.manifest import About

    if not 0 <= golden <= 64:
        raise UsageError(f"--golden {golden}: give 0 to 64 examples")
    prepared = None if data is None else Prepared.load(data)
    notes = dict(_pair(text, "--provenance") for text in provenance or ())
    if prepared is not None:
        notes.setdefault("data_sha256", prepared.digest)
    about = About(
        name=name or plan_name(model),
        version=version,
        devices=tuple(filter(None, devices.split(","))),
        provenance=notes,
    )
    belongings = _belongings(prepared, preprocessing, labels, card, golden, variant or (), reference)
    bundle = package_model(model, belongings, about, out)
    manifest = bundle.manifest
    if json_:
        emit(
            {
                "file": str(out),
                "digest": bundle.digest,
                "bytes": out.stat().st_size,
                "model_sha256": manifest.model.sha256,
                "files": {entry.file: entry.bytes for entry in manifest.files},
            }
        )
        return
    files = ", ".join(entry.file for entry in manifest.files)
    say(f"{out}: {size(out.stat().st_size)}, digest {bundle.digest[:12]}: {files}")


def _belongings(
    prepared: Prepared | None,
    preprocessing: Path | None,
    labels: str,
    card: Path | None,
    golden: int,
    variants: Sequence[str],
    reference: bool,
) -> Belongings:
    from collab.core.preprocessing import MAX_BYTES, decode_preprocessing
    from collab.toolchain.packaging import Belongings
    from collab.updates.bundle.manifest import MAX_SIDE_BYTES

    steps = None if prepared is None else prepared.preprocessing
    if preprocessing is not None:
        steps = decode_preprocessing(_read(preprocessing, MAX_BYTES), str(preprocessing))
    names = _labels(labels) if labels else () if prepared is None else prepared.classes
    if card is None and prepared is not None:
        card = prepared.folder / "card.md"
    return Belongings(
        preprocessing=steps,
        labels=names,
        card=None if card is None else _read(card, MAX_SIDE_BYTES),
        data=prepared if reference else None,
        examples=prepared.split("test").inputs[:golden] if prepared is not None and golden else None,
        variants={backend: (Path(path), "") for backend, path in (_pair(v, "--variant") for v in variants)},
    )


def _labels(text: str) -> tuple[str, ...]:
    path = Path(text)
    if "," in text and not path.is_file():
        return tuple(name.strip() for name in text.split(","))
    lines = _read(path, MAX_LABEL_BYTES).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _pair(text: str, option: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (separator and key and value):
        raise UsageError(f"{option} {text[:60]!r}: give NAME=VALUE")
    return key, value


def _read(path: Path, most: int) -> bytes:
    try:
        if (found := path.stat().st_size) > most:
            raise InputError(f"{path}: {found} bytes are over {most}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def snippet(
    bundle: Annotated[Path, typer.Argument(help="What `collab model package` wrote.", show_default=False)],
    language: Annotated[str, typer.Option(help="kotlin, swift, cpp or micro.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    json_: AsJson = False,
) -> None:
    """Write source code that runs a packaged model in an app or on a microcontroller."""
    from collab.toolchain.data.prepared import write_folder
    from collab.toolchain.snippets.write import snippet as files_of
    from collab.updates.bundle.read import open_bundle

    files = files_of(open_bundle(bundle), language)
    write_folder(out, files)
    if json_:
        emit({"folder": str(out), "files": {name: len(data) for name, data in sorted(files.items())}})
    else:
        say(f"{out}: {', '.join(sorted(files))}")
