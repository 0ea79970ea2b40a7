"""The page of the wire contract, from the comments in ``protos/``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from scripts.site.markdown import code, prose, table

_OPEN = re.compile(r"^(message|enum|service|oneof) (\w+) \{(\})?$")
_FIELD = re.compile(r"^((?:repeated |optional )?[\w.]+(?:<[\w., ]+>)?) (\w+) = (\d+);(?:\s*//\s*(.*))?$")
_VALUE = re.compile(r"^(\w+) = (\d+);(?:\s*//\s*(.*))?$")
_CALL = re.compile(r"^rpc (\w+)\((.*)\) returns \((.*)\)(?:;| \{\})$")


@dataclass
class Definition:
    """One message, enumeration or service."""

    kind: str
    name: str
    said: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    """Number or nothing, how it is declared, what is said of it."""


def definitions(text: str) -> list[Definition]:
    """Those of one file in its order, inner ones with the names of those around them."""
    found: list[Definition] = []
    comment: list[str] = []
    stack: list[Definition] = []
    for line in map(str.strip, text.splitlines()):
        opened = _OPEN.match(line)
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        said = " ".join(comment)
        if opened and opened[1] == "oneof":
            stack.append(stack[-1])
        elif opened:
            name = f"{stack[-1].name}.{opened[2]}" if stack else opened[2]
            made = Definition(opened[1], name, said)
            found.append(made)
            if not opened[3]:
                stack.append(made)
        elif line == "}":
            stack.pop()
        elif stack:
            _member(stack[-1], line, said)
        if line or not stack:
            comment = []
    return found


def _member(owner: Definition, line: str, said: str) -> None:
    if call := _CALL.match(line):
        owner.rows.append(("", f"{call[1]}({call[2]}) → {call[3]}", said))
    elif found := _FIELD.match(line):
        owner.rows.append((found[3], f"{found[2]}: {found[1]}", " ".join(filter(None, (said, found[4])))))
    elif value := _VALUE.match(line):
        owner.rows.append((value[2], value[1], " ".join(filter(None, (said, value[3])))))


def page(files: Sequence[tuple[str, str]]) -> str:
    """All files, given by name and text."""
    parts = [
        "# Protos",
        "The messages between nodes, from the comments in `protos/`. [The protocol](../protocol.md) says how "
        "they are used. Receivers ignore fields that they do not know.",
    ]
    for name, text in files:
        parts.append(f"## {name}")
        for made in definitions(text):
            parts += [f"### {made.kind} {made.name}", prose(made.said)]
            head = {"message": "field", "enum": "value", "service": "call"}[made.kind]
            if made.rows:
                rows = [(number, code(what), prose(said)) for number, what, said in made.rows]
                parts.append(table(("number", head, ""), rows))
    return "\n\n".join(part for part in parts if part) + "\n"
