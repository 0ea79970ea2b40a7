"""``collab ensemble`` and ``collab cascade``: plans in which several models answer together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import (
    AsJson,
    Insecure,
    InsecureNetwork,
    Peers,
    Trust,
    confirmed,
    reach,
    with_cluster,
)
from collab.cli.files import read_npz, write_plan
from collab.cli.output import emit, progress, say, show, table
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.codec.tensors import Array
    from collab.coordinator.cluster import Cluster, NodeView
    from collab.coordinator.ensembles import Calibration, Examples, Standing
    from collab.coordinator.quarantine import Agreement
    from collab.core.ids import NodeName, PlanName
    from collab.core.plan import Plan
    from collab.graph import Graph
    from collab.planner.ensemble import Member, Traffic

ENSEMBLE_EXAMPLE = """
Example:

    collab ensemble --member m1.tflite@a --member m2.tflite@b,c:12 --combine weighted --weights val.npz
    --quorum 2 --wait-ms 20 --at-node c --peers 10.0.0.7:7070,10.0.0.8:7070 --out plan.yaml
"""
CASCADE_EXAMPLE = """
Example:

    collab cascade small.tflite@a large.tflite@b --measure max --validation val.npz --accuracy-drop 0.005
    --peers 10.0.0.7:7070,10.0.0.8:7070 --out plan.yaml
