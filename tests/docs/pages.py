"""Commands on pages: which blocks have some, and what is shown of their output.  No I/O."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

PROGRAMS: Final = (
    ".ci/run", "apt-get", "cat", "coap-client", "collab", "curl", "docker", "export", "install",
    "journalctl", "kill", "kubectl", "make", "mkdir", "openssl", "pip", "pipx", "pkcs11-tool", "python",
    "scripts/", "softhsm2-util",
    "sudo", "sudoedit", "systemctl", "ansible", "unshare",
)  # fmt: skip
"""What a line of a block without a language begins with if it is a command."""
SHELLS: Final = {"sh", "bash", "shell"}
"""Blocks of which every line is a command."""
SHOWN: Final = {"", "text"}
"""Blocks that show output, when they follow a block of commands."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)(?P=mark) *$", re.M | re.S
)
_START = re.compile(rf"^(?:\w+=\S* )*(?:(?:{'|'.join(re.escape(name) for name in PROGRAMS)})|\w+=\S)")
_REDIRECTED = re.compile(r"(?<=\s)\d?(?:>>?|<<?<?)(?:&\d|\s*\S+)")
_HERE = re.compile(r"<<-?'?(\w+)'?")


@dataclass(frozen=True)
class Command:
    """One command as a shell reads it: with what continues it, and with the text that it is given."""

    line: int
    """Of the page, from 1."""
    text: str

    @property
    def first(self) -> str:
        """Its first line, without a comment."""
        return self.text.splitlines()[0].partition(" #")[0].rstrip()


@dataclass(frozen=True)
class Block:
    """A block of commands, and the output that the page shows below it."""

    line: int
    commands: tuple[Command, ...]
    output: str = ""


def blocks(text: str) -> list[Block]:
    """The blocks of a page that have commands, in its order."""
    found: list[Block] = []
    last_end = -1
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 2
        indent = len(fence["indent"])
        lines = [row[indent:] for row in fence["body"].splitlines()]
        language = fence["info"].split(" ")[0].strip()
        commands, output = _read(language, lines, line)
        if commands:
            found.append(Block(line, tuple(commands), "\n".join(output)))
            last_end = len(found) - 1
        elif language in SHOWN and found and last_end == len(found) - 1 and not found[-1].output:
            found[-1] = Block(found[-1].line, found[-1].commands, "\n".join(lines))
    return found


def _read(language: str, lines: Sequence[str], line: int) -> tuple[list[Command], list[str]]:
    if language in SHELLS:
        return _commands(lines, line), []
    if language not in ("", "console"):
        return [], []
    prompted = [i for i, row in enumerate(lines) if row.startswith("$ ")]
    if prompted:
        given = [row[2:] if row.startswith("$ ") else "" for row in lines]
        shown = [row for row in lines if not row.startswith("$ ")]
        return _commands(given, line), shown
    if lines and _START.match(lines[0]):
        return _commands([row if _START.match(row) else "" for row in lines], line), []
    return [], []


def _commands(lines: Sequence[str], line: int) -> list[Command]:
    found: list[Command] = []
    i = 0
    while i < len(lines):
        start, row = i, lines[i]
        i += 1
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        taken = [row]
        while taken[-1].endswith("\\") and i < len(lines):
            taken.append(lines[i])
            i += 1
        here = _HERE.search(row)
        while here and i < len(lines) and taken[-1] != here[1]:
            taken.append(lines[i])
            i += 1
        found.append(Command(line + start, "\n".join(taken)))
    return found


def calls(command: Command) -> Iterator[list[str]]:
    """The words behind ``collab`` of every call of it in a command, as a shell splits them."""
    line = _REDIRECTED.sub("", command.text.replace("\\\n", " ").splitlines()[0])
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*_until_comment(lexer), ";"]:
        if word and set(word) <= set(";&|()"):
            call = _behind(words)
            if call is not None:
                yield call
            words = []
        else:
            words.append(word)


def _until_comment(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("#"):
            return
        yield word


def _behind(words: list[str]) -> list[str] | None:
    for i, word in enumerate(words):
        if word.rpartition("/")[2] == "collab" and not (i and words[i - 1] in ("-u", "--user")):
            return words[i + 1 :]
        if "=" not in word and word not in ("sudo", "-u", "collab", "collab-controller", "exec", "time"):
            return None
    return None


def agrees(shown: str, got: str) -> bool:
    """Whether output has the lines that a page shows, in their order; ``…`` stands for anything in one."""
    at = 0
    for row in shown.splitlines():
        parts = [r"\s+".join(map(re.escape, part.split())) for part in row.split("…")]
        found = re.compile(r"[^\n]*?".join(parts)).search(got, at)
        if found is None:
            return False
        at = found.end()
    return True
