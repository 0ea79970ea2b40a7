"""``collab stream``, and the options of ``collab run --source`` that do not go together."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from collab.cli.files import read_plan, write_plan
from collab.core.plan import Plan
from collab.core.validate import convert_plan, validate
from tests.integration.processes import command
from tests.unit.core.trees import chain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    plan = convert_plan(chain())
    last = plan.placed[-1]
    stages = tuple(msgspec.structs.replace(stage, nodes=(last,)) for stage in plan.stages)
    spare: Plan = plan.replace(name="spare", primary=plan.name, stages=stages)
    file = tmp_path / "plan.yaml"
    write_plan(file, validate(plan.replace(alternatives=(spare,))))
    return file


def test_a_stream_is_written_into_a_plan_and_its_alternatives_and_taken_out(path: Path):
    words = ("--source", "a/door", "--sink", "log", "--sink", "mail", "--policy", "queue:4", "--fps", "5")
    told = command("stream", path, *words, "--json").json
    (entry,) = told["streams"]
    assert (entry["id"], entry["source"], entry["sinks"]) == ("door", "a/door", ["log", "mail"])
    plan = read_plan(path)
    assert plan.streams == plan.alternatives[0].streams
    assert (plan.streams[0].policy, plan.streams[0].fps) == ("queue:4", 5.0)
    # Again under the same id takes its place.
    assert command("stream", path, "--source", "a/door", "--sink", "log", "--json").code == 0
    assert [len(stream.sinks) for stream in read_plan(path).streams] == [1]
    assert command("stream", path, "--remove", "door").code == 0
    assert read_plan(path).streams == read_plan(path).alternatives[0].streams == ()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "give --source NODE/NAME, or --remove ID"),
        (("--source", "a/door", "--remove", "x"), "give --source NODE/NAME, or --remove ID"),
        (("--source", "door", "--sink", "log"), "give NODE/NAME"),
        (("--source", "a//dev/video0", "--sink", "log"), "give NODE/NAME"),
        (("--source", "zz/door", "--sink", "log"), "the plan has no node 'zz'; say with --peers"),
        (("--source", "a/door"), "streams[0].sinks: 0 of them"),
        (("--source", "a/door", "--sink", "log", "--policy", "x"), "streams[0].policy: 'x'"),
        (("--remove", "x"), "the plan has no such stream; it has none"),
    ],
)
def test_what_cannot_be_a_stream_is_named(path: Path, words: tuple[str, ...], text: str):
    before = path.read_bytes()
    done = command("stream", path, *words)
    assert done.code in (1, 2)
    (line,) = done.errors
    assert text in line
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "--input: is missing; give inputs, or --source for frames"),
        (("--source", "folder:x", "--input", "y.npz"), "--input: does not go with --source"),
        (("--source", "folder:x", "--expect", "y.npz"), "--expect: does not go with --source"),
        (("--source", "folder:x", "--policy", "newest"), "--policy: 'newest'; give latest"),
        (("--source", "folder:x", "--fps", "0"), "--fps 0: give a number above 0"),
        (("--source", "folder:x", "--frames", "0"), "--frames 0: give a number above 0"),
        (("--source", "rtsp://h/x", "--watch"), "--watch: only a folder is watched"),
        (("--source", "folder:x", "--sink", "jsonl:-", "--json"), "standard output has one object alone"),
        (("--source", "folder:x", "--sink", "jsonl:/nowhere/x"), "there is no directory /nowhere"),
        (("--source", "folder:x", "--sink", "file:///etc/passwd"), "give jsonl:PATH"),
    ],
)
def test_options_of_a_stream_that_cannot_be_are_named(path: Path, words: tuple[str, ...], text: str):
    done = command("run", path, *words)
    assert done.code in (1, 2)
    (line,) = done.errors
    assert text in line