"""

UNWEIGHED = ("first", "mean", "max", "median")
"""Combiners to which weights are nothing."""

Out = Annotated[Path, typer.Option(help="Where to write the plan.")]
AtNode = Annotated[
    str | None, typer.Option("--at-node", help="Node of the combiner; that of the first member otherwise.")
]
Name = Annotated[str | None, typer.Option(help="The plan's name; the file's name otherwise.")]
Transport = Annotated[str, typer.Option(help="How tensors travel, on all links.")]
Threads = Annotated[int, typer.Option(help="Threads of each stage.")]
Credits = Annotated[int, typer.Option("--credits", help="Requests admitted at a time.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ensemble", epilog=ENSEMBLE_EXAMPLE)(ensemble)
    app.command("cascade", epilog=CASCADE_EXAMPLE)(cascade)


@dataclass(frozen=True)
class Placed:
    """A model and its nodes as they were given: ``MODEL@NODE[+REPLICA][,NODE…][:CUT,…]``."""

    text: str
    model: Path
    places: str
    cuts: tuple[int, ...] | None

    @classmethod
    def parse(cls, text: str, option: str) -> Placed:
        """Read one; raises `UsageError`."""
        from collab.coordinator.planning import parse_cuts

        path, at, rest = text.rpartition("@")
        places, colon, cuts = rest.partition(":")
        if not at or not path or not places:
            raise UsageError(f"{option} {text!r}: give MODEL@NODE, such as m.tflite@a or m.tflite@a,b:12")
        found = cls(text, Path(path), places, parse_cuts(cuts) if colon else None)
        count = places.count(",") + 1
        if found.cuts is not None and len(found.cuts) != count - 1:
            raise UsageError(
                f"{option} {text!r}: {len(found.cuts)} cuts make {len(found.cuts) + 1} stages, and "
                f"{count} are placed; give one node for each"
            )
        return found

    def member(self, graph: Graph, known: Sequence[NodeName], threads: int) -> Member:
        """The model on its nodes; without cuts its stages take times as even as can be."""
        from collab.coordinator.ensembles import member
        from collab.coordinator.planning import choose_cuts, time_operators
        from collab.planner.chain import Assignment
        from collab.runtime.litert import LiteRT

        entries = self.places.split(",")
        count, places = len(entries), Assignment(tuple(_nodes(e, self.text, known) for e in entries))
        cuts = self.cuts or ()
        if self.cuts is None and count > 1:
            with progress("timing operators") as advance:
                cuts = choose_cuts(graph, time_operators(graph, LiteRT(), progress=advance), count)
        return member(self.model.resolve(), graph, cuts, places, threads)


def _nodes(entry: str, where: str, known: Sequence[NodeName]) -> tuple[NodeName, ...]:
    """Read ``a`` or ``a+b``; raises `UsageError`."""
    names = [name.strip() for name in entry.split("+")]
    for name in names:
        if name not in known:
            raise UsageError(f"{where}: no node {name!r} among the peers; there are {', '.join(known)}")
    if len(set(names)) != len(names):
        raise UsageError(f"{where}: {entry!r} names a node twice; replicas must differ")
    return tuple(node for name in names for node in known if node == name)


@dataclass(frozen=True)
class Settings:
    """What both commands share."""

    out: Path
    name: str | None
    at_node: str | None
    transport: str
    threads: int
    credits: int
    peers: str | None
    trust: Trust

    def plan_name(self) -> PlanName:
        """The plan's name."""
        from collab.coordinator.planning import plan_name
        from collab.core.ids import PlanName, check_name

        return PlanName(check_name(self.name or plan_name(self.out), "--name"))

    def check(self) -> None:
        """Refuse what cannot be before models are opened and nodes dialled."""
        from collab.cli.settings import peers as read_peers
        from collab.core.validate import MAX_CREDITS

        if not read_peers(self.peers):
            raise UsageError("no peers: give --peers HOST:PORT,… or set COLLAB_PEERS")

        for option, value, most in (
            ("--credits", self.credits, MAX_CREDITS),
            ("--threads", self.threads, 256),
        ):
            if not 1 <= value <= most:
                raise UsageError(f"{option} {value}: give 1 to {most}")

    def look(self) -> tuple[Sequence[NodeView], Sequence[str]]:
        """The peers, and the schemes that links have here."""
        from collab.cli.settings import peers as read_peers

        addresses = read_peers(self.peers)

        async def ask(cluster: Cluster) -> tuple[Sequence[NodeView], Sequence[str]]:
            return await reach(cluster, addresses), cluster.links.schemes

        return with_cluster(ask, trust=self.trust)

    def combiner_nodes(self, known: Sequence[NodeName], otherwise: NodeName) -> tuple[NodeName, ...]:
        """Where the combiner runs."""
        if self.at_node is None:
            return (otherwise,)
        return _nodes(self.at_node, f"--at-node {self.at_node}", known)

    def keep(self, plan: Plan, schemes: Sequence[str]) -> None:
        """Check the plan against what its nodes listen by, and write it."""
        from collab.coordinator.planning import check_transports

        check_transports(plan, schemes)
        write_plan(self.out, plan)
        say(f"wrote {self.out}")


