"""Repositories over links where the other end lies, stops or is silent; and what is never given."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.releases import (
    FIRST_PART,
    LEAST_PART,
    MOST_PART,
    LinkReads,
    PartSize,
    by_address,
    by_name,
    is_link,
    nearby,
    open_source,
)
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import NodeName
from collab.errors import InputError, NotLoaded, PeerError, PeerUnreachable, Refused, UsageError
from collab.link.hello import Identity
from collab.link.links import Links
from collab.node.serving import ServeConfig
from collab.transport.inproc import InprocTransport
from collab.updates.fetch.base import NotOffered
from collab.updates.fetch.pace import Limits
from tests.unit.functions import node
from tests.unit.link.ends import Recorder

LIMITS = Limits(answer_s=0.5, window_s=0.5)
BLOB = os.urandom(200_000)


class Giver:
    """A node whose answers a test decides."""

    def __init__(self, answer) -> None:
        self.asked: list[pb.GetReleaseFileRequest] = []
        self.called = asyncio.Event()
        self.answer = answer
        self.hub = InprocTransport()

    async def serve(self, link, body: bytes) -> bytes:
        request = pb.GetReleaseFileRequest.FromString(body)
        self.asked.append(request)
        self.called.set()
        reply = self.answer(request)
        if reply is None:
            await asyncio.sleep(3600)
        return bytes(reply.SerializeToString())

    async def source(self) -> AsyncIterator:
        handler = Recorder(GetReleaseFile=self.serve)
        async with Links(Identity(NodeName("giver"), "node"), {"inproc": self.hub}, handler) as links:
            await links.listen("inproc://giver")
            async with build_cluster(inproc=self.hub) as cluster, LinkReads(cluster.links) as reads:
                self.reads, self.links = reads, links
                yield open_source("inproc://giver#main", LIMITS, reads)


def part(request, total=len(BLOB), data=None):
    if data is None:
        data = BLOB[request.offset : request.offset + request.limit]
    return pb.GetReleaseFileReply(total_bytes=total, data=data)


def read(source, path="targets/x", offset=0, most=1 << 30):
    found = b""
    with source.open(path, offset) as opened:
        for chunk in opened.chunks:
            found += chunk
            if len(found) > most:
                break
    return found


async def told(answer, *arguments, **options):
    giver = Giver(answer)
    async for source in giver.source():
        return await asyncio.to_thread(read, source, *arguments, **options), giver
    raise AssertionError


async def test_parts_grow_while_they_come_quickly_and_the_next_is_under_way():
    found, giver = await told(part)
    assert found == BLOB
    assert [request.offset for request in giver.asked] == [0, FIRST_PART, 5 * FIRST_PART]
    assert {request.repository for request in giver.asked} == {"main"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda request: part(request, data=bytes(request.limit + 1)), "sends more than it was asked for"),
        (lambda request: part(request, data=bytes(request.limit)), "goes on after 200000 bytes"),
        (lambda request: part(request, total=len(BLOB) + request.offset), "has changed while it was read"),
        (lambda request: part(request, data=b"" if request.offset else None), "ends after 16384 of 200000"),
        (lambda request: part(request) if not request.offset else None, "did not answer"),
        (lambda request: None, "did not answer GetReleaseFile within 0.5 s"),
    ],
    ids=["too much", "beyond its end", "changing", "ending", "silent in the middle", "silent"],
)
async def test_a_node_that_misbehaves_is_left_with_one_line(answer, text):
    with pytest.raises(PeerError, match=text):
        await told(answer)


async def test_a_file_that_never_ends_is_read_as_far_as_somebody_wants_it():
    found, giver = await told(lambda request: part(request, 1 << 60, bytes(request.limit)), most=500_000)
    assert 500_000 < len(found) < 600_000
    assert sum(request.limit for request in giver.asked) < 4 << 20


async def test_a_link_that_ends_in_the_middle_is_an_error_and_the_next_reading_dials_again():
    giver = Giver(part)
    first = True

    def broken(request):
        nonlocal first
        if request.offset and first:
            first = False
            for link in giver.links.all():
                link.connection.abort()
        return part(request)

    giver.answer = broken
    async for source in giver.source():
        with pytest.raises(PeerError):
            await asyncio.to_thread(read, source)
        assert await asyncio.to_thread(read, source, "targets/x", 50_000) == BLOB[50_000:]


async def test_closing_ends_who_waits():
    giver = Giver(lambda request: None)
    async for source in giver.source():
        waiting = asyncio.create_task(asyncio.to_thread(read, source))
        await asyncio.wait_for(giver.called.wait(), 20)
        begun = time.monotonic()
        await giver.reads.__aexit__(None, None, None)
        with pytest.raises(PeerError, match="links are being closed"):
            await waiting
        with pytest.raises(PeerError, match="links are being closed"):
            await asyncio.to_thread(read, source)
        assert time.monotonic() - begun < LIMITS.answer_s


async def test_a_loop_that_is_gone_is_an_error_and_not_for_ever():
    giver = Giver(part)
    async for source in giver.source():
        kept = source

    def elsewhere() -> None:
        with pytest.raises(PeerError):
            read(kept)

    await asyncio.to_thread(elsewhere)


async def test_what_the_peer_refuses_stays_a_refusal_and_what_it_lacks_is_not_offered():
    def answer(request):
        raise Refused("no") if request.path == "targets/x" else NotLoaded("not here")

    with pytest.raises(Refused, match="no"):
        await told(answer)
    with pytest.raises(NotOffered, match="not here"):
        await told(answer, "targets/y")


def test_how_much_is_asked_for_follows_the_links_rate():
    size = PartSize()
    size.took(FIRST_PART, 0.001)
    assert size.bytes == 4 * FIRST_PART
    size.took(size.bytes, 4.0)
    assert size.bytes == FIRST_PART
    size.took(size.bytes, 60.0)
    assert size.bytes == LEAST_PART
    for _ in range(9):
        size.took(size.bytes, 0.0)
    assert size.bytes == MOST_PART


@pytest.mark.parametrize(
    ("place", "link"),
    [
        ("grpc://h:1#main", True),
        ("mqtt://h:1/n#main", True),
        ("node:pi/main", True),
        ("http://h", False),
        ("https://h", False),
        ("releases/", False),
        ("C#/x", False),
    ],
)
def test_places_are_told_apart(place, link):
    assert is_link(place) is link


async def test_a_place_that_names_no_repository_or_node_is_refused():
    async with build_cluster(inproc=InprocTransport()) as cluster, LinkReads(cluster.links) as reads:
        for place in ("grpc://h:1", "grpc://h:1#", "node:pi", "node:pi/"):
            with pytest.raises(UsageError, match="name the repository too"):
                open_source(place, LIMITS, reads)
        for place in ("grpc://h:1#../x", "node:../main"):
            with pytest.raises(InputError, match="use 1 to 63 letters"):
                open_source(place, LIMITS, reads)
        lost = nearby(reads, by_name(cluster.links, NodeName("pi")), LIMITS)
        with pytest.raises(PeerUnreachable, match="node 'pi': no link"):
            await asyncio.to_thread(read, lost, "0" * 64)


async def test_nodes_give_what_they_fetched_by_digest_and_nothing_else(tmp_path: Path):
    from hashlib import sha256

    digest = sha256(BLOB).hexdigest()
    for place in ("store/content", "device/blobs", "device/deltas"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "device/blobs" / digest).write_bytes(BLOB)
    (tmp_path / "store/content" / ("1" * 64)).symlink_to(tmp_path / "device/blobs" / digest)
    hub = InprocTransport()
    serve = ServeConfig(nearby=(tmp_path / "store", tmp_path / "device", tmp_path / "gone"))
    async with node("a", hub, tmp_path, serve_releases=serve) as service:
        weights = await service.stages.off_loop(service.stages.store.add, b"weights", ())
        async with build_cluster(inproc=hub) as cluster, LinkReads(cluster.links) as reads:
            source = nearby(reads, by_address(cluster.links, "inproc://a"), LIMITS)
            assert await asyncio.to_thread(read, source, digest) == BLOB
            source = nearby(reads, by_name(cluster.links, NodeName("a")), LIMITS)
            assert await asyncio.to_thread(read, source, digest) == BLOB
            for lacking in ("0" * 64, "1" * 64, weights):
                with pytest.raises(NotOffered, match="is not here"):
                    await asyncio.to_thread(read, source, lacking)
