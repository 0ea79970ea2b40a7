"""Devices that take releases from nodes: from a repository that one serves, and from what another fetched."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import aiocoap
import pytest

pytest.importorskip("tuf")

from tests.identities import Identities
from tests.integration.processes import NodeProcess, command
from tests.integration.test_coap_clients import REMEDY
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


def serving(folder: Path, table: str, name: str = "a", *options: str) -> NodeProcess:
    config = folder / f"{name}.toml"
    config.write_text(f"[serve_releases]\n{table}\n", "utf-8")
    return NodeProcess(name, folder, "--config", str(config), *options)


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


def test_in_a_cluster_with_certificates_a_client_reads_and_a_stranger_does_not(world, tmp_path):
    ours, others = Identities(tmp_path, "home"), Identities(tmp_path, "away")
    table = f'folders = {{ main = "{world.path}" }}'
    with serving(tmp_path, table, "s", "--identity", str(ours.directory("s"))) as node:
        wanted = ("release", "fetch", f"{node.endpoint}#main", "digits", "--store", tmp_path / "d", "--json")
        root = ("--trust", world.path / "metadata/1.root.json")
        done = command("--identity", ours.directory("phone", "client"), *wanted, *root)
        assert done.code == 0, done.err
        assert done.json["received"] == len(BLOB)
        for who in (("--identity", others.directory("phone", "client")), ()):
            refused = command(*who, *wanted)
            assert refused.code in (3, 4)
            assert len(refused.errors) == 1


def coap(url: str, out: Path) -> bytes:
    """What libcoap's client got; nothing where it got an error."""
    program = shutil.which("coap-client-notls")
    assert program is not None, REMEDY
    out.unlink(missing_ok=True)
    done = subprocess.run([program, "-B", "20", "-m", "get", "-o", out, url], timeout=60, check=False)
    assert done.returncode in (0, 1)
    return out.read_bytes() if out.exists() else b""


def test_a_foreign_coap_client_reads_a_repository_block_by_block(world, tmp_path):
    data, out = BLOB[:20_000], tmp_path / "got"
    info = world.release(data)
    (target,) = (world.path / "targets/digits/stable").glob(f"*.{info.version}.collab")
    digest = target.name[:64]
    (tmp_path / "kept/blobs").mkdir(parents=True)
    (tmp_path / "kept/blobs" / digest).write_bytes(data)
    table = f'folders = {{ main = "{world.path}" }}\nnearby = ["{tmp_path / "kept"}"]'
    with serving(tmp_path, table, "c", "--coap", "127.0.0.1:0") as node:
        udp, tcp = node.events[0]["coap"]
        root = coap(f"{udp}/releases/main/metadata/1.root.json", out)
        assert root == (world.path / "metadata/1.root.json").read_bytes()
        assert coap(f"{udp}/releases", out) == b'["main"]'
        assert [coap(f"{place}/releases/{digest}", out) for place in (udp, tcp)] == [data] * 2
        for path in ("main/staged/root.json", "main/lock", "other/metadata/1.root.json", "0" * 64):
            assert not coap(f"{udp}/releases/{path}", out)
        # libcoap's program cuts paths after 100 bytes; other clients do not.
        got = asyncio.run(whole(f"{udp}/releases/main/targets/digits/stable/{target.name}"))
        assert got == (data, bytes.fromhex(digest)[:8])


async def whole(url: str) -> tuple[bytes, bytes]:
    """A resource as aiocoap gets it, and its ETag."""
    context = await aiocoap.Context.create_client_context(transports=["udp6"])
    try:
        answer = await context.request(aiocoap.Message(code=aiocoap.GET, uri=url)).response
        return answer.payload, answer.opt.etag
    finally:
        await context.shutdown()
