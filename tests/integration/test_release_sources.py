"""Devices that take releases from nodes: from a repository that one serves, and from what another fetched."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("tuf")

from tests.integration.processes import NodeProcess, command
from tests.unit.updates.releases import World

BLOB = random.Random(5).randbytes(2_500_000)


class Counting(SimpleHTTPRequestHandler):
    """Counts the bytes of each folder that it sends."""

    sent: ClassVar[Counter[str]] = Counter()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        self.sent[self.path.split("/")[1]] += len(data)
        outputfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, datetime.now(timezone.utc))
    made.release(BLOB)
    return made


@pytest.fixture
def web(world: World) -> Iterator[str]:
    Counting.sent.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(world.path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def serving(folder: Path, table: str, name: str = "a") -> NodeProcess:
    config = folder / f"{name}.toml"
    config.write_text(f"[serve_releases]\n{table}\n", "utf-8")
    return NodeProcess(name, folder, "--config", str(config))


def fetch(world: World, source: str, device: str, *options: str) -> Any:
    root = world.path / "metadata/1.root.json"
    folder = world.folder / device
    done = command(
        "release", "fetch", source, "digits", "--store", folder, "--trust", root, "--json", *options
    )
    assert done.code == 0, done.err
    return done.json


def test_a_second_device_takes_the_file_from_the_first_and_only_metadata_from_the_server(
    world, web, tmp_path
):
    assert fetch(world, web, "first")["received"] == len(BLOB)
    assert Counting.sent["targets"] == len(BLOB)
    once = Counting.sent["metadata"]
    with serving(tmp_path, f'nearby = ["{tmp_path / "first"}"]') as node:
        got = fetch(world, web, "second", "--nearby", node.place)
    assert Path(got["file"]).read_bytes() == BLOB
    assert got["received"] == len(BLOB)
    assert Counting.sent == {"targets": len(BLOB), "metadata": 2 * once}
    assert once < 20_000


def test_a_neighbour_that_lies_costs_one_part_and_one_that_is_gone_nothing(world, web, tmp_path):
    fetch(world, web, "first")
    (blob,) = (tmp_path / "first/blobs").iterdir()
    blob.write_bytes(BLOB[: 1 << 20] + b"x" + BLOB[(1 << 20) + 1 :])
    with serving(tmp_path, f'nearby = ["{tmp_path / "first"}"]') as node:
        got = fetch(world, web, "second", "--nearby", f"127.0.0.1:1,{node.place}")
    assert Path(got["file"]).read_bytes() == BLOB
    # Python's server knows no ranges, so what the neighbour gave rightly is fetched again too.
    assert Counting.sent["targets"] == 2 * len(BLOB)
    assert got["received"] <= len(BLOB) + (2 << 20)


def test_a_repository_is_read_from_a_node_and_what_it_does_not_serve_is_said(world, tmp_path):
    with serving(tmp_path, f'folders = {{ main = "{world.path}" }}') as node:
        got = fetch(world, f"{node.endpoint}#main", "third")
        assert Path(got["file"]).read_bytes() == BLOB
        assert fetch(world, f"{node.endpoint}#main", "third")["received"] == 0
        none = ("release", "fetch", f"{node.endpoint}#other", "digits", "--store", tmp_path / "third")
        done = command(*none)
        assert (done.code, len(done.errors)) == (1, 1)
        assert "repository 'other': is not served here, but main" in done.err
    done = command("release", "fetch", f"{node.endpoint}#main", "digits", "--store", tmp_path / "third")
    assert done.code == 3
    done = command("release", "fetch", node.endpoint, "digits", "--store", tmp_path / "third")
    assert done.code == 2
    assert "name the repository too" in done.err
