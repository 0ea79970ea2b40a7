"""``collab model zoo`` and ``collab model new``: architectures, and untrained models of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from collab.cli.model import AsJson
from collab.cli.output import emit, say, show, table
from collab.errors import InputError, UsageError
from collab.planner.wording import size

Choices = Annotated[
    list[str] | None, typer.Option("--option", help="Of the architecture, NAME=VALUE; again for more.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example:\n\n    collab model zoo")(zoo)
    app.command(epilog="Example:\n\n    collab model new cnn --input 28,28,1 --classes 10 --out m.keras")(new)


def zoo(json_: AsJson = False) -> None:
    """List the architectures that can be built, with their options."""
    import msgspec

    from collab.toolchain.zoo.table import ZOO

    described = [
        {
            "name": name,
            "takes": entry.takes,
            "input_shape": list(entry.shape),
            "classes": entry.classes,
            "parameters": entry.parameters,
            "published": entry.published,
            "source": entry.source,
            "options": {field.name: field.default for field in msgspec.structs.fields(entry.options)},
        }
        for name, entry in ZOO.items()
    ]
    if json_:
        emit(described)
        return
    rows = [
        (
            each["name"],
            f"{','.join(map(str, entry.shape))} → {entry.classes}",
            f"{entry.parameters:,}",
            f"{entry.published}, {entry.source}" if entry.published else "",
            ", ".join(f"{name}={_shown(value)}" for name, value in each["options"].items()),
        )
        for each, entry in zip(described, ZOO.values(), strict=True)
    ]
    show(table("", ("name", "input → classes", "parameters", "published", "options"), rows))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def new(
    name: Annotated[str, typer.Argument(help="Of `collab model zoo`.", show_default=False)],
    input_: Annotated[str, typer.Option("--input", help="Sizes of one example, channels last: 28,28,1.")],
    classes: Annotated[int, typer.Option(help="How many to tell apart.")],
    out: Annotated[Path, typer.Option(help="The .keras file to write.")],
    option: Choices = None,
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights: .keras, .weights.h5, or keras.applications' .h5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the initial weights.")] = 0,
    json_: AsJson = False,
) -> None:
    """Build an untrained model, or one with weights from a file of yours."""
    from collab.toolchain.keras_files import write_keras
    from collab.toolchain.zoo import build
    from collab.toolchain.zoo.pretrained import load_pretrained

    keras_file(out)
    model = build(name, input_shape=sizes(input_), classes=classes, seed=seed, **chosen(option))
    whole = load_pretrained(model, weights) if weights is not None else None
    write_keras(model, out)
    if json_:
        emit(described_file(out) | {"name": name, "parameters": int(model.count_params())})
        return
    say(f"{out}: {name}, {int(model.count_params()):,} weights, {size(out.stat().st_size)}")
    if whole is False:
        say(f"{weights} has no classifier for {classes} classes: that one is untrained")


def sizes(text: str) -> tuple[int, ...]:
    """Sizes of one example; raises `UsageError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--input {text}: give sizes such as 28,28,1") from error


def chosen(options: Sequence[str] | None) -> Mapping[str, str]:
    """Options of an architecture by name; raises `UsageError`."""
    found = {}
    for text in options or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text}: give NAME=VALUE, such as alpha=0.5")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def keras_file(out: Path) -> None:
    """Refuse a name or a place that no model can be written to, before any work."""
    if out.suffix != ".keras":
        raise UsageError(f"--out {out}: a Keras model ends in .keras")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it first")


def described_file(path: Path) -> dict[str, Any]:
    """A file as scripts read it."""
    data = path.read_bytes()
    return {"file": str(path), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
