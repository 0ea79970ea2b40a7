"""A call of ``collab`` parsed by the real command line, and not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.site.commands import application

_OF_ALL = ("--identity",)
"""Options before the command that take a value."""


def mistake(words: Sequence[str]) -> str:
    """What the command line says is wrong with the words behind ``collab``; nothing if they parse."""
    command: Any = application()
    name, rest = "collab", list(words)
    while rest and rest[0] in _OF_ALL:
        rest = rest[2:]
    while getattr(command, "commands", None):
        if not rest or rest[0].startswith("-"):
            return "" if rest and rest[0] in ("--help", "-h", "--version") else f"{name}: no command"
        if rest[0] not in command.commands:
            return f"{name} {rest[0]}: no such command"
        name, command, rest = f"{name} {rest[0]}", command.commands[rest[0]], rest[1:]
    if {"--help", "-h"} & set(rest):
        return ""
    try:
        command.make_context(name, rest)
    except Exception as error:  # whatever the parser of this version of Typer raises
        said = error.format_message() if hasattr(error, "format_message") else error
        return f"{name}: {said}"
    return ""
