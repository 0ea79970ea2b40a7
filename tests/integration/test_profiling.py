"""`collab profile` on real nodes: what it measures, keeps, merges and refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from collab.assets import path as asset
from collab.core.profile import Profile
from collab.core.profiles import check, decode_profile
from collab.graph import cuts, read_model
from collab.planner.evaluate import Evaluator
from collab.runtime.litert import LiteRT
from collab.runtime.sample import zero_inputs
from tests.integration.processes import NodeProcess, collab, command, peers, running

pytestmark = [pytest.mark.timeout(120), pytest.mark.timed]

DIGITS = asset("digits.tflite")
QUICK = ("--rounds", 1, "--share", 1)


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nodes a and b; b can be reached over two transports."""
    folder = tmp_path_factory.mktemp("duo")
    nodes = [
        NodeProcess("a", folder),
        NodeProcess("b", folder, "--listen", "127.0.0.1:0,coap+tcp://127.0.0.1:0"),
    ]
    with running(nodes) as started:
        yield started


@pytest.fixture(scope="module")
def measured(duo: list[NodeProcess], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    """A profile of both nodes, and its file."""
    out = tmp_path_factory.mktemp("profile") / "p.json"
    done = collab(
        *("profile", DIGITS, "--peers", peers(duo), "--out", out, "--json", *QUICK),
        *("--codecs", "int8,lz4"),
    )
    profile = decode_profile(out.read_bytes())
    assert decode_profile(done.out.encode()) == profile, "what is printed is what is kept"
    assert f"wrote {out}" in done.err
    return out, profile


def test_nothing_that_was_sent_to_be_timed_stays_on_the_nodes(duo: list[NodeProcess], measured: object):
    listed = collab("nodes", "--peers", peers(duo), "--json").json
    assert [entry["models"] for entry in listed] == [[], []]


def test_the_file_says_what_the_model_is(measured: tuple[Path, Profile]):
    graph, (_, profile) = read_model(DIGITS), measured
    check(profile)
    assert profile.model_sha256 == graph.sha256
    assert [(c.at, c.bytes) for c in profile.cuts] == [(c.at, c.bytes) for c in cuts(graph)]
    assert profile.input_bytes == sum(t.nbytes for t in graph.inputs)
    assert profile.output_bytes == sum(t.nbytes for t in graph.outputs)
    assert profile.operators == tuple(op.name for op in graph.operators)
    assert {t.name for t in profile.tensors if t.output} == {t.name for t in graph.outputs}
    assert profile.measured_at.endswith("+00:00")


def test_every_pair_has_a_link_each_way_by_every_transport_that_they_share(measured: tuple[Path, Profile]):
    _, profile = measured
    assert profile.requester == "@requester"
    found = {(e.source, e.target, e.transport) for e in profile.links}
    ends = ("a", "b", "@requester")
    assert found >= {(x, y, "grpc") for x, y in itertools.permutations(ends, 2)}
    by_coap = {(x, y) for x, y, kind in found if kind == "coap+tcp"}
    assert by_coap == {("a", "b"), ("b", "a"), ("@requester", "b"), ("b", "@requester")}
    for entry in profile.links:
        assert 0 < entry.latency_ms < 1000
        assert 10 < entry.mbit_s <= 1e6
        assert entry.loss == 0
        assert entry.measured_at


def test_predicted_times_of_the_whole_model_are_of_the_right_size(measured: tuple[Path, Profile]):
    _, profile = measured
    stage = LiteRT().load(DIGITS, 1)
    inputs = zero_inputs(stage)
    stage.run(inputs)
    here_ms = _quickest_ms(lambda: stage.run(inputs))
    stage.close()
    costs = Evaluator(profile)
    for device in profile.devices:
        predicted_ms = costs.stage_ms(device, 0, costs.op_count)
        assert here_ms / 4 < predicted_ms < here_ms * 20
        halves_ms = costs.stage_ms(device, 0, 12) + costs.stage_ms(device, 12, costs.op_count)
        assert halves_ms == pytest.approx(predicted_ms + device.stage_ms)


def _quickest_ms(run: Any) -> float:
    import time

    times = []
    for _ in range(20):
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1000)
    return min(times)


