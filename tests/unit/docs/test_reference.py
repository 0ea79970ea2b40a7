"""The reference is made from the code: nothing is left out, and what is said stands in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Union

import msgspec
import pytest

from collab.errors import BY_CODE
from collab.node.config import NodeConfig
from collab.telemetry.catalogue import CATALOGUE
from scripts.site import links, pages, protos
from scripts.site.commands import application, commands
from scripts.site.markdown import table
from scripts.site.structs import default_of, family, fields_table, said_of_fields, type_name

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return pages.reference(ROOT)


def test_every_command_has_a_section_with_all_of_its_options(reference):
    text = reference["reference/commands.md"]
    sections = dict(re.findall(r"^### (collab .*?)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    found = {" ".join(words): command for words, command in commands(application())}
    assert sections.keys() == found.keys()
    for name, command in found.items():
        for parameter in command.params:
            for option in parameter.opts:
                if not parameter.hidden and option != "--help":
                    assert option in sections[name], (name, option)
                    assert parameter.help, (name, option)


def test_every_code_is_there_with_its_exit_code(reference):
    text = reference["reference/codes.md"]
    assert all(f"| `{code}` | {kind.exit_code} |" in text for code, kind in BY_CODE.items())
    assert {kind.exit_code for kind in BY_CODE.values()} <= {code for code, _ in pages.EXIT_CODES}


def test_every_environment_variable_of_the_code_is_there():
    texts = [file.read_text("utf-8") for file in (ROOT / "collab").rglob("*.py")]
    named = {word for text in texts if "COLLAB_" in text for word in pages.variables_in(text)}
    named -= {"COLLAB_"}
    of_the_page = {name for names, *_ in pages.VARIABLES for name in names.split(", ")}
    settings = {f"COLLAB_{field.upper()}" for field in NodeConfig.__struct_fields__}
    assert named - settings - of_the_page - pages.OURS_ALONE == set()
    assert named >= pages.OURS_ALONE


def test_every_metric_is_there(reference):
    assert all(f"| `{metric.name}` |" in reference["reference/metrics.md"] for metric in CATALOGUE)


def test_every_message_and_field_of_the_protos_is_there(reference):
    text = reference["reference/protos.md"]
    for file in (ROOT / "protos").rglob("*.proto"):
        source = re.sub(r"//.*", "", file.read_text("utf-8"))
        for name in re.findall(r"^\s*(?:message|enum|service) (\w+)", source, re.MULTILINE):
            assert re.search(rf"^### \w+ (?:\w+\.)*{name}$", text, re.MULTILINE), name
        for name, number in re.findall(r"(\w+) = (\d+)[;\[ ]", source):
            assert re.search(rf"^\| {number} \| `{name}\b", text, re.MULTILINE), name


def test_every_field_of_settings_and_files_is_there(reference):
    text = reference["reference/files.md"]
    for kind in family(NodeConfig):
        assert f"### {kind.__name__}" in text
        for field in msgspec.structs.fields(kind):
            assert f"| `{field.encode_name}` |" in text


def test_links_of_the_reference_lead_somewhere(reference):
    for place, text in reference.items():
        for target in links.targets(text, f"docs/{place}"):
            assert (ROOT / target).exists() or target.removeprefix("docs/") in reference, target


def test_comments_of_a_proto_belong_to_what_follows():
    made = protos.definitions(
        '// A file.\nsyntax = "proto3";\n\n// One.\nmessage A {\n  // Its\n  // name.\n  string name = 1;\n'
        "  repeated B.C list = 2;  // many\n  enum Kind {\n    NONE = 0;\n  }\n  oneof of {\n"
        "    int32 x = 3;\n  }\n}\n"
        "service S {\n  rpc Call(A) returns (A);\n}\nmessage Empty {}\n"
    )
    assert [(d.kind, d.name, d.said) for d in made] == [
        ("message", "A", "One."),
        ("enum", "A.Kind", ""),
        ("service", "S", ""),
        ("message", "Empty", ""),
    ]
    assert made[0].rows == [
        ("1", "name: string", "Its name."),
        ("2", "list: repeated B.C", "many"),
        ("3", "x: int32", ""),
    ]
    assert made[2].rows == [("", "Call(A) → A", "")]


class Inner(msgspec.Struct, frozen=True):
    """Inside."""

    share: float = 0.5
    """Of the whole."""


class Outer(msgspec.Struct, frozen=True):
    """Outside."""

    name: str
    inner: Union[Inner, None] = None
    """What is in it | or not."""
    ways: tuple[Literal["a", "b"], ...] = ("a",)
    on: bool = False


def test_a_type_becomes_a_table_of_its_fields():
    assert said_of_fields(Outer) == {"inner": "What is in it | or not."}
    assert list(family(Outer)) == [Outer, Inner]
    assert fields_table(Outer).splitlines()[2:] == [
        "| `name` | text | needed |  |",
        "| `inner` | Inner or nothing |  | What is in it \\| or not. |",
        "| `ways` | list of a, b | `['a']` |  |",
        "| `on` | true or false | `false` |  |",
    ]
    assert default_of(msgspec.structs.fields(Inner)[0]) == "0.5"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Any, "anything"),
        (dict[str, int], "table of whole number"),
        (Union[int, str, None], "whole number or text or nothing"),
        (frozenset[str], "list of text"),
        (Path, "Path"),
    ],
)
def test_types_are_named_for_readers_of_files(kind, name):
    assert type_name(kind) == name


def test_a_cell_cannot_end_its_row():
    assert table(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"


def test_links_are_turned_to_where_the_site_has_the_file():
    places = {"README.md": "readme.md", "docs/a/b.md": "a/b.md", "collab/c.py": "source/collab/c.py.txt"}
    text = (
        "[r](../../README.md#x) [c](../../collab/c.py) [d](../../collab) ![i](https://h/i.png) [h](#here) "
        "[n](nowhere.md)\n```\n[r](../../README.md)\n```\n"
    )
    assert links.rewritten(text, "docs/a/b.md", "a/b.md", places, lambda path: path == "collab") == (
        "[r](../readme.md#x) [c](../source/collab/c.py.txt) d ![i](https://h/i.png) [h](#here) "
        "[n](nowhere.md)\n```\n[r](../../README.md)\n```\n"
    )
    assert list(links.targets(text, "docs/a/b.md")) == [
        "README.md",
        "collab/c.py",
        "collab",
        "docs/a/nowhere.md",
    ]
