"""``collab plan``: cut a model and place its stages as is best, or as told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed
from collab.cli.output import say
from collab.cli.plan_sources import Found, Source
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.core.ids import NodeName
    from collab.planner.chains import Objective, Wants

EXAMPLE = """
Examples:

    collab plan m.tflite --peers 127.0.0.1:7070,127.0.0.1:7071 --out plan.yaml

    collab plan m.tflite --peers … --profile profile.json --objective throughput --preview --out plan.yaml

    collab plan m.tflite --peers … --at 12,40 --assign a,b+d,c --out plan.yaml

    collab plan m.tflite --peers … --codecs auto --codec-error 0.01 --transport auto --out plan.yaml

    collab plan m.tflite --peers … --offline a --out plan.yaml

    collab plan --profile profile.json --objective energy --deadline-ms 50 --json

    collab plan --profile profile.json --frontier latency,throughput --svg frontier.svg
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog=EXAMPLE)(plan)


def plan(
    model: Annotated[
        Path | None, typer.Argument(help="A .tflite file; not needed to plan from a profile without --out.")
    ] = None,
    peers: Peers = None,
    profile: Annotated[
        Path | None, typer.Option(help="What 'collab profile' measured; a quick look at the peers otherwise.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What to be best at: latency, throughput, memory, energy or bytes.")
    ] = "latency",
    at: Annotated[str | None, typer.Option(help="Exactly these cuts, such as 12,40.")] = None,
    assign: Annotated[
        str | None, typer.Option(help="Exactly these nodes, such as a,b+d,c (+ joins replicas).")
    ] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="Largest latency that is allowed.")] = None,
    first_on: Annotated[
        str | None, typer.Option(help="Node of the first stage, as where raw input must not leave it.")
    ] = None,
    first_ops: Annotated[int, typer.Option(help="Fewest operators of the first stage.")] = 0,
    forbid: Annotated[str | None, typer.Option(help="Nodes that run nothing, such as a,b.")] = None,
    max_stages: Annotated[int | None, typer.Option(help="Most stages.")] = None,
    max_replicas: Annotated[int, typer.Option(help="Most nodes that share a stage.")] = 1,
    revisit: Annotated[bool, typer.Option("--revisit", help="A node may hold several stages.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write the plan.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the plan; the model's file name otherwise.")
    ] = None,
    threads: Annotated[
        str, typer.Option(help="Threads of each stage; auto chooses from what the profile has.")
    ] = "1",
    credits_: Annotated[int, typer.Option("--credits", help="Requests admitted at a time.")] = 64,
    codecs: Annotated[
        str,
        typer.Option(
            help="Codec of each link from the requester back to it, or one for all: raw, fp16, int8 or "
            "int8c, with +lz4 or +zstd behind it; auto chooses by link."
        ),
    ] = "raw",
    codec_error: Annotated[
        float | None,
        typer.Option(help="Largest error of lossy codecs, as a share of a tensor's range; they need it."),
    ] = None,
    transport: Annotated[
        str,
        typer.Option(
            help="Transport of each link, or one for all: grpc, mqtt, coap+tcp, coap+udp; auto chooses."
        ),
    ] = "auto",
    answer_by_chain: Annotated[
        bool, typer.Option("--answer-by-chain", help="The answer goes back through the chain's nodes.")
    ] = False,
    signature: Annotated[str | None, typer.Option(help="Which signature, where a model has several.")] = None,
    max_age_days: Annotated[float, typer.Option(help="Oldest measurement that a profile may have.")] = 30,
    alternatives: Annotated[
        bool,
        typer.Option(
            "--alternatives/--no-alternatives",
            help="Plan for the loss of each node too, and deploy that beside.",
        ),
    ] = True,
    offline: Annotated[
        str | None,
        typer.Option(help="Nodes that shall answer alone when they have lost all others, such as a,b."),
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Draw the plan, and say why.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Where to draw the plan, or the frontier.")] = None,
    frontier: Annotated[
        str | None, typer.Option(help="Best compromises of two objectives, such as latency,throughput.")
    ] = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Cut a model, place its stages where they are best, and say what that should cost."""
    from collab.cli.plan_results import Output, finish, show_frontier
    from collab.coordinator.choosing import MoveOptions
    from collab.coordinator.planning import parse_cuts
    from collab.core.ids import check_name

    if out is None and not (preview or json_ or svg or frontier):
        raise UsageError("give --out FILE to keep the plan, --preview to see it, or --json")
    if model is None and (out is not None or profile is None):
        raise UsageError(
            "MODEL: give the .tflite file; only plans from a --profile that are not kept need none"
        )
    _check_numbers(credits_, max_replicas, codec_error)
    if name is not None:
        check_name(name, "--name")
    cuts = None if at is None else parse_cuts(at)
    entries = None if assign is None else assign.split(",")
    _check_links(cuts, entries, {"--codecs": codecs, "--transport": transport})
    source = Source(
        model, profile, signature, threads, max_age_days, MoveOptions(codecs, transport, codec_error)
    )
    # Codecs that cannot be meant are refused before anything is measured.
    wanted = source.moves.wanted_codecs
    rules = {
        "objective": _objective(objective, "--objective"),
        "deadline_ms": deadline_ms,
        "codecs": wanted,
        "codec_error": codec_error,
        "transports": source.moves.wanted_transports,
        "first_on": first_on,
        "first_ops": first_ops,
        "max_replicas": max_replicas,
        "max_stages": max_stages,
        "revisit": revisit,
        "choose_threads": threads == "auto",
    }
    axes = _axes(frontier)
    found = source.look(peers, confirmed(insecure, insecure_network), cuts)
    wants = _wants(found, rules, cuts, assign, forbid)
    if axes:
        show_frontier(found.profile, wants, axes, svg, json_)
        return
    alone = _alone(offline, alternatives, found)
    finish(
        *(source, found, wants),
        Output(out, name, credits_, answer_by_chain, preview, svg, json_, alternatives, alone),
    )


def _alone(offline: str | None, alternatives: bool, found: Found) -> tuple[NodeName, ...]:
    """The nodes of --offline; raises `UsageError` for one that is not known."""
    from collab.core.ids import NodeName

    if offline is None:
        return ()
    if not alternatives:
        raise UsageError("--offline: is an alternative; leave out --no-alternatives")
    names = tuple(dict.fromkeys(NodeName(entry.strip()) for entry in offline.split(",")))
    known = [device.name for device in found.profile.devices]
    for name in names:
        if name not in known:
            raise UsageError(f"--offline: no node {name!r} among the devices; there are {', '.join(known)}")
    return names


def _check_numbers(credits_: int, max_replicas: int, codec_error: float | None) -> None:
    from collab.core.validate import MAX_CREDITS

    if not 1 <= credits_ <= MAX_CREDITS:
        raise UsageError(f"--credits {credits_}: give 1 to {MAX_CREDITS}")
    if max_replicas < 1:
        raise UsageError(f"--max-replicas {max_replicas}: give 1 or more")
    if codec_error is not None and not 0 < codec_error <= 1:
        raise UsageError(f"--codec-error {codec_error:g}: give a share above 0 and at most 1, such as 0.01")


def _check_links(
    cuts: Sequence[int] | None, assigned: Sequence[str] | None, options: Mapping[str, str]
) -> None:
    """Lists of one entry for each link need a known number of links."""
    links = len(assigned) + 1 if assigned is not None else len(cuts) + 2 if cuts is not None else None
    for option, text in options.items():
        count = text.count(",") + 1
        if count > 1 and links is None:
            raise UsageError(
                f"{option} {text!r}: {count} entries; give --at or --assign as well, so that there is "
                "one for each link, or one for all"
            )
        if count > 1 and count != links:
            raise UsageError(
                f"{option} {text!r}: {count} entries for {links} links; give one for each, or one for all"
            )


def _objective(text: str, option: str) -> Objective:
    from collab.planner.chains import OBJECTIVES

    for known in OBJECTIVES:
        if known == text:
            return known
    raise UsageError(f"{option} {text!r}: use one of {', '.join(OBJECTIVES)}")


def _axes(text: str | None) -> tuple[Objective, ...]:
    if text is None:
        return ()
    entries = tuple(_objective(entry.strip(), "--frontier") for entry in text.split(","))
    if len(set(entries)) != 2:
        raise UsageError(f"--frontier {text!r}: give two objectives, such as latency,throughput")
    return entries


def _wants(
    found: Found, rules: dict[str, Any], cuts: tuple[int, ...] | None, assign: str | None, forbid: str | None
) -> Wants:
    """The rules that the plan has to keep; raises `UsageError` for nodes that are not there."""
    from collab.coordinator.choosing import among
    from collab.core.ids import NodeName
    from collab.planner.chain import parse_assignment
    from collab.planner.chains import Wants

    absent: frozenset[NodeName] = frozenset()
    if found.views:
        absent, unknown = among(found.profile, [view.name for view in found.views])
        if unknown:
            say(f"warning: the profile does not know {', '.join(unknown)}; measure with: collab profile")
    known = [device.name for device in found.profile.devices if device.name not in absent]
    placed = None
    if assign is not None:
        stages = len(assign.split(",")) if cuts is None else len(cuts) + 1
        placed = parse_assignment(assign, stages, known).stages
    forbidden = frozenset(NodeName(entry.strip()) for entry in forbid.split(",")) if forbid else frozenset()
    wants = Wants(**rules, at=cuts, forbidden=forbidden | absent)
    return wants if placed is None else wants.assigned(placed)