def test_devices_tell_their_memory_threads_codecs_and_load(measured: tuple[Path, Profile]):
    _, profile = measured
    graph = read_model(DIGITS)
    for device in profile.devices:
        assert device.memory_bytes > 1 << 28
        assert graph.weight_bytes < sum(device.op_bytes) + device.stage_bytes < 100 << 20
        assert device.stage_bytes > 0
        assert device.stage_ms > 0
        assert device.threads == 1
        assert device.more_threads == ()
        assert {speed.codec for speed in device.codecs} == {"int8", "raw+lz4"}
        assert device.runtime_class.startswith("litert ")
        assert device.load is not None
        assert device.fit_error is not None
    assert {speed.codec for speed in profile.requester_codecs} == {"int8", "raw+lz4"}
    for cut in profile.cuts:
        by_codec = {entry.codec: entry for entry in cut.codecs}
        assert by_codec["int8"].ratio > 2
        assert 0 < by_codec["int8"].error < 0.05
        assert by_codec["raw+lz4"].error == 0
    assert {entry.codec for entry in profile.input_codecs} == {"int8", "raw+lz4"}


def test_measuring_anew_updates_a_file(
    duo: list[NodeProcess], measured: tuple[Path, Profile], tmp_path: Path
):
    old, before = measured
    out = tmp_path / "new.json"
    done = collab(
        *("profile", DIGITS, "--peers", duo[0].place, "--merge", old, "--out", out, *QUICK),
        *("--requester", "a", "--threads", "2,1"),
    )
    after = decode_profile(out.read_bytes())
    assert after.requester == "a"
    assert [device.name for device in after.devices] == ["a", "b"]
    assert after.devices[1] == before.devices[1]
    assert after.devices[0].measured_at >= before.devices[0].measured_at
    assert after.devices[0].threads == 2
    assert [more.threads for more in after.devices[0].more_threads] == [1]
    assert after.devices[0].codecs == before.devices[0].codecs
    assert {end for link in after.links for end in (link.source, link.target)} == {"a", "b"}
    assert not done.out


def test_wrong_options_are_named_before_anything_is_dialled(tmp_path: Path, measured: tuple[Path, Profile]):
    old, _ = measured
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(json.loads(old.read_text()) | {"model_sha256": "0" * 64}))
    broken = tmp_path / "broken.json"
    broken.write_text(old.read_text().replace('"mbit_s": ', '"mbit_s": -', 1))
    out = tmp_path / "p.json"
    for options, code, words in (
        ((), 2, "give --out FILE to keep the profile, or --json"),
        (("--out", out, "--threads", "many"), 2, "--threads 'many'"),
        (("--out", out, "--threads", "0"), 2, "--threads '0'"),
        (("--out", out, "--codecs", "int9"), 2, "--codecs: codec 'int9'"),
        (("--out", out, "--share", "0"), 2, "--share 0"),
        (("--out", out, "--rounds", "0"), 2, "--rounds 0"),
        (("--out", out, "--merge", foreign), 1, f"--merge {foreign}: model_sha256"),
        (("--out", out, "--merge", broken), 1, ".mbit_s: -"),
        (("--out", out, "--merge", tmp_path / "none.json"), 1, "none.json: No such file"),
        (("--out", out, "--peers", "127.0.0.1:1"), 3, "127.0.0.1:1"),
    ):
        done = command("profile", DIGITS, *options)
        assert done.code == code, done
        (line,) = done.errors
        assert words in line
    assert not out.exists()


def test_wrong_names_of_peers_and_transports_are_named(duo: list[NodeProcess], tmp_path: Path):
    arguments = ("profile", DIGITS, "--peers", peers(duo), "--out", tmp_path / "p.json")
    for options, words in (
        (("--requester", "zoe"), "--requester 'zoe': is none of the peers; they are a, b"),
        (("--transports", "pigeon"), "--transports 'pigeon'"),
    ):
        done = command(*arguments, *options)
        assert done.code == 2, done
        assert words in done.errors[0]
