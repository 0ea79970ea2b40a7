"""``collab model check``: how a model would do on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.files import read_profile
from collab.cli.model import AsJson, Model, Signature
from collab.cli.output import emit, progress, say, show, table
from collab.errors import CollabError, UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.toolchain.devices.catalogue import Catalogue
    from collab.toolchain.devices.check import Model as Checked
    from collab.toolchain.devices.check import Report
    from collab.toolchain.devices.measured import Times


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example:\n\n    collab model check m.tflite --device raspberry-pi-4")(check)


def check(
    model: Model,
    device: Annotated[
        list[str] | None, typer.Option(help="A device of the catalogue; may be repeated.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All devices.")] = False,
    catalogue: Annotated[Path | None, typer.Option(help="Your own devices and delegates, as YAML.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Times measured on devices, by `collab profile`.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Time the model on this machine.")] = True,
    signature: Signature = None,
    json_: AsJson = False,
) -> None:
    """Whether it fits, what runs it, how long it may take; exit 1 where a named device cannot."""
    from collab.graph import read_model
    from collab.toolchain.devices import catalogue as catalogues
    from collab.toolchain.devices.check import Model as Checked
    from collab.toolchain.devices.check import check as check_device
    from collab.toolchain.devices.measured import arena_bytes

    known = catalogues.shipped()
    if catalogue is not None:
        known = catalogues.with_file(known, catalogue)
    if bool(device) == every:
        raise UsageError(f"give --device NAME or --all; there is {', '.join(known.devices)}")
    names = list(known.devices) if every else list(dict.fromkeys(device or ()))
    for name in names:
        known.device(name)
    looked = Checked.of(read_model(model, signature=signature))
    times = _times(looked) if measure else None
    measured = arena_bytes(looked.graph) if measure else None
    given = None if profile is None else read_profile(profile)
    reports = [check_device(looked, name, known, times, given) for name in names]
    if json_:
        emit(_described(looked, times, measured, reports))
    else:
        _show(model, looked, times, measured, reports, known)
    if not every and not all(report.good for report in reports):
        raise typer.Exit(1)


def _times(looked: Checked) -> Times | None:
    from collab.runtime.litert import LiteRT
    from collab.toolchain.devices.measured import times

    try:
        with progress("timing the model here"):
            return times(looked.graph, looked.weights, LiteRT())
    except CollabError as error:
        say(f"warning: not timed here: {error}")
        return None


def _described(
    looked: Checked, times: Times | None, measured: int | None, reports: list[Report]
) -> dict[str, Any]:
    graph = looked.graph
    return {
        "model_sha256": graph.sha256,
        "file_bytes": len(graph.data),
        "weight_bytes": graph.weight_bytes,
        "ops": graph.op_count,
        "macs": sum(op.macs for op in looked.ops),
        "arena": {
            "planned_bytes": looked.arena.bytes,
            "with_patches_bytes": looked.with_patches.bytes,
            "measured_bytes": measured,
            "peak_at": looked.arena.at,
        },
        "here_ms": times and times.whole_ms,
        "devices": [_device(report) for report in reports],
    }


def _device(report: Report) -> dict[str, Any]:
    memory, latency = report.memory, report.latency
    return {
        "device": report.device,
        "title": report.title,
        "fits": memory.fits,
        "runs": report.runs,
        "verdict": report.verdict,
        "delegate": report.delegate,
        "delegated_share": round(report.share, 4),
        "fallbacks": [{"at": f.at, "operator": f.operator, "reason": f.reason} for f in report.fallbacks],
        "partitions": [{"start": p.start, "stop": p.stop, "on": p.on} for p in report.partitions],
        "memory": {
            "needed_bytes": memory.needed,
            "available_bytes": memory.available,
            "weights_bytes": memory.weights,
            "packed_bytes": memory.packed,
            "arena_bytes": memory.arena,
            "runtime_bytes": memory.runtime,
            "flash_bytes": memory.flash,
        },
        "latency": latency and {"ms": latency.ms, "basis": latency.basis, "assumed": latency.assumed},
        "remedies": list(report.remedies),
    }


def _show(
    path: Path,
    looked: Checked,
    times: Times | None,
    measured: int | None,
    reports: list[Report],
    known: Catalogue,
) -> None:
    graph, arena = looked.graph, looked.arena
    say(
        f"{path.name}: {graph.op_count} operators, {sum(op.macs for op in looked.ops) / 1e6:.1f} million "
        f"multiplications, {size(len(graph.data))}"
    )
    found = "not told by this runtime" if measured is None else f"{size(measured)} measured here"
    say(
        f"activations: {size(arena.bytes)} planned, most at operator {arena.at}; without a delegate "
        f"{size(looked.with_patches.bytes)} planned, {found}"
    )
    if times is not None:
        say(f"here: {times.whole_ms:.3g} ms with one thread")
    rows = [
        (
            report.device,
            "yes" if report.good else "NO",
            f"{size(report.memory.needed)} of {size(report.memory.available)}",
            f"{report.delegate}, {report.share:.0%}",
            len(report.partitions),
            "-" if report.latency is None else f"{report.latency.ms:.3g}{'?' * report.latency.assumed}",
            report.verdict,
        )
        for report in reports
    ]
    columns = ("device", "good", "memory", "runs on", "parts", "ms", "verdict")
    show(table("", columns, rows))
    if any(report.latency and report.latency.assumed for report in reports):
        say("? rests on an assumption; measure on the device with collab profile and give --profile")
    if len(reports) == 1:
        _details(reports[0], known)


def _details(report: Report, known: Catalogue) -> None:
    if report.latency is not None:
        say(f"time: {report.latency.basis}")
    for fallback in report.fallbacks[:20]:
        say(f"falls back: operator {fallback.at}, {fallback.operator}: {fallback.reason}")
    if report.delegate in known.delegates:
        say(f"operators of {report.delegate}: {known.delegates[report.delegate].source}")
    for remedy in report.remedies:
        say(f"remedy: {remedy}")
