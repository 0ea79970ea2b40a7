"""What a node can try that serves a repository: attacks of `tests/unit/updates/fetch`, over links."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

pytest.importorskip("tuf")

from collab.assembly import build_cluster
from collab.client.releases import LinkReads, open_source
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import NodeName
from collab.errors import CollabError, IntegrityError, LimitExceeded, NotLoaded, PeerError, Refused
from collab.link.hello import Identity
from collab.link.links import Links
from collab.node.serving import ReleaseFiles, ServeConfig
from collab.transport.inproc import InprocTransport
from collab.updates.fetch.files import FolderSource
from collab.updates.fetch.pace import Limits
from tests.unit.link.ends import Recorder
from tests.unit.updates.releases import NOW, World, days

QUICK = Limits(answer_s=0.3, window_s=0.3)


class Thief:
    """Serves a folder as a node does, but for files that it has made."""

    def __init__(self, folder: Path, files=None, silent=()) -> None:
        self.files, self.silent = files or {}, silent
        self.honest = ReleaseFiles(ServeConfig({"main": folder}))
        self.sent = 0

    async def serve(self, link, body: bytes) -> bytes:
        request = pb.GetReleaseFileRequest.FromString(body)
        if request.path in self.silent and request.offset:
            await asyncio.sleep(3600)
        made = self.files.get(request.path)
        if made is None:
            total, data = await asyncio.to_thread(
                self.honest.read, "main", request.path, request.offset, request.limit
            )
        else:
            total, data = made(request)
        self.sent += len(data)
        return pb.GetReleaseFileReply(total_bytes=total, data=data).SerializeToString()

    async def give(self, use):
        """What a device does with the source, in a thread."""
        hub, handler = InprocTransport(), Recorder(GetReleaseFile=self.serve)
        async with Links(Identity(NodeName("thief"), "node"), {"inproc": hub}, handler) as links:
            await links.listen("inproc://thief")
            async with build_cluster(inproc=hub) as cluster, LinkReads(cluster.links) as reads:
                return await asyncio.to_thread(use, open_source("inproc://thief#main", QUICK, reads))


def constant(data: bytes):
    return lambda request: (len(data), data[request.offset : request.offset + request.limit])


def endless(request):
    return 1 << 50, os.urandom(request.limit)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.release(b"one")
    return made


def look(world, **options):
    return lambda source: world.device(source, **options).newest("digits", "stable")


async def test_an_honest_node_is_believed(world):
    assert (await Thief(world.path).give(look(world))).version == 1


async def test_an_older_repository_and_one_that_stands_still_are_refused(world):
    old = await asyncio.to_thread(world.copy, "old")
    await asyncio.to_thread(world.release, b"two")
    await Thief(world.path).give(look(world))
    with pytest.raises(Refused, match="older than what was seen"):
        await Thief(old).give(look(world))
    with pytest.raises(Refused, match=r"timestamp.* is expired"):
        await Thief(world.path).give(look(world, now=NOW + days(7.1)))


async def test_metadata_of_two_states_does_not_go_together(world):
    await asyncio.to_thread(world.release, b"two")
    metadata = world.path / "metadata"
    older = await asyncio.to_thread((metadata / "2.digits.stable.json").read_bytes)
    thief = Thief(world.path, {"metadata/3.digits.stable.json": constant(older)})
    with pytest.raises(Refused):
        await thief.give(look(world))


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
async def test_endless_metadata_is_cut(world, name):
    thief = Thief(world.path, {f"metadata/{name}": endless})
    with pytest.raises(CollabError):
        await thief.give(look(world))
    assert thief.sent < 4 << 20


def _target(world):
    data = os.urandom(200_000)
    world.release(data)
    device = world.device()
    release = device.newest("digits", "stable")
    path = f"targets/digits/stable/{release.sha256}.{release.version}.collab"
    return data, device, release, path


@pytest.mark.parametrize(
    ("made", "error"), [(endless, LimitExceeded), (constant(bytes(200_000)), IntegrityError)]
)
async def test_endless_and_other_files_are_refused_and_another_source_gives_the_right_one(world, made, error):
    data, device, release, path = await asyncio.to_thread(_target, world)

    def fetch(source):
        device.source = source
        with pytest.raises(error):
            device.fetch(release)
        device.source = FolderSource(world.path)
        return device.fetch(release).path.read_bytes()

    thief = Thief(world.path, {path: made})
    assert await thief.give(fetch) == data
    assert thief.sent < 2 << 20


async def test_a_node_that_stops_answering_is_left_and_what_it_gave_is_kept(world):
    data, device, release, path = await asyncio.to_thread(_target, world)

    def fetch(source):
        device.source = source
        with pytest.raises(PeerError, match="did not answer"):
            device.fetch(release)
        device.source = FolderSource(world.path)
        return device.fetch(release)

    got = await Thief(world.path, silent={path}).give(fetch)
    assert got.path.read_bytes() == data
    assert 0 < got.received < len(data)


async def test_a_neighbour_that_lies_is_left_for_the_repository(world):
    data, device, release, _ = await asyncio.to_thread(_target, world)

    def fetch(source):
        device.nearby = [source]
        got = device.fetch(release)
        return got.path.read_bytes(), got.received

    # What a repository calls a target, a neighbour knows by its digest.
    assert await Thief(world.path, {release.sha256: constant(bytes(200_000))}).give(fetch) == (
        data,
        2 * len(data),
    )


async def test_a_node_that_denies_everything_is_no_repository(world):
    def deny(request):
        raise NotLoaded("nothing")

    with pytest.raises(CollabError, match="nothing"):
        await Thief(world.path, {"metadata/timestamp.json": deny}).give(look(world))
