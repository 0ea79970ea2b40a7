"""``collab model validate``: how right a model is, alone and beside another one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.convert import Data, Inputs
from collab.cli.files import read_npz
from collab.cli.model import AsJson
from collab.cli.output import emit, progress, say, show, table
from collab.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collab.toolchain.validate.measures import Measures, Paired


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example:\n\n    collab model validate int8.tflite --data prepared/ --against m.tflite "
        "--max-accuracy-drop 0.005"
    )(validate)


def validate(
    model: Annotated[Path, typer.Argument(help="A .tflite or .keras file.", show_default=False)],
    data: Data = None,
    inputs: Inputs = None,
    expect: Annotated[Path | None, typer.Option(help="Labels of --inputs, the one array of an .npz.")] = None,
    split: Annotated[str, typer.Option(help="Which examples of --data.")] = "test",
    against: Annotated[Path | None, typer.Option(help="Another model to compare with.")] = None,
    output: Annotated[str | None, typer.Option(help="Which output, where a model has several.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Fail below this share.")] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(help="Fail where it is right less often than --against by more: 0.01 is a point."),
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Fail where fewer answers than this share are those of --against.")
    ] = None,
    max_calibration_error: Annotated[float | None, typer.Option(help="Fail above this.")] = None,
    most: Annotated[int | None, typer.Option("--examples", help="Only the first so many.")] = None,
    json_: AsJson = False,
) -> None:
    """Accuracy, calibration, classes and confusion; exit 1 where a bound is broken."""
    from collab.runtime.litert import LiteRT
    from collab.toolchain.validate.measures import compare, measure
    from collab.toolchain.validate.scoring import scores

    if against is None and (max_accuracy_drop is not None or min_agreement is not None):
        raise UsageError("--max-accuracy-drop and --min-agreement go with --against OTHER")
    if most is not None and most < 1:
        raise UsageError(f"--examples {most}: give at least 1")
    given, labels, names = _examples(data, inputs, expect, split, most)
    backend = LiteRT()
    with progress(f"running {model.name}", "examples") as advance:
        answers = scores(model, given, backend, output, advance)
    found = measure(answers, labels, names)
    beside = None
    if against is not None:
        with progress(f"running {against.name}", "examples") as advance:
            others = scores(against, given, backend, None, advance)
        beside = compare(answers, others, labels)
    broken = _broken(found, beside, min_accuracy, max_accuracy_drop, min_agreement, max_calibration_error)
    if json_:
        emit(_described(model, found, against, beside, broken))
    else:
        _show(model, found, against, beside)
    for line in broken:
        say(f"error: {line}")
    if broken:
        raise typer.Exit(1)


def _examples(
    data: Path | None, inputs: Path | None, expect: Path | None, split: str, most: int | None
) -> tuple[Mapping[str, Any], Any, tuple[str, ...]]:
    if (data is None) == (inputs is None) or (inputs is None) != (expect is None):
        raise UsageError("give --data DIR, or --inputs x.npz with --expect labels.npz")
    if data is not None:
        from collab.toolchain.data.prepared import SPLITS, Prepared

        if split not in SPLITS:
            raise UsageError(f"--split {split}: use one of {', '.join(SPLITS)}")
        prepared = Prepared.load(data)
        examples = prepared.split(split)  # type: ignore[arg-type]  # one of SPLITS
        return {"input": examples.inputs[:most]}, examples.labels[:most], prepared.classes
    assert inputs is not None
    assert expect is not None
    labels = read_npz(expect, "--expect")
    if len(labels) != 1:
        raise InputError(f"--expect {expect}: must hold one array of labels, it has {', '.join(labels)}")
    given = {name: array[:most] for name, array in read_npz(inputs, "--inputs").items()}
    return given, next(iter(labels.values()))[:most], ()


def _broken(
    found: Measures,
    beside: Paired | None,
    min_accuracy: float | None,
    max_drop: float | None,
    min_agreement: float | None,
    max_calibration: float | None,
) -> list[str]:
    lines = []
    if min_accuracy is not None and found.accuracy < min_accuracy:
        lines.append(f"accuracy {found.accuracy:.4f} is below {min_accuracy:g}")
    if max_calibration is not None and found.calibration_error > max_calibration:
        lines.append(f"calibration error {found.calibration_error:.4f} is over {max_calibration:g}")
    if beside is not None and max_drop is not None and -beside.difference > max_drop:
        low, high = beside.interval
        lines.append(
            f"accuracy drops by {-beside.difference:.4f}, over {max_drop:g} "
            f"(95 % interval {-high:.4f} to {-low:.4f})"
        )
    if beside is not None and min_agreement is not None and beside.agreement < min_agreement:
        lines.append(f"{beside.agreement:.4f} of the answers agree, below {min_agreement:g}")
    return lines


def _described(
    model: Path, found: Measures, against: Path | None, beside: Paired | None, broken: list[str]
) -> dict[str, Any]:
    return {
        "model": str(model),
        "examples": found.examples,
        "accuracy": found.accuracy,
        "interval": list(found.interval),
        "calibration_error": found.calibration_error,
        "confidence": found.confidence,
        "classes": [asdict(one) for one in found.classes],
        "confusion": found.confusion.tolist(),
        "against": beside and {"model": str(against), **asdict(beside)},
        "broken": broken,
    }


def _show(model: Path, found: Measures, against: Path | None, beside: Paired | None) -> None:
    low, high = found.interval
    say(
        f"{model.name}: accuracy {found.accuracy:.2%} ({low:.2%} to {high:.2%}) on {found.examples} "
        f"examples, calibration error {found.calibration_error:.4f}, mean confidence {found.confidence:.2%}"
    )
    rows = [
        (one.name, one.examples, _percent(one.recall), _percent(one.precision), _mistaken(found, k))
        for k, one in enumerate(found.classes)
    ]
    show(table("classes", ("class", "examples", "found", "right", "most taken for"), rows))
    if beside is not None and against is not None:
        low, high = beside.interval
        say(
            f"beside {against.name}: {100 * beside.difference:+.2f} points (95 % interval {100 * low:+.2f} "
            f"to {100 * high:+.2f}, McNemar p = {beside.p_value:.3g}), {beside.agreement:.2%} same answers; "
            f"only this one right {beside.only_model}, only the other {beside.only_reference}"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _mistaken(found: Measures, label: int) -> str:
    """The class that examples of one are most often taken for."""
    row = found.confusion[label].copy()
    row[label] = 0
    worst = int(row.argmax())
    return f"{found.classes[worst].name} ({int(row[worst])})" if row[worst] else "-"
