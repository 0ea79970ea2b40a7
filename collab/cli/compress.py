"""``collab model compress``: the best smaller and faster variant of a trained model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.files import write_bytes, write_text
from collab.cli.model import AsJson
from collab.cli.output import emit, phases, say, show, table
from collab.errors import InputError, UsageError
from collab.planner.wording import duration, size

if TYPE_CHECKING:
    from collab.toolchain.compress.frontier import Measured, Targets
    from collab.toolchain.compress.recipe import Recipe

_QUANTITY: Final = re.compile(r"([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)")
_BYTES: Final = {"": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1_000_000, "KiB": 1024, "MiB": 1 << 20}
_MS: Final = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1000.0}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example:\n\n    collab model compress run/model.keras --data prepared/ "
        "--target-size 100kB --out compressed/"
    )(compress)


def compress(
    model: Annotated[Path, typer.Argument(help="A trained .keras classifier.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder that `collab data prepare` made.")],
    out: Annotated[
        Path, typer.Option(help="Folder for all variants; one that is there already is gone on with.")
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Such as 'structured:0.5 -> distil -> int8'; may be repeated. Else a search."),
    ] = None,
    target_size: Annotated[str | None, typer.Option(help="Most bytes after zstd, such as 100kB.")] = None,
    target_latency: Annotated[
        str | None, typer.Option(help="Most time of an answer on this machine, one thread, such as 2ms.")
    ] = None,
    max_accuracy_drop: Annotated[
        float, typer.Option(help="Points of accuracy on the test images that may be lost.")
    ] = 1.0,
    epochs: Annotated[
        float, typer.Option(help="Factor on the epochs of every training; below 1 is quicker.")
    ] = 1.0,
    examples: Annotated[int | None, typer.Option(help="Train and measure on so many, not on all.")] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Train on images turned left to right too.")
    ] = False,
    near: Annotated[
        Path | None,
        typer.Option(help="Int8 .tflite of the release before: its weights stay where they are near enough."),
    ] = None,
    near_steps: Annotated[
        float, typer.Option(help="How many rounding steps such a weight may be off; 0.5 changes nothing.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="For samples, shuffles and fresh weights.")] = 0,
    cuts: Annotated[
        bool, typer.Option(help="Verify every cut of every variant, as `collab model verify` does.")
    ] = True,
    json_: AsJson = False,
) -> None:
    """Try recipes, measure what they give beside the baseline, and keep the best.

    The baseline's accuracy, size, time and memory are in the table too.  Exit code 1 when no
    variant keeps to the targets; the best that was found is written all the same.
    """
    from collab.graph import read_model
    from collab.toolchain.compress.frontier import Targets
    from collab.toolchain.compress.near import Former, same_weights
    from collab.toolchain.compress.recipe import DEFAULT_RECIPES, parse
    from collab.toolchain.compress.run import open_bench, search
    from collab.toolchain.compress.search import EFFORTS

    if not 0.5 <= near_steps <= 8:
        raise UsageError(f"--near-steps {near_steps:g}: goes from 0.5 to 8")
    if not 0 < epochs <= 100 or max_accuracy_drop < 0 or (examples is not None and examples < 1):
        raise UsageError("--epochs goes from 0 to 100, --max-accuracy-drop from 0, --examples from 1 on")
    targets = Targets(
        None if target_size is None else round(quantity(target_size, "--target-size", _BYTES)),
        None if target_latency is None else quantity(target_latency, "--target-latency", _MS),
        max_accuracy_drop,
    )
    recipes: Sequence[Recipe] = [parse(text).at_effort(epochs) for text in recipe or DEFAULT_RECIPES]
    former = None if near is None else Former(bytes(read_model(near).data), near_steps)
    splits = _splits(data, examples, seed)
    with phases() as tell:
        bench = open_bench(out, model, splits, seed, mirror, tell, cuts, former)
        # Recipes that were asked for are not dropped half way.
        found = search(bench, recipes, targets, (1.0,) if recipe else EFFORTS, say)
    variants, best = found.variants, found.best
    kept = targets.excess(best) <= 0
    write_bytes(out / "best.tflite", found.model)
    # As large as the data; made anew when the search goes on.
    bench.material.taught_file.unlink(missing_ok=True)
    report = _report(variants, best, targets, kept)
    if former is not None:
        report["near"] = {"steps": near_steps, "same": same_weights(found.model, former.model)}
        say(f"int8 weights that are those of {near}: {report['near']['same']:.1%}")
    _write(out, report, variants, best)
    if json_:
        emit(report)
    else:
        _show(variants, best, out)
    if not kept:
        say(
            f"error: no variant keeps to the targets; the best found, {best.recipe}, {_misses(best, targets)}"
        )
        raise typer.Exit(1)


def quantity(text: str, option: str, units: dict[str, Any]) -> float:
    """A number above 0 with one of some units; raises `UsageError`."""
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in units or not float(found[1]) > 0:
        raise UsageError(
            f"{option} {text}: give a number above 0 and a unit of {', '.join(filter(None, units))}"
        )
    return float(found[1]) * float(units[found[2]])


def _splits(data: Path, examples: int | None, seed: int) -> dict[str, Any]:
    from collab.toolchain.compress.training import Taught
    from collab.toolchain.data.prepared import Prepared

    prepared = Prepared.load(data)
    splits = {}
    for name in ("train", "validation", "test"):
        found = prepared.split(name)
        taught = Taught(found.inputs, found.labels)
        if not len(taught):
            raise InputError(f"--data {data}: split {name} is empty; prepare the data with one")
        splits[name] = taught if examples is None else taught.sample(examples, seed)
    return splits


def _misses(best: Measured, targets: Targets) -> str:
    said = []
    if targets.size_bytes is not None and best.zstd_bytes > targets.size_bytes:
        said.append(f"takes {size(best.zstd_bytes)} after zstd, not {size(targets.size_bytes)}")
    if targets.latency_ms is not None and best.latency_ms > targets.latency_ms:
        said.append(f"takes {duration(best.latency_ms)}, not {duration(targets.latency_ms)}")
    if -best.difference.points > targets.max_drop:
        said.append(f"loses {-best.difference.points:.2f} points, not {targets.max_drop:g}")
    return " and ".join(said)


def _report(variants: Sequence[Measured], best: Measured, targets: Targets, kept: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from collab.toolchain.compress.frontier import front

    on_front = {each.recipe for each in front(variants)}
    return {
        "kept": kept,
        "best": best.recipe,
        "targets": asdict(targets),
        "variants": [
            {
                **asdict(each),
                "cuts": {"tried": each.cuts[0], "exact": each.cuts[1]},
                "front": each.recipe in on_front,
            }
            for each in variants
        ],
    }


def _write(out: Path, report: dict[str, Any], variants: Sequence[Measured], best: Measured) -> None:
    import json

    from collab.cli.plots import Point, scatter_svg

    points = [
        Point(each.zstd_bytes / 1000, 100 - 100 * each.accuracy, each.recipe, each.recipe == best.recipe)
        for each in variants
    ]
    picture = scatter_svg(points, "size after zstd, kB", "wrong answers, %", "Variants by size and error")
    write_text(out / "frontier.svg", picture)
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")


def _show(variants: Sequence[Measured], best: Measured, out: Path) -> None:
    from collab.toolchain.compress.frontier import front

    on_front = front(variants)
    rows = [
        (
            f"{'* ' if each in on_front else '  '}{each.recipe}",
            f"{100 * each.accuracy:.2f}",
            f"{each.difference.points:+.2f} ±{(each.difference.high - each.difference.low) / 2:.2f}",
            f"{each.bytes / 1000:,.1f}",
            f"{each.zstd_bytes / 1000:,.1f}",
            f"{each.latency_ms:.3f}",
            f"{1 / each.latency_ratio:.2f}",
            f"{each.arena_bytes / 1000:,.0f}",
            f"{each.cuts[1]}/{each.cuts[0]}",
        )
        for each in sorted(variants, key=lambda each: each.zstd_bytes)
    ]
    columns = ("recipe", "right %", "points", "file kB", "zstd kB", "ms", "faster", "arena kB", "cuts")
    show(table("", columns, rows))
    say("*: no other is smaller, faster and more accurate; points: to the baseline, 95 %; cuts: exact ones")
    say(f"best: {best.recipe}, in {out / 'best.tflite'}; plot in {out / 'frontier.svg'}")
