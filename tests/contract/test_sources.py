"""What every source of releases promises (`collab.updates.fetch.base`); a new one joins in `PLACES`."""

from __future__ import annotations

import asyncio
import random
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from collab.assembly import build_cluster, transports
from collab.client.releases import LinkReads, open_source
from collab.core.ids import NodeName
from collab.errors import InputError, PeerError
from collab.link.hello import Identity
from collab.link.link import Handler
from collab.link.links import Links
from collab.node.config import NodeConfig
from collab.node.service import NodeService
from collab.node.serving import ServeConfig
from collab.node.store import Store
from collab.transport.aio import timeout
from collab.updates.fetch.base import CHUNK_BYTES, NotOffered, Source
from collab.updates.fetch.files import ArchiveSource, FolderSource
from collab.updates.fetch.http import HttpSource
from tests.mosquitto import mosquitto
from tests.unit.functions import functions

WITHIN_S = 30.0
BLOB = random.Random(7).randbytes(300_000)
PATH = "targets/digits/stable/1.collab"
FILES = {PATH: BLOB, "metadata/1.root.json": b"{}", "targets/empty": b""}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


@asynccontextmanager
async def folder(repository: Path) -> AsyncIterator[Source]:
    yield FolderSource(repository)


@asynccontextmanager
async def archive(repository: Path) -> AsyncIterator[Source]:
    def pack() -> Source:
        place = repository.with_suffix(".zip")
        with zipfile.ZipFile(place, "w") as written:
            for path in FILES:
                written.write(repository / path, path)
        return ArchiveSource(place)

    yield await asyncio.to_thread(pack)


class Quiet(SimpleHTTPRequestHandler):
    """Knows no ranges: a download that broke begins anew."""

    def log_message(self, *arguments: object) -> None:
        pass


@asynccontextmanager
async def http(repository: Path) -> AsyncIterator[Source]:
    handler = partial(Quiet, directory=str(repository))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield HttpSource(f"http://127.0.0.1:{server.server_port}")
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


@asynccontextmanager
async def serving(repository: Path, listen: str) -> AsyncIterator[Source]:
    """A real node that serves the repository, read over a link."""
    config = NodeConfig(
        name="giver",
        listen=(listen,),
        serve_releases=ServeConfig({"main": repository}),
    )
    store = await asyncio.to_thread(Store, repository.parent / "store")

    def make_links(handler: Handler) -> Links:
        return Links(Identity(NodeName("giver"), "node"), transports(name=NodeName("giver")), handler)

    node = NodeService(config, store, {"function": functions()}, make_links)
    async with node, build_cluster() as cluster, LinkReads(cluster.links) as reads:
        yield open_source(f"{node.endpoints[0]}#main", reads=reads)


@asynccontextmanager
async def over_mqtt(repository: Path) -> AsyncIterator[Source]:
    with mosquitto(acl=False) as broker:
        async with serving(repository, f"mqtt://127.0.0.1:{broker.port}") as source:
            yield source


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[Source]]] = {
    "folder": folder,
    "archive": archive,
    "http": http,
    "node over gRPC": lambda repository: serving(repository, "grpc://127.0.0.1:0"),
    "node over MQTT": over_mqtt,
    "node over CoAP/TCP": lambda repository: serving(repository, "coap+tcp://127.0.0.1:0"),
    "node over CoAP/UDP": lambda repository: serving(repository, "coap+udp://127.0.0.1:0"),
}


@pytest.fixture(params=PLACES)
async def source(request: pytest.FixtureRequest, repository: Path) -> AsyncIterator[Source]:
    async with timeout(WITHIN_S), PLACES[request.param](repository) as made:
        yield made


def read(source: Source, path: str, offset: int = 0) -> tuple[int, bytes]:
    with source.open(path, offset) as opened:
        chunks = list(opened.chunks)
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
    return opened.start, b"".join(chunks)


async def test_a_file_comes_whole_in_order_and_from_an_offset_on_or_anew(source):
    assert await asyncio.to_thread(read, source, PATH) == (0, BLOB)
    assert await asyncio.to_thread(read, source.within("metadata"), "1.root.json") == (0, b"{}")
    assert await asyncio.to_thread(read, source, "targets/empty") == (0, b"")
    for offset in (1, 123_456, len(BLOB) - 1):
        start, data = await asyncio.to_thread(read, source, PATH, offset)
        assert start in (0, offset)
        assert data == BLOB[start:]


async def test_what_is_not_there_is_not_offered_and_no_path_leads_out(source):
    for path in ("targets/digits/stable/9.collab", "metadata/2.root.json"):
        with pytest.raises(NotOffered):
            await asyncio.to_thread(read, source, path)
    for path in ("../secret", "targets/../../secret", "targets/%2e%2e/%2e%2e/secret", "/etc/passwd"):
        with pytest.raises((InputError, NotOffered)):
            await asyncio.to_thread(read, source, path)


async def test_several_read_at_once_and_after_one_that_left_in_the_middle(source: Source):
    def look() -> bytes:
        with source.open(PATH) as opened:
            return next(opened.chunks)

    assert BLOB.startswith(await asyncio.to_thread(look))
    found = await asyncio.gather(*(asyncio.to_thread(read, source, PATH) for _ in range(3)))
    assert found == [(0, BLOB)] * 3
    try:
        # Shorter than what somebody read before: nothing more, an error, or all of it anew.
        start, data = await asyncio.to_thread(read, source, PATH, len(BLOB) + 5)
    except PeerError:
        return
    assert data == (b"" if start else BLOB)
