"""Pages whose commands are run, from the top to the bottom, and what has to be there before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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


def text_of(page: str) -> str:
    """A page as it is in the repository."""
    return (ROOT / page).read_text("utf-8")


def only_parsed(page: str, command: Command) -> bool:
    """Whether the list says that the command is not run."""
    return any(entry.covers(page, command.first) for entry in PARSED)


def play(page: str, scenario: Scenario, terminal: Terminal) -> None:
    """Type a whole page into a terminal; raises `AssertionError` at what is not as it says."""
    prepare(terminal, scenario.prepare)
    for block in blocks(text_of(page)):
        _play_block(terminal, page, scenario, block)
    if scenario.leaves_nothing:
        assert not terminal.running(), page


def prepare(terminal: Terminal, lines: str) -> None:
    """Type what a page takes for granted."""
    for line in filter(None, map(str.strip, lines.splitlines())):
        _type(terminal, line, "preparation")


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
        text = f"{text.partition(' #')[0]} &"
    code = terminal.enter(text)
    assert code == right, f"{where}: {text}\nexit code {code}\n{terminal.screen[since:]}"
    assert "Traceback" not in terminal.screen[since:], f"{where}: {text}\n{terminal.screen[since:]}"
    if goes_on:
        terminal.expect(goes_on, since)


DEVICES: Final = ((r"10\.0\.0\.7:7070", "127.0.0.1:7070"), (r"10\.0\.0\.8:7070", "127.0.0.1:7071"))
"""Addresses of two devices, and those of two nodes here."""
INVITED: Final = "until grep -qs 'cluster join' invite; do sleep 0.1; done"
"""The line that a device is given can be in the terminal before it is in the file."""
ENROLLED: Final = (
    (r"^collab cluster invite (\S+) (.*)$", r"collab cluster invite \1 \2 | tee invite &"),
    (
        r"^collab cluster join collab1-…",
        f"mkdir -p ~/device; {INVITED}; HOME=~/device$((++n)) $(grep -o 'collab cluster join.*' invite)",
    ),
    (r"^collab node --listen 10", r"HOME=~/device$n collab node --listen 10"),
)
"""A device of its own for each token: its home is another."""
SECOND: Final = (
    "mkdir ~/device2; (collab cluster invite pi-2 --listen 10.0.0.5:7444 | tee invite2 &); "
    "until grep -q join invite2; do sleep 0.1; done; "
    "HOME=~/device2 $(grep -o 'collab cluster join.*' invite2); "
    "HOME=~/device2 collab node --listen 10.0.0.8:7070 & "
    "until (echo > /dev/tcp/10.0.0.8/7070) 2> /dev/null; do sleep 0.1; done"
)
"""\"Do the same for pi-2\", and the second node."""

TWO: Final = """
    collab node --name pi-1 --listen 127.0.0.1:7070 --discovery none & pi1=$!
    collab node --name pi-2 --listen 127.0.0.1:7071 --discovery none & pi2=$!
    export COLLAB_PEERS=127.0.0.1:7070,127.0.0.1:7071
"""
"""The two nodes of the tutorial."""
DATA: Final = ROOT / "tests" / "data"

TOUR: Final[Mapping[str, Scenario]] = {
    "docs/planning.md": Scenario(
        replace=(
            *DEVICES,
            (r"^collab profile .*", r"\g<0> --rounds 1"),
            (r" --out plan.yaml", " --out other.yaml"),
        )
    ),
    "docs/simulation.md": Scenario(
        """
        printf 'name: a\\nprofile: profile.json\\nrequester: pi-1\\n' > scenario.yaml
        printf 'plans: [local, offload]\\nhosts: {pi-1: {}, pi-2: {}}\\n' >> scenario.yaml
        printf 'topology: {shape: star, center: base, profile: lte}\\n' >> scenario.yaml
        printf 'workload: {kind: closed, concurrency: 1, requests: 10}\\n' >> scenario.yaml
        """
    ),
    "docs/serving.md": Scenario(),
    "docs/dashboard.md": Scenario(
        replace=(*DEVICES, (r"plan.yaml --dashboard", r"\g<0> --listen 127.0.0.1:8002 --grpc none")),
        compare=True,
    ),
    "docs/monitoring.md": Scenario(),
    "docs/failover.md": Scenario(replace=DEVICES),
    "docs/releases/condition.md": Scenario(
        replace=(
            *DEVICES,
            (
                r"collab run plan.yaml --input x.npz --json .*",
                "collab run plan.yaml --input x.npz --json > run.json",
            ),
            (r"5f0c…", r"$(sed 's/.*\"ids\": \[\"\\([0-9a-f]*\\).*/\\1/' run.json)"),
        )
    ),
    "docs/releases.md": Scenario(
        "cp m.collab digits.collab",
        replace=(
            (r"SSPHRASE=….*", "SSPHRASE=a-secret-of-the-test"),
            (r"HOST:8000", "127.0.0.1:8000"),
            (r"(http.server --directory releases) 8000", r"\1 8009"),
            (r"127.0.0.1:8000", "127.0.0.1:8009"),
            (r" --trust root.json", " --trust releases/metadata/1.root.json"),
        ),
    ),
    "docs/releases/store.md": Scenario(
        replace=(
            (r"https://HOST/releases", "http://127.0.0.1:8009"),
            (r" --into", " --trust releases/metadata/1.root.json --into"),
        )
    ),
    # The demo model does not fit into the memory of a microcontroller.
    "docs/toolchain/devices.md": Scenario(codes=((r"collab model check .*esp32", 1),)),
}
"""Reference pages, one after the other in one terminal where two nodes serve a plan."""
TOUR_PREPARE: Final = f"""{TWO}
    collab demo --files .
    cp digits.tflite m.tflite
    collab model package m.tflite --labels 0,1,2,3,4,5,6,7,8,9 --version 1.0.0 --out m.collab
    collab plan digits.tflite --at 9 --assign pi-1,pi-2 --out plan.yaml
    collab deploy plan.yaml
"""

ALONE: Final[Mapping[str, Scenario]] = {
    "README.md": Scenario(
        f"collab demo --files . && mkdir -p collab && ln -s {ROOT}/collab/assets collab/assets",
        replace=((r"^collab node --listen 10.0.0.8:7070", SECOND), *ENROLLED),
    ),
    "docs/tutorial.md": Scenario(compare=True, replace=ENROLLED),
    "docs/how-to/cut.md": Scenario(compare=True),
    "docs/how-to/plan.md": Scenario(TWO, compare=True),
    "docs/how-to/secure.md": Scenario(
        "mkdir ~/pi-1",
        replace=(
            (r"^collab cluster invite pi-1 .*", r"\g<0> | tee invite"),
            (
                r"^collab cluster join collab1-…",
                f"{INVITED}; HOME=~/pi-1 $(grep -o 'collab cluster join.*' invite)",
            ),
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
    "docs/pipelines.md": Scenario(
        f"""{TWO}
        cp {ROOT}/collab/assets/*.tflite .
        cp {ROOT}/collab/assets/scene_pipeline.yaml pipeline.yaml
        python {ROOT}/tests/docs/scenes.py
        """,
        replace=DEVICES,
    ),
    "docs/how-to/watch.md": Scenario(TWO, compare=True),
    "docs/how-to/operate.md": Scenario(
        TWO, compare=True, leaves_nothing=True, codes=((r"collab doctor", 1),)
    ),
}
"""Pages with a terminal of their own."""

RUN: Final = {*ALONE, *TOUR}