def ensemble(
    member: Annotated[
        list[str],
        typer.Option(help="MODEL@NODE, or MODEL@a,b:12 for a chain, + for replicas; once for each member."),
    ],
    out: Out,
    combine: Annotated[
        str, typer.Option(help="mean, weighted, vote, max, median, or one that is installed.")
    ] = "mean",
    weights: Annotated[
        Path | None,
        typer.Option(help="Weigh and watch members by this validation .npz: inputs by name, and labels."),
    ] = None,
    weighting: Annotated[str, typer.Option(help="How: log-odds or stacked.")] = "log-odds",
    quorum: Annotated[int | None, typer.Option(help="Members that are enough; all otherwise.")] = None,
    wait_ms: Annotated[
        float, typer.Option(help="How long to wait for more than the quorum, from the first answer.")
    ] = 0.0,
    quarantine: Annotated[
        bool | None,
        typer.Option(
            "--quarantine/--no-quarantine",
            help="Leave a member out while it agrees less than on --weights; done where three or more can.",
        ),
    ] = None,
    at_node: AtNode = None,
    name: Name = None,
    transport: Transport = "grpc",
    threads: Threads = 1,
    credits_: Credits = 64,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Plan an ensemble: several models answer the same request, a combiner merges."""
    from collab.coordinator.quarantine import rule_of
    from collab.planner.ensemble import Merging
    from collab.planner.ensemble import ensemble as plan_ensemble

    settings = Settings(
        out, name, at_node, transport, threads, credits_, peers, confirmed(insecure, insecure_network)
    )
    settings.check()
    placed = [Placed.parse(text, "--member") for text in member]
    watched = _watched(len(placed), combine, weights, quorum, quarantine)
    _check_ensemble(placed, combine, weights, weighting, quorum, wait_ms, watched)
    graphs = _open(placed)
    judged = None if weights is None else _judge(placed, graphs, weights, combine, weighting, watched)
    views, schemes = settings.look()
    known = [view.name for view in views]
    members = [entry.member(graph, known, threads) for entry, graph in zip(placed, graphs, strict=True)]
    merging = Merging(
        combine,
        settings.combiner_nodes(known, members[0].stages[0].nodes[0]),
        judged.weights if judged else (),
        quorum,
        wait_ms,
        rule_of(judged.agreement) if judged and watched else None,
    )
    refs = [view.ref for view in views]
    plan = plan_ensemble(settings.plan_name(), members, merging, refs, transport=transport, credits=credits_)
    settings.keep(plan, schemes)
    _tell_ensemble(plan, placed, judged, json_)


def _watched(
    members: int, combine: str, weights: Path | None, quorum: int | None, asked: bool | None
) -> bool:
    """Whether members can be put into quarantine: as asked, else where a validation file lets them be."""
    from collab.core.plan import MIN_JUDGED, most_out

    enough = members if quorum is None else quorum
    reason = ""
    if members < MIN_JUDGED:
        reason = f"{members} members; agreement tells who is wrong among {MIN_JUDGED} at least"
    elif enough <= most_out(members):
        reason = (
            f"--quorum {enough} may be of members in quarantine alone; give {most_out(members) + 1} or more"
        )
    elif combine == "first":
        reason = "--combine first merges nothing; use another"
    if asked and reason:
        raise UsageError(f"--quarantine: {reason}")
    return asked if asked is not None else weights is not None and not reason


def _check_ensemble(
    placed: Sequence[Placed],
    combine: str,
    weights: Path | None,
    weighting: str,
    quorum: int | None,
    wait_ms: float,
    watched: bool,
) -> None:
    from collab.coordinator.ensembles import WEIGHTINGS
    from collab.errors import PlanError
    from collab.runtime.combiners import combiner

    if len(placed) < 2:
        raise UsageError(f"--member: {len(placed)}; an ensemble has 2 at least")
    try:
        combiner(combine)
    except PlanError as error:
        raise UsageError(f"--{error}") from error
    if combine in UNWEIGHED and weights is not None and not watched:
        raise UsageError(f"--weights: {combine!r} weighs nothing; use --combine weighted or vote")
    if watched and weights is None:
        raise UsageError("--quarantine: give --weights VAL.npz to say how often honest members agree")
    if combine == "weighted" and weights is None:
        raise UsageError("--combine weighted: give --weights VAL.npz to weigh by, or use mean")
    if weighting not in WEIGHTINGS:
        raise UsageError(f"--weighting {weighting!r}: use one of {', '.join(WEIGHTINGS)}")
    if quorum is not None and not 1 <= quorum <= len(placed):
        raise UsageError(f"--quorum {quorum}: give 1 to {len(placed)}, the number of members")
    if not 0 <= wait_ms < float("inf"):
        raise UsageError(f"--wait-ms {wait_ms:g}: give a time of at least 0")
    if wait_ms and quorum is None:
        raise UsageError("--wait-ms: says how long to wait for more than a quorum; give --quorum as well")


@dataclass(frozen=True)
class _Judged:
    """What the validation file says of an ensemble."""

    weights: tuple[float, ...]
    """Empty where the combiner has no use for them."""
    members: tuple[Standing, ...]
    ensemble: Standing
    agreement: tuple[Agreement, ...]
    """Empty where nobody is watched."""


def _open(placed: Sequence[Placed]) -> list[Graph]:
    from collab.coordinator.planning import open_model

    return [open_model(entry.model) for entry in placed]


def _scores(
    placed: Sequence[Placed], graphs: Sequence[Graph], path: Path, option: str
) -> tuple[Examples, list[Array]]:
    """The examples of a file, and every model's answers to them; models that are the same answer once."""
    from collab.coordinator.ensembles import examples, scores_of

    given = examples(graphs[0].inputs, read_npz(path, option), option)
    made: dict[str, Array] = {}
    for entry, graph in zip(placed, graphs, strict=True):
        if graph.sha256 not in made:
            with progress("validating", "examples") as advance:
                made[graph.sha256] = scores_of(str(entry.model), graph, graphs[0], given, advance)
    return given, [made[graph.sha256] for graph in graphs]


def _judge(
    placed: Sequence[Placed], graphs: Sequence[Graph], path: Path, combine: str, weighting: Any, watched: bool
) -> _Judged:
    from collab.coordinator.ensembles import combined, standing, weigh
    from collab.coordinator.quarantine import agreements

    given, scores = _scores(placed, graphs, path, "--weights")
    weights = () if combine in UNWEIGHED else weigh(scores, given.labels, weighting)
    return _Judged(
        weights,
        tuple(standing(one, given.labels) for one in scores),
        standing(combined(scores, combine, weights), given.labels),
        agreements(scores) if watched else (),
    )


def _tell_ensemble(plan: Plan, placed: Sequence[Placed], judged: _Judged | None, as_json: bool) -> None:
    from collab.coordinator.quarantine import CHANCE

    _warn_of_blind(judged)
    answer = plan.stage(plan.edges[-1].source)
    watch = answer.quarantine
    rows: list[dict[str, Any]] = []
    for i, entry in enumerate(placed):
        stages = [stage for stage in plan.stages if stage.model == f"member-{i}" and stage.combine is None]
        row: dict[str, Any] = {"member": f"member-{i}", "model": str(entry.model)}
        row["stages"] = [{"ops": list(s.ops or ()), "nodes": list(s.nodes)} for s in stages]
        if judged is not None:
            row |= {"weight": judged.weights[i]} if judged.weights else {}
            row |= judged.members[i].to_json()
            row |= judged.agreement[i].to_json() if judged.agreement else {}
        rows.append(row)
    if as_json:
        described: dict[str, Any] = {
            "plan": plan.name,
            "combine": answer.combine,
            "nodes": list(answer.nodes),
        }
        described |= {"quorum": getattr(answer.fires, "k", None), "members": rows}
        described["validation"] = judged.ensemble.to_json() if judged else None
        described["quarantine"] = {"window": watch.window, "chance": CHANCE} if watch else None
        emit(described)
        return
    columns = ["member", "model", "nodes"]
    measured = ["weight", "accuracy", "agreement", "least"]
    columns += [name for name in measured if any(name in row for row in rows)]
    places = [" → ".join("+".join(s["nodes"]) for s in row["stages"]) for row in rows]
    cells = [
        [row["member"], row["model"], place, *(row[name] for name in columns[3:])]
        for row, place in zip(rows, places, strict=True)
    ]
    show(table(f"{answer.combine} on {'+'.join(answer.nodes)}", columns, cells))
    if judged is not None:
        less = "; the weights were chosen on it, so expect a little less" if judged.weights else ""
        show(f"on the validation file the ensemble is right in {judged.ensemble.accuracy:.2%}{less}")
    if watch is not None:
        show(
            f"a member that agrees with the majority in fewer than its least of {watch.window} requests is "
            f"left out until it agrees again; an honest one falls below with a chance of {CHANCE:g} at most"
        )


def _warn_of_blind(judged: _Judged | None) -> None:
    for i, one in enumerate(judged.agreement if judged else ()):
        if one.blind:
            say(
                f"warning: member-{i} agrees in {one.agreed} of {one.judged} examples; one that guesses "
                "cannot be told from it, so it is never put into quarantine: leave it out, or give more "
                "examples"
            )


def cascade(
    small: Annotated[str, typer.Argument(help="MODEL@NODE that answers first.", show_default=False)],
    large: Annotated[str, typer.Argument(help="MODEL@NODE that is asked when unsure.", show_default=False)],
    validation: Annotated[Path, typer.Option(help="A validation .npz: inputs by name, and labels.")],
    out: Out,
    measure: Annotated[str, typer.Option(help="What tells how sure it is: max, entropy or margin.")] = "max",
    accuracy_drop: Annotated[
        float, typer.Option(help="Most that may be lost of the large model's accuracy.")
    ] = 0.005,
    confidence: Annotated[float, typer.Option(help="With which the drop must be kept.")] = 0.9,
    at_node: AtNode = None,
    name: Name = None,
    transport: Transport = "grpc",
    threads: Threads = 1,
    credits_: Credits = 64,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Plan a cascade: a small model answers, and a large one where the small one is unsure."""
    from collab.coordinator.ensembles import calibrate
    from collab.planner.ensemble import MEASURES, traffic
    from collab.planner.ensemble import cascade as plan_cascade

    settings = Settings(
        out, name, at_node, transport, threads, credits_, peers, confirmed(insecure, insecure_network)
    )
    settings.check()
    kind = next((known for known in MEASURES if known == measure), None)
    if kind is None:
        raise UsageError(f"--measure {measure!r}: use one of {', '.join(MEASURES)}")
    for option, value in (("--accuracy-drop", accuracy_drop), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise UsageError(f"{option} {value:g}: give a share above 0 and below 1")
    placed = [Placed.parse(text, what) for text, what in ((small, "SMALL"), (large, "LARGE"))]
    graphs = _open(placed)
    given, (small_scores, large_scores) = _scores(placed, graphs, validation, "--validation")
    found = calibrate(small_scores, large_scores, given.labels, kind, accuracy_drop, confidence)
    views, schemes = settings.look()
    known = [view.name for view in views]
    first, second = (entry.member(g, known, threads) for entry, g in zip(placed, graphs, strict=True))
    plan = plan_cascade(
        settings.plan_name(),
        first,
        second,
        found.doubt,
        settings.combiner_nodes(known, first.stages[-1].nodes[0]),
        [view.ref for view in views],
        transport=transport,
        credits=credits_,
    )
    settings.keep(plan, schemes)
    _tell_cascade(plan, found, traffic(plan), json_)


def _tell_cascade(plan: Plan, found: Calibration, moved: Traffic, as_json: bool) -> None:
    expected = moved.expected(found.escalation_share)
    if as_json:
        bytes_ = {"sure": moved.sure, "unsure": moved.unsure, "expected": round(expected, 1)}
        emit({"plan": plan.name} | found.to_json() | {"bytes": bytes_})
        return
    rows = [
        (what, standing.accuracy, "–".join(f"{end:.2%}" for end in standing.to_json()["interval"]))
        for what, standing in (("small", found.small), ("large", found.large), ("cascade", found.cascade))
    ]
    show(
        table(f"on {found.small.count} examples", ("", "accuracy", "95 % interval"), rows),
        f"{found.doubt.measure} {found.doubt.threshold:.6g}: {found.escalation_share:.1%} of the requests "
        f"go on to the large model; the cascade loses at most {found.drop_bound:.2%} of accuracy, "
        f"with {found.confidence:.0%} confidence",
        f"bytes of a request: {moved.sure} where the small model answers, {moved.unsure} where it does not, "
        f"{expected:.0f} in the mean",
    )
