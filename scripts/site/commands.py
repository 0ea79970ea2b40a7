"""The page of commands, from the Typer app itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import typer.main

from collab.cli import main
from scripts.site.markdown import fence, prose, table


@functools.cache
def application() -> Any:
    """The whole command with all its groups."""
    main._register()
    return typer.main.get_command(main.app)


def commands(group: Any, words: tuple[str, ...] = ("collab",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that runs something, by the words that call it."""
    inner = getattr(group, "commands", {})
    if not inner:
        yield words, group
    for name in inner:
        yield from commands(inner[name], (*words, name))


def records(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Arguments and options as ``--help`` says them: how it is written, and what it means."""
    context = command.make_context(" ".join(words), [], resilient_parsing=True)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            yield record


def examples(command: Any) -> list[str]:
    """The commands of the epilog, each a paragraph of indented lines."""
    found = re.findall(r"(?:^ {4}\S.*\n?)+", command.epilog or "", re.MULTILINE)
    return [" ".join(paragraph.split()) for paragraph in found]


def command_section(words: tuple[str, ...], command: Any) -> str:
    """One command: what it does, its options, examples."""
    rows = [(f"`{name}`", prose(said)) for name, said in records(command, words)]
    parts = [f"### {' '.join(words)}", prose(command.help or "")]
    if rows:
        parts.append(table(("option", "what it does"), rows))
    if examples(command):
        parts.append(fence("\n".join(examples(command))))
    return "\n\n".join(parts)


def page() -> str:
    """All commands, group by group."""
    app = application()
    parts = [
        "# Commands",
        "What `--help` says, for every command. All take `--json`; "
        "[README](../../README.md#what-scripts-read) says what that prints.",
        "## collab",
        prose(app.help or ""),
        table(
            ("option", "what it does"),
            [(f"`{name}`", prose(said)) for name, said in records(app, ("collab",))],
        ),
    ]
    group: tuple[str, ...] = ("collab",)
    for words, command in commands(app):
        if words[:-1] != group:
            group = words[:-1]
            parts.append(f"## {' '.join(group)}{'' if len(group) > 1 else ', without a group'}")
        parts.append(command_section(words, command))
    return "\n\n".join(parts) + "\n"
