"""Every command on every page is one that the command line takes, and it is known who runs it."""

from __future__ import annotations

import pytest

from scripts.site.commands import application, commands, examples
from tests.docs.ledger import PARSED, Parsed
from tests.docs.pages import Command, blocks, calls
from tests.docs.parsing import mistake
from tests.docs.scenarios import PAGES, ROOT, text_of

CALLS = [
    (f"{page}:{command.line}", words)
    for page in PAGES
    for block in blocks(text_of(page))
    for command in block.commands
    for words in calls(command)
]


@pytest.mark.parametrize("words", [w for _, w in CALLS], ids=[at for at, _ in CALLS])
def test_the_command_line_takes_every_call_of_a_page(words):
    assert mistake(words) == ""


@pytest.mark.parametrize("words", [words for words, _ in commands(application())], ids=" ".join)
def test_the_command_line_takes_the_examples_of_its_own_help(words):
    command = dict(commands(application()))[words]
    assert examples(command)
    for example in examples(command):
        for call in calls(Command(0, example)):
            assert mistake(call) == "", example


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["paln", "m.tflite"], "no such command"),
        (["plan", "m.tflite", "--preveiw"], "--preveiw"),
        (["plan", "m.tflite", "--max-stages", "many"], "--max-stages"),
        (["deploy"], "Missing"),
        (["model"], "no command"),
    ],
)
def test_what_the_command_line_does_not_take_is_said(words, said):
    assert said in mistake(words)


def test_a_command_is_run_or_there_is_a_reason_why_it_is_only_parsed():
    from tests.docs.scenarios import RUN

    left = [
        f"{page}:{command.line}: {command.first}"
        for page in PAGES
        if page not in RUN
        for block in blocks(text_of(page))
        for command in block.commands
        if not any(entry.covers(page, command.first) for entry in PARSED)
    ]
    assert not left


@pytest.mark.parametrize("entry", PARSED, ids=lambda entry: f"{entry.page}: {entry.pattern}")
def test_every_reason_is_of_a_command_that_is_there(entry: Parsed):
    assert (ROOT / entry.page).exists()
    found = [c.first for block in blocks(text_of(entry.page)) for c in block.commands]
    assert any(entry.covers(entry.page, command) for command in found)
    assert entry.why
