"""``collab run``: requests through a deployed plan."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from collab.cli.connect import (
    AsJson,
    Insecure,
    InsecureNetwork,
    Peers,
    PlanFile,
    confirmed,
    refresh,
    with_cluster,
)
from collab.cli.files import read_npz, read_plan, write_npz
from collab.cli.output import emit, progress, say, show, table
from collab.cli.raw import answer_table, read_inputs
from collab.cli.replanning import successor_path
from collab.cli.streaming import Asking, StreamOptions, run_stream
from collab.errors import InputError, NotLoaded, PeerError, UsageError

if TYPE_CHECKING:
    from collab.client.follow import Follower
    from collab.client.policy import RetryPolicy
    from collab.client.runner import Result
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.workload import Comparison, Report, Request
    from collab.core.plan import Plan
    from collab.core.token import Priority

MAX_ATTEMPTS = 16
MAX_IDS = 256
"""Requests that the output of ``--json`` names."""

EXAMPLE = """
Examples:

    collab run plan.yaml --input x.npz --expect y.npz --repeat 10 --concurrency 8

    collab run plan.yaml --input x.npz --local model.tflite

    collab run plan.yaml --input photos/ --top 3

    collab run plan.yaml --source folder:photos --watch --sink jsonl:answers.jsonl
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", epilog=EXAMPLE)(run)


