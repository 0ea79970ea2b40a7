"""The measuring verbs of a node, with stages that are functions and links within one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import NodeName
from collab.errors import CollabError, InputError, LimitExceeded, PeerUnreachable, StoreError
from collab.transport.inproc import InprocTransport
from tests.unit.functions import coordinator, data, digest, node

A, B = NodeName("a"), NodeName("b")


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    """Node a, which holds a stage; node b is there, too."""
    hub = InprocTransport()
    async with node("a", hub, tmp_path), node("b", hub, tmp_path), coordinator(hub) as cluster:
        await cluster.reach(["inproc://a", "inproc://b"])
        made = cluster.control(A)
        await made.put_blob(digest(0), data(0))
        yield made


async def test_runs_are_timed_as_often_as_asked(control: Control):
    reply = await control.profile(pb.ProfileRequest(sha256=digest(0), runs=7, threads=1))
    assert len(reply.run_ms) == len(reply.cpu_ms) == 7
    assert all(ms >= 0 for ms in (*reply.run_ms, *reply.cpu_ms))
    assert reply.load >= 0
    assert reply.in_flight == 0
    assert not reply.hand_over_ms


async def test_no_run_begins_after_the_budget(control: Control):
    request = pb.ProfileRequest(sha256=digest(0), runs=1000, threads=1, budget_ms=1e-6)
    assert len((await control.profile(request)).run_ms) == 1


async def test_hand_overs_are_timed_through_a_worker(control: Control):
    request = pb.ProfileRequest(sha256=digest(0), runs=5, threads=1, hand_over=True)
    times = (await control.profile(request)).hand_over_ms
    assert len(times) == 5
    assert all(0 < ms < 10_000 for ms in times)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"runs": 0}, LimitExceeded, "Profile.runs: 0"),
        ({"runs": 1001}, LimitExceeded, "Profile.runs: 1001"),
        ({"threads": 257}, LimitExceeded, "Profile.threads: 257"),
        ({"budget_ms": 1e9}, LimitExceeded, "Profile.budget_ms"),
        ({"budget_ms": float("nan")}, LimitExceeded, "Profile.budget_ms"),
        ({"share": 0.001}, InputError, "share"),
        ({"share": float("nan")}, InputError, "share"),
        ({"sha256": "../x"}, InputError, "Profile.sha256"),
        ({"sha256": digest(1)}, StoreError, "not in the store"),
    ],
)
async def test_a_profile_out_of_bounds_is_refused(control: Control, change: Any, error: Any, words: str):
    fields: dict[str, Any] = {"sha256": digest(0), "runs": 1, "threads": 1}
    with pytest.raises(error, match=words):
        await control.profile(pb.ProfileRequest(**fields | change))


def codecs_request(**change: Any) -> pb.ProfileCodecsRequest:
    array = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    tensor = pb.SampleTensor(shape=array.shape, dtype="float32", data=array.tobytes())
    fields: dict[str, Any] = {"codecs": ["int8", "lz4"], "tensors": [tensor], "budget_ms": 2.0}
    return pb.ProfileCodecsRequest(**fields | change)


async def test_codecs_are_timed_by_their_full_names(control: Control):
    speeds = await control.profile_codecs(codecs_request())
    assert [speed.codec for speed in speeds] == ["int8", "raw+lz4"]
    assert all(speed.encode_mb_s > 0 and speed.decode_mb_s > 0 for speed in speeds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codecs": []}, "ProfileCodecs.codecs: 0"),
        ({"codecs": ["lz4"] * 17}, "ProfileCodecs.codecs: 17"),
        ({"codecs": ["int9"]}, "int9"),
        ({"tensors": []}, "ProfileCodecs.tensors: 0"),
        ({"tensors": [pb.SampleTensor(shape=[9], dtype="float32", data=b"1234")]}, "4 bytes where"),
        ({"tensors": [pb.SampleTensor(shape=[1], dtype="object", data=b"1234")]}, "object"),
        ({"tensors": [pb.SampleTensor(shape=[1 << 40, 0], dtype="int8", data=b"1")]}, "a dimension is over"),
        ({"tensors": [pb.SampleTensor(shape=[9 << 20], dtype="int8", data=bytes(9 << 20))]}, "9437184"),
        ({"budget_ms": -1.0}, "ProfileCodecs.budget_ms"),
    ],
)
async def test_codecs_on_what_is_no_tensor_are_refused(control: Control, change: Any, words: str):
    with pytest.raises(CollabError, match=words):
        await control.profile_codecs(codecs_request(**change))


def peer_request(**change: Any) -> pb.ProbePeerRequest:
    fields: dict[str, Any] = {
        "peer": "b",
        "endpoints": ["inproc://b"],
        "kind": "inproc",
        "sizes": [10, 1000],
        "rounds": 2,
    }
    return pb.ProbePeerRequest(**fields | change)


async def test_a_node_probes_another_one_and_lets_go_of_the_link_it_dialled(tmp_path: Path):
    hub = InprocTransport()
    async with node("a", hub, tmp_path) as a, node("b", hub, tmp_path), coordinator(hub) as cluster:
        await cluster.reach(["inproc://a"])
        found = await cluster.control(A).probe_peer(peer_request())
        sizes = {(s.up_bytes, s.down_bytes) for s in found.samples}
        assert sizes == {(0, 0), (10, 0), (0, 10), (1000, 0), (0, 1000)}
        assert all(s.ms > 0 for s in found.samples)
        assert found.lost == 0
        assert a.links.get(B) is None


async def test_a_link_that_is_there_is_used_and_kept(tmp_path: Path):
    hub = InprocTransport()
    async with node("a", hub, tmp_path) as a, node("b", hub, tmp_path) as b, coordinator(hub) as cluster:
        await cluster.reach(["inproc://a"])
        link = await b.links.connect("inproc://a")
        await a.links.wait_for(B)
        await cluster.control(A).probe_peer(peer_request(endpoints=[]))
        assert link.ended is None


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"peer": "a"}, InputError, "is the node itself"),
        ({"peer": "../b"}, InputError, "ProbePeer.peer"),
        ({"sizes": []}, LimitExceeded, "ProbePeer.sizes: 0"),
        ({"sizes": [1 << 40]}, LimitExceeded, "ProbePeer.sizes"),
        ({"rounds": 0}, LimitExceeded, "ProbePeer.rounds"),
        ({"rounds": 101}, LimitExceeded, "ProbePeer.rounds"),
        ({"endpoints": ["inproc://b"] * 17}, LimitExceeded, "ProbePeer.endpoints"),
        ({"endpoints": []}, PeerUnreachable, "no address to dial"),
        ({"kind": "grpc"}, PeerUnreachable, "no address to dial"),
        ({"endpoints": ["inproc://nobody"]}, PeerUnreachable, "nobody"),
    ],
)
async def test_a_probe_out_of_bounds_is_refused(control: Control, change: Any, error: Any, words: str):
    with pytest.raises(error, match=words):
        await control.probe_peer(peer_request(**change))


async def test_only_operators_may_measure(tmp_path: Path):
    hub = InprocTransport()
    async with node("a", hub, tmp_path), node("b", hub, tmp_path) as b:
        link = Control(await b.links.connect("inproc://a"))
        for request in (link.profile(pb.ProfileRequest()), link.probe_peer(pb.ProbePeerRequest())):
            with pytest.raises(CollabError, match="only operator may call it"):
                await request


async def test_a_probe_says_what_copying_took_only_where_it_was_asked(control: Control):
    plain = await control.call("Probe", pb.ProbeRequest(body=bytes(1000)))
    timed = await control.call("Probe", pb.ProbeRequest(body=bytes(1 << 20), reply_bytes=1 << 20, timed=True))
    assert plain.handling_us == 0
    assert timed.handling_us > 0
    assert len(timed.body) == timed.received_bytes == 1 << 20
