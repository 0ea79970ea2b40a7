"""``collab model``: look into a model, split it, prove the split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.files import read_npz
from collab.cli.output import emit, progress, say, show, table
from collab.errors import InputError, ModelError, UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.graph import Graph, VerifyReport
    from collab.updates.bundle.golden import GoldenReport
    from collab.updates.bundle.read import Bundle

app = typer.Typer(help="Look into a .tflite model, split it, prove the split.", no_args_is_help=True)

Model = Annotated[Path, typer.Argument(help="A .tflite file, or a bundle of one.", show_default=False)]
Signature = Annotated[str | None, typer.Option(help="Which signature, where a model has several.")]
PACKAGED_INPUTS = 2
"""Examples of a bundle that splits are verified on; each costs a run of every split."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command(epilog="Example:\n\n    collab model inspect mobilenet.tflite --json")
def inspect(model: Model, signature: Signature = None, json_: AsJson = False) -> None:
    """Inputs, outputs, operators and every place where the model can be cut."""
    from collab.coordinator.planning import open_model, read_graph
    from collab.graph import cuts

    try:
        graph = open_model(model, signature)
    except ModelError as error:
        # What the runtime here cannot load can still be looked at.
        graph = read_graph(model, signature)
        say(f"warning: {error}")
    found = cuts(graph)
    if json_:
        emit(
            {
                "model_sha256": graph.sha256,
                "inputs": [_spec(t) for t in graph.inputs],
                "outputs": [_spec(t) for t in graph.outputs],
                "ops": graph.op_count,
                "weight_bytes": graph.weight_bytes,
                "foldable_ops": graph.foldable_count,
                "signatures": list(graph.signatures),
                "operators": [op.name for op in graph.operators],
                "cuts": [
                    {
                        "at": c.at,
                        "bytes": c.bytes,
                        "tensors": [_spec(t) for t in c.tensors],
                        "refused": c.refused,
                    }
                    for c in found
                ],
            }
        )
        return
    ends = [
        ("input" if i < len(graph.inputs) else "output", t.name, t.dtype, list(t.shape))
        for i, t in enumerate((*graph.inputs, *graph.outputs))
    ]
    rows = [
        (
            c.at,
            graph.operators[c.at].name,
            len(c.tensors),
            "-" if c.bytes is None else size(c.bytes),
            c.refused or "",
        )
        for c in found
    ]
    show(
        f"{model.name}: {graph.op_count} operators ({graph.foldable_count} foldable ones not counted), "
        f"{size(graph.weight_bytes)} of weights, sha256 {graph.sha256[:16]}",
        table("", ("", "tensor", "dtype", "shape"), ends),
        table("cuts", ("at", "before", "tensors", "bytes", "refused"), rows),
    )


def _spec(tensor: Any) -> dict[str, Any]:
    try:
        count = tensor.nbytes
    except KeyError:
        count = None
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "bytes": count}


@app.command(epilog="Example:\n\n    collab model split mobilenet.tflite --at 12,40 --out stages/")
def split(
    model: Model,
    at: Annotated[str, typer.Option(help="Cuts, such as 12,40.")],
    out: Annotated[Path, typer.Option(help="Directory for the stages and manifest.json.")],
    signature: Signature = None,
    json_: AsJson = False,
) -> None:
    """Write each stage as a .tflite of its own, and a manifest."""
    from collab.coordinator.planning import open_model, parse_cuts
    from collab.graph import manifest
    from collab.graph import split as split_graph

    graph = open_model(model, signature)
    stages = split_graph(graph, parse_cuts(at))
    described = manifest(graph, stages)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for entry, stage in zip(described["stages"], stages, strict=True):
            (out / entry["file"]).write_bytes(stage.data)
        (out / "manifest.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}") from error
    if json_:
        emit(described)
        return
    rows = [
        (
            e["id"],
            f"{e['ops'][0]}..{e['ops'][1]}",
            size(len(s.data)),
            ", ".join(e["inputs"]),
            ", ".join(e["outputs"]),
        )
        for e, s in zip(described["stages"], stages, strict=True)
    ]
    show(table(f"{out}/", ("stage", "operators", "file", "reads", "makes"), rows))