def run(
    plan: PlanFile,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="Inputs as .npz, by tensor name; one more leading axis is many requests. Of a packaged "
            "model also a picture, a .csv, or a folder of them.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the answers as .npz.")] = None,
    expect: Annotated[Path | None, typer.Option(help="Answers to compare with, as .npz.")] = None,
    repeat: Annotated[int, typer.Option(help="How often every request is made.")] = 1,
    concurrency: Annotated[int, typer.Option(help="Requests under way at a time.")] = 1,
    deadline_ms: Annotated[float, typer.Option(help="Time budget of each request.")] = 30_000.0,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance; the plan's otherwise.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance; the plan's otherwise.")] = None,
    attempts: Annotated[
        int, typer.Option(help="Attempts at each request when nodes fail, the first included.")
    ] = 3,
    hedge: Annotated[
        bool,
        typer.Option(
            "--hedge", help="Start a second attempt on replicas when an answer is later than 95 % of them."
        ),
    ] = False,
    priority: Annotated[
        str, typer.Option(help="Who goes first in the nodes' queues: low, normal or high.")
    ] = "normal",
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow",
            help="Go along when a controller deploys the plan anew, and take part in trials of new models.",
        ),
    ] = True,
    local: Annotated[
        Path | None, typer.Option(help="The whole model, to compute here what no node can answer.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Packaged model, for raw input, where the plan does not name it.")
    ] = None,
    top: Annotated[int, typer.Option(help="Labels of each answer to raw input.")] = 3,
    source: Annotated[
        str | None,
        typer.Option(
            help="Frames in place of --input: folder:DIR, file:CLIP, v4l2:/dev/videoN, rtsp://… or "
            "mqtt://HOST/TOPIC."
        ),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Where answers to frames go: jsonl:PATH, jsonl:-, mqtt://HOST/TOPIC, https://…"),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Of frames that come meanwhile: latest, queue:N or queue:N:drop-oldest."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Most frames a second.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames after which it ends.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for new files in a folder.")] = False,
    otlp: Annotated[str | None, typer.Option(help="Collector for traces: http://HOST:4318.")] = None,
    trace_ratio: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of requests traced.")] = 1.0,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Run requests, compare the answers, and say where the time went."""
    from collab.assembly import make_tracer
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.whole import local_model
    from collab.runtime.litert import LiteRT

    _check_options(repeat, concurrency, deadline_ms, top, atol, rtol, output)
    retry = _retry_policy(attempts, hedge)
    rank = _priority(priority)
    trust = confirmed(insecure, insecure_network)
    if source is not None:
        _refuse({"--input": inputs, "--expect": expect, "--output": output, "--otlp": otlp}, "--source")
        options = StreamOptions(source, sink or (), policy, fps, frames, watch, top, deadline_ms, concurrency)
        asking = Asking(read_peers(peers), follow, retry, rank, local, trust)
        raise typer.Exit(run_stream(plan, bundle, options, asking, as_json=json_))
    parsed = read_plan(plan)
    given = read_inputs(_needed(inputs), parsed, plan.parent, bundle)
    requests = given.requests
    expected = None if expect is None else _expected(expect, parsed, len(requests))

    here = str(LiteRT().runtime_class())
    fallback = None if local is None else local_model(parsed, local)

    async def drive(cluster: Cluster) -> _Ran:
        from collab.client.follow import takes_the_place
        from collab.coordinator.comparing import choose_comparison, placed
        from collab.coordinator.workload import load

        judges: list[Comparison] = []

        async def successor(known: Plan) -> Plan | None:
            found = await _successor(cluster, plan, known, read_peers(peers)) if follow else None
            if found is not None:
                with suppress(PeerError):
                    await cluster.reach_plan(found, placed(found))
                judges.append(await choose_comparison(cluster, found, here, atol, rtol))
            return found

        opened = await refresh(cluster, parsed, read_peers(peers))
        # Answers of other weights are not those that are expected; who stays takes no part in trials.
        exact = expected is not None or not follow
        try:
            client = await cluster.follow(opened, successor, concurrency, retry, fallback, same_model=exact)
        except NotLoaded:
            # The controller that watches this file may have deployed another plan already.
            moved = await _kept(cluster, (successor_path(plan),), read_peers(peers)) if follow else None
            if moved is None or not takes_the_place(moved, opened, same_model=exact):
                raise
            whole = fallback if takes_the_place(moved, opened, same_model=True) else None
            client = await cluster.follow(moved, successor, concurrency, retry, whole, same_model=exact)
        if client.granted < concurrency:
            say(f"the plan admits {client.granted} requests at a time, not {concurrency}")
        judges.append(await choose_comparison(cluster, client.plan, here, atol, rtol))
        at_a_time = min(concurrency, client.granted)
        tally = _Tally(client, parsed, rank)
        with progress("running", "requests") as advance:
            report, answers = await load(
                tally,
                requests,
                repeat=repeat,
                concurrency=at_a_time,
                deadline_s=deadline_ms / 1000,
                expected=expected,
                # Answers of two plans may be under way: what is exact is close as well.
                comparison=lambda: min(judges, key=lambda judge: judge.exact),
                progress=advance,
                keep=output is not None or given.raw is not None,
            )
        return _Ran(report, answers, client.plan, at_a_time, tally)

    async def drive_and_close(cluster: Cluster) -> _Ran:
        tracer = None if otlp is None else await asyncio.to_thread(make_tracer, otlp, {}, trace_ratio)
        cluster.tracer = tracer
        try:
            return await drive(cluster)
        finally:
            if tracer is not None:
                await asyncio.to_thread(tracer.close)
            if fallback is not None:
                await fallback.close()

    ran = with_cluster(drive_and_close, role="client", trust=trust)
    if output is not None:
        _write_answers(output, ran.answers, parsed, given.alone)
    _tell(ran, json_, given.answers(ran.answers, top))
    raise typer.Exit(int(bool(ran.report.failed or ran.report.wrong)))


def _expected(path: Path, plan: Plan, count: int) -> list[Request]:
    from collab.coordinator.workload import requests_of

    expected = requests_of(plan.outputs, read_npz(path, "--expect"), "--expect")
    if len(expected) != count:
        raise InputError(f"--expect {path}: {len(expected)} answers for {count} requests")
    return expected


class _Ran(NamedTuple):
    """What a load gave, and the plan that it ended on."""

    report: Report
    answers: Sequence[Mapping[str, Any] | None]
    plan: Plan
    concurrency: int
    tally: _Tally


class _Tally:
    """Passes requests on to a client, and counts what their answers took beyond a first attempt."""

    def __init__(self, client: Follower, plan: Plan, priority: Priority) -> None:
        from collab.coordinator.ensemble_reports import Reports

        self._client = client
        self._priority = priority
        self.reports = Reports(plan)
        self.retries = 0
        self.hedged = 0
        self.ids: list[str] = []
        """Names of the first requests that were answered, as they were."""

    async def run(self, inputs: Request, deadline_s: float) -> Result:
        """One inference."""
        result = await self._client.run(inputs, deadline_s, self._priority)
        self.hedged += result.hedged
        self.retries += result.attempts - 1 - result.hedged
        if len(self.ids) < MAX_IDS:
            self.ids.append(result.request.hex())
        if result.absent is None:
            self.reports.add(result.outputs)
        return result

    def to_json(self) -> dict[str, Any]:
        """As ``collab run --json`` prints it."""
        own = {"retries": self.retries, "hedged": self.hedged, "ids": self.ids}
        return own | self.reports.to_json()


def _retry_policy(attempts: int, hedge: bool) -> RetryPolicy:
    from collab.client.policy import RetryPolicy

    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise UsageError(f"--attempts {attempts}: give a number from 1 to {MAX_ATTEMPTS}")
    if hedge and attempts == 1:
        raise UsageError("--hedge needs a second attempt; give --attempts 2 or more")
    return RetryPolicy(max_attempts=attempts, hedge=hedge)


def _priority(name: str) -> Priority:
    from collab.core.token import Priority

    try:
        return Priority[name.upper()]
    except KeyError:
        known = ", ".join(priority.name.lower() for priority in Priority)
        raise UsageError(f"--priority {name[:40]!r}: give one of {known}") from None


def _tell(ran: _Ran, as_json: bool, answers: Sequence[Mapping[str, Any]]) -> None:
    from collab.client.runner import CANDIDATE, PRIMARY
    from collab.coordinator.calibration import calibration

    report = ran.report
    compared = calibration(report, ran.plan, ran.concurrency)
    if as_json:
        calibrated = {"calibration": compared} if compared is not None else {}
        labelled = {"answers": answers} if answers else {}
        emit(report.to_json(ran.plan) | ran.tally.to_json() | calibrated | labelled)
    else:
        if answers:
            show(answer_table(answers))
        show(*describe(report, ran.plan), *([describe_calibration(compared)] if compared is not None else []))
        show(*describe_reports(ran.tally.reports.to_json()))
    if ran.tally.retries or ran.tally.hedged:
        say(f"answers took {ran.tally.retries} retries and {ran.tally.hedged} hedged attempts")
    tried = sum(count for via, count in report.via.items() if via.startswith(CANDIDATE))
    if tried:
        say(f"a new model is on trial: {tried} requests were answered by it")
    others = {
        via: count for via, count in report.via.items() if via != PRIMARY and not via.startswith(CANDIDATE)
    }
    if others:
        paths = ", ".join(f"{count} by {via}" for via, count in others.items())
        say(f"nodes of the plan were lost: {paths}, {report.via[PRIMARY]} by the plan itself")
    if report.epochs > 1:
        say(f"the plan was deployed anew meanwhile: {report.epochs} epochs answered, {report.epoch} the last")
    for text, count in report.errors.items():
        say(f"error: {text}" + (f" ({count} times)" if count > 1 else ""))


async def _kept(
    cluster: Cluster, files: Sequence[Path], peers: list[str], digest: str | None = None
) -> Plan | None:
    """The first plan of some files, of a digest if one is given; with the endpoints of the peers."""
    for file in files:
        with suppress(InputError):
            found = await asyncio.to_thread(read_plan, file)
            if digest is None or found.digest == digest:
                return await refresh(cluster, found, peers)
    return None


async def _successor(cluster: Cluster, path: Path, known: Plan, peers: list[str]) -> Plan | None:
    """What the nodes run in a plan's place; from a file where it is there, for that has its prediction."""
    running = await cluster.successor(known)
    if running is None:
        return None
    return await _kept(cluster, (successor_path(path), path), peers, running.digest) or running


def _needed(inputs: Path | None) -> Path:
    if inputs is None:
        raise UsageError("--input: is missing; give inputs, or --source for frames")
    return inputs


def _refuse(options: Mapping[str, object], beside: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option}: does not go with {beside}; leave one of them out")


def _check_options(
    repeat: int,
    concurrency: int,
    deadline_ms: float,
    top: int,
    atol: float | None,
    rtol: float | None,
    output: Path | None,
) -> None:
    for option, value in (
        ("--repeat", repeat),
        ("--concurrency", concurrency),
        ("--deadline-ms", deadline_ms),
        ("--top", top),
    ):
        if not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: give a number above 0")
    for option, bound in (("--atol", atol), ("--rtol", rtol)):
        if bound is not None and not 0 <= bound < math.inf:
            raise UsageError(f"{option} {bound:g}: give a number of at least 0")
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no directory {output.parent}")


def _write_answers(path: Path, answers: Sequence[Mapping[str, Any] | None], plan: Plan, alone: bool) -> None:
    """One answer in the model's own shapes if its request was ``alone``, else stacked."""
    import numpy as np

    got = [answer for answer in answers if answer is not None]
    if len(got) != len(answers):
        say(f"warning: {len(answers) - len(got)} requests have no answer; {path} is not written")
        return
    arrays = {s.name: np.stack([np.asarray(a[s.name]) for a in got]) for s in plan.outputs}
    if alone:
        arrays = {name: array[0] for name, array in arrays.items()}
    write_npz(path, arrays)


def describe(report: Report, plan: Plan) -> list[Any]:
    """What a load gave, for people."""
    verdict = ""
    if report.compared:
        bounds = "".join(f", {name} {value:g}" for name, value in (report.tolerance or {}).items())
        verdict = f", {report.wrong} wrong ({report.compared} comparison{bounds})"
    lines: list[Any] = [
        f"{report.requests} requests, {report.failed} failed{verdict}, {report.throughput_rps:.1f} a second"
    ]
    if report.latencies_ms:
        lines.append(
            "latency " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in report.percentiles().items())
        )
        rows = [
            (
                row["stage"] + (" (estimated)" if row.get("estimated") else ""),
                " + ".join(row.get("nodes", [])),
                *(row.get(part, "") for part in ("queue_ms", "decode_ms", "compute_ms", "encode_ms")),
                row.get("wire_ms", ""),
                row.get("sent_bytes", ""),
                row.get("ratio", ""),
                f"{row['codec_error']:.1e}" if "codec_error" in row else "",
            )
            for row in report.hops(plan)
        ]
        times = ("queue ms", "decode ms", "compute ms", "encode ms", "wire ms")
        heads = ("hop", "node", *times, "sent bytes", "ratio", "error")
        lines.append(table("medians per hop", heads, rows))
        if fallbacks := sum(row.get("codec_fallbacks", 0) for row in report.hops(plan)):
            lines.append(
                f"{fallbacks} tensors sent without loss: their codec could not keep the plan's error"
            )
    return lines


