"""How commands and their output are read from pages."""

from __future__ import annotations

import pytest

from tests.docs.pages import Command, agrees, blocks, calls


def commands(text: str) -> list[str]:
    return [command.text for block in blocks(text) for command in block.commands]


def test_all_lines_of_a_shell_block_are_commands_but_comments_and_blank_lines():
    assert commands("```sh\n# first\nmake core\n\nls -la\n```\n") == ["make core", "ls -la"]


def test_a_prompt_marks_commands_and_the_rest_is_output():
    (block,) = blocks("```console\n$ collab nodes\npi-1\n$ collab status\npi-2\n```\n")
    assert [c.text for c in block.commands] == ["collab nodes", "collab status"]
    assert block.output == "pi-1\npi-2"


def test_a_block_without_a_language_has_commands_if_it_begins_with_one():
    assert commands("```\ncollab nodes\n  a picture\ncollab status\n```\n") == [
        "collab nodes",
        "collab status",
    ]
    assert commands("```\nnode pi-1 is ready\ncollab nodes\n```\n") == []
    assert commands("```yaml\ncollab: nodes\n```\n") == []


def test_output_is_that_of_the_block_above_and_given_once():
    text = "```sh\nls\n```\nIt says:\n```text\na\n```\n```text\nb\n```\n"
    assert [block.output for block in blocks(text)] == ["a"]


def test_a_block_in_a_list_is_read_without_its_indentation():
    (block,) = blocks("1. Do\n   ```sh\n   ls\n   ```\n")
    assert block.commands == (Command(3, "ls"),)


def test_a_command_goes_on_behind_a_backslash_and_up_to_the_end_of_what_it_is_given():
    text = "```sh\nls \\\n  -la\ncat > a.yaml <<'END'\nname: a\n\n# no comment\nEND\nls\n```\n"
    assert commands(text) == ["ls \\\n  -la", "cat > a.yaml <<'END'\nname: a\n\n# no comment\nEND", "ls"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("collab run p.yaml --input x.npz   # as before", [["run", "p.yaml", "--input", "x.npz"]]),
        ("collab serve p.yaml & serve=$!", [["serve", "p.yaml"]]),
        ("collab demo && collab nodes", [["demo"], ["nodes"]]),
        ("sudo -u collab collab cluster join T", [["cluster", "join", "T"]]),
        ("A=1 collab api-key keys.txt ann > ann.key 2>&1", [["api-key", "keys.txt", "ann"]]),
        ("collab run p.yaml --top 2", [["run", "p.yaml", "--top", "2"]]),
        ("collab release init r/ --role 'stable=2/3'", [["release", "init", "r/", "--role", "stable=2/3"]]),
        ("cp collab elsewhere", []),
    ],
)
def test_calls_are_split_as_a_shell_splits_them(line: str, found: list[list[str]]):
    assert list(calls(Command(1, line))) == found


@pytest.mark.parametrize(
    ("shown", "got", "right"),
    [
        ("a\nb", "x a\nb y", True),
        ("b\na", "a\nb", False),
        ("│ pi-1 │…│ serving │", "│ pi-1 │ 127.0.0.1:7070 │ gone │", False),
        ("│ pi-1 │…│ serving │", "│ pi-1 │ 127.0.0.1:7070 │ serving │ 1", True),
        ("a…b", "a\nb", False),
        ("0 wrong (exact)", "100 requests, 0   wrong (exact)", True),
        ("…", "", True),
    ],
)
def test_output_agrees_line_by_line_in_order(shown: str, got: str, right: bool):
    assert agrees(shown, got) is right