@app.command(epilog="Example:\n\n    collab model verify mobilenet.tflite --every-cut")
def verify(
    model: Model,
    at: Annotated[str | None, typer.Option(help="Verify this split, such as 12,40.")] = None,
    every_cut: Annotated[bool, typer.Option("--every-cut", help="Verify each cut by itself.")] = False,
    sample: Annotated[
        int | None, typer.Option(help="Verify that many random two- and three-cut splits.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="Real inputs as .npz, by tensor name.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For random inputs and splits.")] = 0,
    signature: Signature = None,
    json_: AsJson = False,
) -> None:
    """Run the stages one after another and compare with the whole model, bit by bit."""
    from collab.coordinator.planning import open_model, parse_cuts, whole_model
    from collab.graph import random_splits
    from collab.graph import verify as verify_graph
    from collab.runtime.litert import LiteRT
    from collab.updates.bundle.golden import check_golden
    from collab.updates.bundle.read import is_bundle, open_bundle

    if (at is not None) + every_cut + (sample is not None) > 1:
        raise UsageError("give one of --at, --every-cut and --sample")
    if sample is not None and sample < 1:
        raise UsageError(f"--sample {sample}: give at least 1")
    graph = open_model(model, signature)
    if at is not None:
        splits: Sequence[Sequence[int]] = [parse_cuts(at)]
    elif sample is not None:
        splits = random_splits(graph, sample, seed)
    else:
        splits = [(k,) for k in range(1, graph.op_count)]
    if not splits:
        raise UsageError(f"{model}: nothing to verify: the model has no place to cut")
    backend = LiteRT()
    whole = whole_model(graph)
    bundle = open_bundle(model) if is_bundle(model) else None
    real = list(_real_inputs(graph, inputs, bundle)) or None
    golden = None if bundle is None else check_golden(bundle, whole, str(backend.runtime_class()))
    with progress("verifying", "splits") as advance:
        report = verify_graph(
            graph,
            splits,
            lambda data: backend.load(data, 1).run,
            whole=whole,
            inputs=real,
            seed=seed,
            progress=lambda done: advance(done, len(splits)),
        )
    _report(report, golden, json_)


def _real_inputs(graph: Graph, path: Path | None, bundle: Bundle | None) -> Iterator[list[Any]]:
    """Those of the user, else those that were packaged."""
    from collab.coordinator.workload import requests_of
    from collab.updates.bundle.golden import golden_inputs

    requests: Sequence[Mapping[str, Any]] = ()
    if path is not None:
        requests = requests_of(graph.inputs, read_npz(path, "--input"), "--input")
    elif bundle is not None:
        requests = golden_inputs(bundle, PACKAGED_INPUTS)
    for request in requests:
        yield [request[spec.name] for spec in graph.inputs]


def _report(report: VerifyReport, golden: GoldenReport | None, as_json: bool) -> None:
    difference = report.max_abs_diff
    if as_json:
        emit(
            {
                "tried": report.tried,
                "exact": report.exact,
                "inexact": report.inexact,
                "refused": list(report.refused),
                "max_abs_diff": difference if difference < float("inf") else None,
                "differing": list(report.differing),
                "vacuous": report.vacuous,
                "passed": report.passed,
                "golden": None if golden is None else asdict(golden) | {"passed": golden.passed},
            }
        )
    else:
        for entry in report.refused:
            say(f"refused at {', '.join(map(str, entry['at']))}: {entry['reason']}")
        for entry in report.differing:
            say(f"inexact at {', '.join(map(str, entry['at']))}: {entry['reason']}")
        show(
            f"{report.tried} tried: {report.exact} exact, {report.inexact} inexact, "
            f"{len(report.refused)} refused; largest difference {difference:g}"
        )
    if report.vacuous:
        say(
            "error: vacuous: the model gives one answer for all inputs, so equality proves nothing; "
            "give real --input"
        )
    if golden is not None:
        kind = "this" if golden.same_class else "another"
        say(
            f"{golden.compared} packaged examples, made by {kind} runtime class: {golden.exact} answered "
            f"alike, largest difference {golden.max_abs_diff:g}"
        )
    if not report.passed or (golden is not None and not golden.passed):
        raise typer.Exit(1)
