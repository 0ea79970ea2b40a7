"""``collab release policy explain``: what an update policy does in a state, and each clause of it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.data import AsJson
from collab.cli.output import emit, say, show, table
from collab.errors import InputError

if TYPE_CHECKING:
    from collab.updates.policies.clauses import Policy
    from collab.updates.policies.decide import Decision

app = typer.Typer(help="When devices take releases.", no_args_is_help=True)

EXAMPLE: Final = """
Examples:

    collab release policy explain policy.yaml --state state.json

    collab release policy explain policy.toml --state state.json --memory memory.json --json
"""


@app.callback()
def _group() -> None:
    """Keeps a single command a group."""


@app.command(epilog=EXAMPLE)
def explain(
    policy: Annotated[Path, typer.Argument(help="A policy as YAML or TOML.", show_default=False)],
    state: Annotated[Path, typer.Option(help="What a device reports, as JSON.")],
    memory: Annotated[
        Path | None, typer.Option(help="What the policy remembers: the memory of --json before.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Say what a policy would do in a state, and why; nothing is done."""
    from collab.updates.policies.decide import decide
    from collab.updates.policies.memory import MAX_MEMORY_BYTES, Memory, memory_of
    from collab.updates.policies.state import MAX_STATE_BYTES, state_of
    from collab.updates.policy_file import read_policy

    rules = read_policy(policy)
    try:
        now = state_of(_json(state, MAX_STATE_BYTES))
        before = Memory() if memory is None else memory_of(_json(memory, MAX_MEMORY_BYTES))
    except InputError as error:
        raise InputError(f"{state if memory is None else f'{state}, {memory}'}: {error}") from error
    decision = decide(rules, now, before)
    if json_:
        emit(_document(rules, decision))
    else:
        _print(rules, decision)


def _json(path: Path, most: int) -> Any:
    from collab.updates.policy_file import read_text

    try:
        return json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON: {error}") from error


def _document(policy: Policy, decision: Decision) -> dict[str, Any]:
    import msgspec

    return {
        "policy": policy.name,
        "action": decision.action,
        "rule": decision.rule,
        "why": decision.why,
        "pace": decision.pace,
        "again_s": decision.again_s,
        "clauses": [line._asdict() for line in decision.lines],
        "memory": msgspec.to_builtins(decision.memory),
    }


def _print(policy: Policy, decision: Decision) -> None:
    rows = []
    for line in decision.lines:
        rule = int(line.path.split(".")[1])
        # A path is rules.N.when, with .of and a place for each level below it.
        depth = line.path.count(".of")
        then = policy.rules[rule].then if not depth else ""
        rows.append((then, "  " * depth + line.kind, line.verdict, line.why))
    show(table(f"policy {policy.name}", ("then", "clause", "verdict", "why"), rows))
    by = "no rule" if decision.rule is None else f"rule {decision.rule}"
    say(f"{decision.action} ({by}): {decision.why}")
    if decision.pace != 1:
        say(f"intervals are {decision.pace:g} times shorter")
    if decision.again_s is not None:
        try:
            when = datetime.fromtimestamp(decision.again_s, timezone.utc).isoformat(timespec="minutes")
        except (OverflowError, ValueError):
            return
        say(f"time alone may change this at {when}")
