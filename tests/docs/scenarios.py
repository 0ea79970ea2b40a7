"""Pages whose commands are run, from the top to the bottom, and what has to be there before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.docs.ledger import PARSED
from tests.docs.pages import Block, Command, blocks
from tests.docs.terminal import Terminal

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    str(page.relative_to(ROOT))
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("deployments/*/README.md")),
    )
)
READY: Final = {
    "collab node": "is ready at",
    "collab serve": "serving at",
    "collab dashboard": "the page is at",
    "collab controller": "",
    "collab cluster invite": "collab cluster join collab1-",
    "python -m http.server": "",
}
"""Commands that go on until they are stopped, and what they say when they can be used."""


@dataclass(frozen=True)
class Scenario:
    """What a page takes for granted."""

    prepare: str = ""
    """Lines that are typed first; nodes in it are waited for."""
    replace: tuple[tuple[str, str], ...] = ()
    """Patterns in commands, and what stands there for what a reader has and a test has not."""
    compare: bool = False
    """Whether output is what the page shows below its commands."""
    leaves_nothing: bool = False
    """Whether the page itself ends all that it has started."""
    codes: tuple[tuple[str, int], ...] = ()
    """Patterns of commands that do not end with 0, and with what they end."""
    needs: tuple[str, ...] = ()
    """Programs without which it is skipped."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Environment variables."""


def text_of(page: str) -> str:
    """A page as it is in the repository."""
    return (ROOT / page).read_text("utf-8")


def only_parsed(page: str, command: Command) -> bool:
    """Whether the list says that the command is not run."""
    return any(entry.covers(page, command.first) for entry in PARSED)


def play(page: str, scenario: Scenario, folder: Path) -> None:
    """Type a whole page into a terminal; raises `AssertionError` at the first thing that is not as it says."""
    with Terminal(folder, scenario.extra) as terminal:
        for line in scenario.prepare.strip().splitlines():
            _type(terminal, line.strip(), f"{page}, preparation")
        for block in blocks(text_of(page)):
            _play_block(terminal, page, scenario, block)
        if scenario.leaves_nothing:
            assert not terminal.running(), page


def _play_block(terminal: Terminal, page: str, scenario: Scenario, block: Block) -> None:
    since = len(terminal.screen)
    commands = [command for command in block.commands if not only_parsed(page, command)]
    for command in commands:
        text = command.text
        for pattern, instead in scenario.replace:
            text = re.sub(pattern, instead, text, flags=re.MULTILINE)
        code = next((code for pattern, code in scenario.codes if re.match(pattern, text)), 0)
        _type(terminal, text, f"{page}:{command.line}", code)
    if scenario.compare and commands and block.output:
        terminal.expect(block.output, since)


def _type(terminal: Terminal, text: str, where: str, right: int = 0) -> None:
    since = len(terminal.screen)
    program = re.sub(r"^\w+=\S+ ", "", text) + " "
    goes_on = next((said for name, said in READY.items() if program.startswith(f"{name} ")), None)
    if goes_on is not None and "&" not in text and "--help" not in text:
        text += " &"
    code = terminal.type(text)
    assert code == right, f"{where}: {text}\nexit code {code}\n{terminal.screen[since:]}"
    assert "Traceback" not in terminal.screen[since:], f"{where}: {text}\n{terminal.screen[since:]}"
    if goes_on:
        terminal.expect(goes_on, since)


def _nodes(*names: str) -> str:
    """Lines that start nodes on loopback, from port 7070 on, and name them to the commands."""
    ports = range(7070, 7070 + len(names))
    lines = [
        f"collab node --name {name} --listen 127.0.0.1:{port} --discovery none"
        for name, port in zip(names, ports, strict=True)
    ]
    return "\n".join([*lines, f"export COLLAB_PEERS={','.join(f'127.0.0.1:{port}' for port in ports)}"])


DEVICES: Final = (("10.0.0.7:7070", "127.0.0.1:7070"), ("10.0.0.8:7070", "127.0.0.1:7071"))
"""Addresses of two devices, and those of two nodes here."""
ENROLLED: Final = (
    (r"^collab cluster invite (\S+) (.*)$", r"collab cluster invite \1 \2 | tee invite &"),
    (r"^collab cluster join collab1-…", r"mkdir -p ~/device; HOME=~/device$((++n)) $(grep -o 'collab cluster join.*' invite)"),
    (r"^collab node --listen 10", r"HOME=~/device$n collab node --listen 10"),
)
"""A device of its own for each token: its home is another."""

TWO: Final = """
    collab node --name pi-1 --listen 127.0.0.1:7070 --discovery none & pi1=$!
    collab node --name pi-2 --listen 127.0.0.1:7071 --discovery none & pi2=$!
    export COLLAB_PEERS=127.0.0.1:7070,127.0.0.1:7071
"""
"""The two nodes of the tutorial."""
DATA: Final = ROOT / "tests" / "data"

RUN: Final[Mapping[str, Scenario]] = {
    "docs/tutorial.md": Scenario(compare=True, replace=ENROLLED),
    "docs/how-to/cut.md": Scenario(compare=True),
    "docs/how-to/plan.md": Scenario(TWO, compare=True),
    "docs/how-to/secure.md": Scenario(
        "mkdir ~/pi-1",
        replace=(
            (r"^collab cluster invite pi-1 .*", r"\g<0> | tee invite"),
            (r"^collab cluster join collab1-…", "HOME=~/pi-1 $(grep -o 'collab cluster join.*' invite)"),
            (r"^collab cluster renew", r"HOME=~/pi-1 \g<0>"),
            (r"^(collab cluster revoke pi-1) --peers 10.0.0.8:7070", r"\1"),
        ),
        compare=True,
    ),
    "docs/how-to/emulate.md": Scenario(compare=True),
    "docs/how-to/learn.md": Scenario(
        f"""
        cp {DATA}/trainable_mlp.tflite mlp.tflite
        python {ROOT}/tests/docs/examples.py
        """,
        compare=True,
    ),
    "docs/how-to/release.md": Scenario(compare=True),
    "docs/how-to/serve.md": Scenario(TWO, compare=True),
    "docs/how-to/watch.md": Scenario(TWO, compare=True),
    "docs/how-to/operate.md": Scenario(
        TWO, compare=True, leaves_nothing=True, codes=((r"collab doctor", 1),)
    ),
}