def describe_reports(told: Mapping[str, Any]) -> list[Any]:
    """Who answered in an ensemble or a cascade, for people."""
    if "cascade" in told:
        shares = (f"{name} {share:.1%}" for name, share in told["cascade"]["answered"].items())
        return [f"answered by {', '.join(shares)}"]
    if "ensemble" not in told:
        return []
    heads = ("member", "took part", "missing", "not finite", "quarantined", "agreement")
    rows = [
        tuple(
            value if isinstance(value, str) else "" if value is None else f"{value:.1%}"
            for value in row.values()
        )
        for row in told["ensemble"]["members"]
    ]
    sure = told["ensemble"].get("confidence")
    lines: list[Any] = [table("who answered", heads[: len(told["ensemble"]["members"][0])], rows)]
    if sure is not None:
        lines.append(f"confidence {sure['mean']:.3f} in the mean, below {sure['p5']:.3f} in 5% of answers")
    return lines


def describe_calibration(compared: Mapping[str, Any]) -> Any:
    """Predicted and measured, for people."""

    def row(what: str, where: str, times: Mapping[str, Any]) -> tuple[object, ...]:
        error = times["error"]
        return (
            what,
            where,
            times["predicted"],
            "" if times["measured"] is None else times["measured"],
            "" if error is None else f"{error:+.1%}",
        )

    rows = []
    for hop in compared["hops"]:
        if "from" in hop:
            rows.append(row(f"{hop['from']} → {hop['to']}", "", hop))
        else:
            estimated = " (estimated)" if hop.get("estimated") else ""
            rows.append(row(hop["stage"] + estimated, " + ".join(hop.get("nodes", [])), hop))
    rows.append(row("latency (p50)", "", compared["latency_ms"]))
    rows.append(row("time for each answer", "", compared["bottleneck_ms"]))
    title = "predicted and measured" + (f" ({compared['basis']})" if compared["basis"] else "")
    return table(title, ("hop", "node", "predicted ms", "measured ms", "error"), rows)
