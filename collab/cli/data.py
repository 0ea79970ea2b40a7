"""``collab data``: from raw files to examples that a model trains on, and what a folder of them holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_type_hints

import typer

from collab.cli.output import emit, say, show, table
from collab.errors import InputError, UsageError

if TYPE_CHECKING:
    from collab.toolchain.data.card import Card
    from collab.toolchain.data.prepare import Kind
    from collab.toolchain.data.prepared import Prepared

app = typer.Typer(help="Prepare data to train on, and look into it.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

MAX_SAID: Final = 3
"""Examples of each fault; the card has more."""

EXAMPLE = """
Examples:

    collab data prepare photos/ --kind images --size 96x96 --normalise standard --out data/

    collab data prepare patients.csv --kind table --label ill --group patient --missing fill --out data/

    collab data prepare recordings/ --kind windows --length 128 --step 64 --feature spectrum --out data/
"""


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=EXAMPLE)(prepare)
    app.command("show", epilog="Example:\n\n    collab data show data/")(show_folder)
    parent.add_typer(app, name="data")


def prepare(
    source: Annotated[
        Path, typer.Argument(help="Folder of files by class, idx folder, .npz or .csv.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    kind: Annotated[str, typer.Option(help="images, table or windows.")],
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    validation: Annotated[float, typer.Option(help="Share to validate on.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share to test on, where the source names none.")] = 0.2,
    classes: Annotated[str, typer.Option(help="Names of the classes in order; else those found.")] = "",
    group: Annotated[str, typer.Option(help="Column (images: folder) of what must stay in one split.")] = "",
    label: Annotated[str, typer.Option(help="Column of the label; tables: the last one.")] = "",
    columns: Annotated[str, typer.Option(help="Columns to use, such as a,b; else all.")] = "",
    category: Annotated[str, typer.Option(help="Columns of names that look like numbers.")] = "",
    limits: Annotated[
        list[str] | None, typer.Option("--range", help="What a column may hold, such as age=0:120.")
    ] = None,
    normalise: Annotated[
        str, typer.Option(help="none, standard or min_max; images: none, the others: standard.")
    ] = "",
    size: Annotated[str, typer.Option(help="Images: height and width, such as 96x96.")] = "",
    colour: Annotated[str, typer.Option(help="Images: grey or rgb.")] = "rgb",
    resize: Annotated[
        str, typer.Option(help="Images: nearest, box, bilinear, hamming, bicubic or lanczos.")
    ] = "bilinear",
    fit: Annotated[
        str, typer.Option(help="Images: stretch, or cover (keeps proportions, crops).")
    ] = "stretch",
    crop: Annotated[float, typer.Option(help="Images: share of each side to keep, from the middle.")] = 1.0,
    scale: Annotated[float, typer.Option(help="Images: what pixels are divided by.")] = 255.0,
    layout: Annotated[str, typer.Option(help="Images: hwc or chw.")] = "hwc",
    encoding: Annotated[str, typer.Option(help="Tables: one_hot or ordinal names.")] = "one_hot",
    fill: Annotated[
        str, typer.Option(help="Tables: median, mean or most_frequent, for --missing fill.")
    ] = "median",
    length: Annotated[int, typer.Option(help="Windows: samples of one.")] = 0,
    step: Annotated[int, typer.Option(help="Windows: samples from one to the next; else half of it.")] = 0,
    feature: Annotated[str, typer.Option(help="Windows: raw, spectrum or moments.")] = "raw",
    corrupt: Annotated[str, typer.Option(help="What cannot be read: fail or drop.")] = "fail",
    missing: Annotated[str, typer.Option(help="Missing values: fail, drop or fill.")] = "fail",
    out_of_range: Annotated[str, typer.Option(help="Values outside --range: fail, drop or clip.")] = "fail",
    duplicates: Annotated[str, typer.Option(help="The same content twice: drop, keep or fail.")] = "drop",
    title: Annotated[str, typer.Option(help="For the card.")] = "",
    about: Annotated[str, typer.Option(help="For the card: what the data is and where it is from.")] = "",
    licence: Annotated[str, typer.Option(help="For the card.")] = "",
    json_: AsJson = False,
) -> None:
    """Clean, split and normalise raw data, and write it with its preprocessing and a card."""
    from collab.core.preprocessing import ImageSteps
    from collab.toolchain.data.findings import Policies
    from collab.toolchain.data.images import ImageKind
    from collab.toolchain.data.prepare import Told
    from collab.toolchain.data.prepare import prepare as prepare_data
    from collab.toolchain.data.tables import TableKind
    from collab.toolchain.data.windows import WindowKind

    policies = Policies(
        corrupt=one_of(Policies, "corrupt", corrupt),
        missing=one_of(Policies, "missing", missing),
        out_of_range=one_of(Policies, "out_of_range", out_of_range),
        duplicates=one_of(Policies, "duplicates", duplicates),
    )
    chosen: Kind
    if kind == "images":
        height, width = _size(size)
        steps = ImageSteps(
            height=height,
            width=width,
            colour=one_of(ImageSteps, "colour", colour),
            filter=one_of(ImageSteps, "filter", resize, "resize"),
            fit=one_of(ImageSteps, "fit", fit),
            crop=crop,
            scale=scale,
            layout=one_of(ImageSteps, "layout", layout),
        )
        chosen = ImageKind(steps, one_of(ImageKind, "normalise", normalise or "none"), _names(classes), group)
    elif kind == "table":
        chosen = TableKind(
            label=label,
            columns=_names(columns),
            categories=_names(category),
            group=group,
            bounds=_bounds(limits or ()),
            fill=one_of(TableKind, "fill", fill),
            encoding=one_of(TableKind, "encoding", encoding),
            normalise=one_of(TableKind, "normalise", normalise or "standard"),
            classes=_names(classes),
        )
    elif kind == "windows":
        if length < 1:
            raise UsageError("--length: give the samples of one window, such as --length 128")
        chosen = WindowKind(
            length=length,
            step=step or max(length // 2, 1),
            channels=_names(columns),
            label=label,
            group=group,
            bounds=_bounds(limits or ()),
            feature=one_of(WindowKind, "feature", feature),
            normalise=one_of(WindowKind, "normalise", normalise or "standard"),
            classes=_names(classes),
        )
    else:
        raise UsageError(f"--kind {kind[:40]}: give images, table or windows")
    prepared = prepare_data(
        source,
        chosen,
        out,
        policies=policies,
        validation=validation,
        test=test,
        seed=seed,
        told=Told(title, about, licence),
    )
    _tell(prepared, json_)


def show_folder(
    folder: Annotated[Path, typer.Argument(help="A prepared folder.", show_default=False)],
    json_: AsJson = False,
) -> None:
    """What a prepared folder holds: classes, splits, what was dropped and why."""
    from collab.toolchain.data.prepared import Prepared

    _tell(Prepared.load(folder), json_)


def one_of(owner: type, field: str, value: str, option: str = "") -> Any:
    """A value that a field of a class allows; raises `UsageError` with all of them."""
    known = get_args(get_type_hints(owner)[field])
    if value not in known:
        name = (option or field).replace("_", "-")
        raise UsageError(f"--{name} {value[:40]}: give {', '.join(known[:-1])} or {known[-1]}")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UsageError(f"--size {text[:40]!r}: give height and width in pixels, such as --size 96x96")
    return int(height), int(width)


def _bounds(limits: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = {}
    for text in limits:
        name, _, span = text.rpartition("=")
        try:
            low, high = (float(number) for number in span.split(":"))
        except ValueError:
            low, high = math.nan, math.nan
        if not (name and math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UsageError(f"--range {text[:60]!r}: give COLUMN=LEAST:GREATEST, such as age=0:120")
        found[name] = (low, high)
    return found


def _tell(prepared: Prepared, as_json: bool) -> None:
    card = read_card(prepared.folder / "card.json")
    if as_json:
        emit(
            {
                "folder": str(prepared.folder),
                "digest": prepared.digest,
                "input_shape": list(prepared.input_shape),
                "classes": list(prepared.classes),
                "counts": {name: files.count for name, files in prepared.splits.items()},
                "found": card.found,
                "kept": card.kept,
                "dropped": {fault: told.dropped for fault, told in card.faults.items()},
                "mended": {fault: told.mended for fault, told in card.faults.items()},
            }
        )
        return
    for fault, told in card.faults.items():
        for where, why in told.listed[:MAX_SAID]:
            say(f"{where}: {why}")
        count = told.dropped + told.mended
        more = f"; all in card.md, the first {len(told.listed)}" if count > MAX_SAID else ""
        say(f"{fault.replace('_', ' ')}: {told.dropped} dropped, {told.mended} mended{more}")
    for remark in card.remarks:
        say(f"remark: {remark}")
    rows = [(one.name, one.train, one.validation, one.test) for one in card.classes]
    show(
        f"{card.title}: {card.kept} of {card.found} examples, inputs {list(prepared.input_shape)}, "
        f"split {card.split_by}, digest {prepared.digest[:12]}",
        table("", ("class", "train", "validation", "test"), rows),
    )


def read_card(path: Path) -> Card:
    """A data card; raises `InputError`."""
    import msgspec

    from collab.toolchain.data.card import Card

    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no data card ({error}); prepare the data anew") from error
