"""What is read out of counters and probes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from collab.client.measuring import Sample
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.observing import Carried, LinkProber, StageClock, figures_of, probe_bytes
from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.planner.drift import LinkFigures, LinkKey

KNOWN = (LinkFigures(5.0, 100.0), LinkFigures(5.0, 50.0))


def counters(total_us: int, runs: int, where: str = "net/3/head") -> dict[str, int]:
    return {f"stage_us:{where}": total_us, f"stage_runs:{where}": runs, "late": 9}


def test_stages_are_timed_from_one_look_to_the_next():
    clock = StageClock("net", 3)
    assert clock.take("a", counters(4000, 2)) == {"head": 2.0}
    assert clock.take("a", counters(4000, 2)) == {}
    assert clock.take("a", counters(10_000, 4)) == {"head": 3.0}
    assert clock.take("b", counters(500, 1)) == {"head": 0.5}, "each node has counters of its own"


def test_other_plans_and_epochs_are_none_of_ours():
    clock = StageClock("net", 3)
    assert clock.take("a", counters(4000, 2, "net/33/head") | counters(1, 1, "nets/3/head")) == {}


def test_a_node_that_started_anew_counts_from_the_start():
    clock = StageClock("net", 3)
    clock.take("a", counters(40_000, 20))
    assert clock.take("a", counters(1000, 1)) == {}
    assert clock.take("a", counters(3000, 2)) == {"head": 2.0}


def test_a_quiet_link_has_half_the_round_trip_and_the_rate_of_bodies():
    samples = [Sample(0, 0, 12.0), Sample(0, 0, 10.0), Sample(125_000, 0, 20.0), Sample(0, 125_000, 30.0)]
    there, back = figures_of(samples, KNOWN, Carried(125_100, 125_100, 60.0))
    assert (there.latency_ms, there.mbit_s) == pytest.approx((5.0, 100.0))
    assert (back.latency_ms, back.mbit_s) == pytest.approx((5.0, 50.0))


def test_what_a_plan_sends_meanwhile_counts_for_the_rate():
    samples = [Sample(0, 0, 10.0), Sample(125_000, 0, 110.0)]
    there, _ = figures_of(samples, KNOWN, Carried(1_250_000, 0, 100.0))
    assert there.mbit_s == pytest.approx(100.0), "the probe alone got a tenth of it"


def test_a_round_trip_behind_others_bytes_is_not_taken_for_the_delay():
    samples = [Sample(0, 0, 80.0), Sample(125_000, 0, 110.0), Sample(0, 125_000, 110.0)]
    for carried in (Carried(1_250_000, 125_000, 100.0), Carried(125_000, 1_250_000, 100.0)):
        there, back = figures_of(samples, KNOWN, carried)
        assert there.latency_ms == back.latency_ms == 5.0, "whichever way they go"
    there, back = figures_of(samples, KNOWN, Carried(126_000, 126_000, 200.0))
    assert there.latency_ms == back.latency_ms == 40.0, "on a quiet link it is"


def test_without_samples_everything_stays_as_it_was():
    assert figures_of([], KNOWN) == KNOWN


def test_probes_take_about_the_same_time_on_any_link():
    assert probe_bytes(LinkFigures(1.0, 100.0)) == 312_500
    assert probe_bytes(LinkFigures(1.0, 0.1)) == 8192
    assert probe_bytes(LinkFigures(1.0, 1e5)) == 1 << 20


# --- a probe that does not come back --------------------------------------------------

AB = (NodeName("a"), NodeName("b"), "grpc")
BA = (NodeName("b"), NodeName("a"), "grpc")


class Stuck:
    """A cluster of a and b in which probes never end; time is ``now_s``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.probing = asyncio.Event()
        self.found: list[tuple[LinkKey, LinkFigures]] = []
        self.links = SimpleNamespace(get=lambda name: object())
        refs = {name: NodeRef(name=name) for name in "ab"}
        self.prober = LinkProber(self, refs, None, lambda: [AB], lambda pair: KNOWN, self.add)
        monkeypatch.setattr(
            "collab.coordinator.observing.time", SimpleNamespace(monotonic=lambda: self.now_s)
        )

    def add(self, key: LinkKey, figures: LinkFigures) -> None:
        self.found.append((key, figures))

    def control(self, name: str) -> Stuck:
        return self

    async def status(self) -> pb.StatusReply:
        return pb.StatusReply()

    async def call(self, verb: str, request: pb.ProbePeerRequest, timeout_s: float) -> None:
        assert (verb, request.peer, request.kind) == ("ProbePeer", "b", "grpc")
        self.probing.set()
        await asyncio.Event().wait()

    def look(self, seconds: float, there: tuple[int, int], back: tuple[int, int] = (0, 0)) -> None:
        """Look once more when so many bytes were sent, and have arrived, from a to b and back."""
        self.now_s += seconds
        a = pb.Peer(name="b", kind="grpc", sent_bytes=there[0], received_bytes=back[1])
        b = pb.Peer(name="a", kind="grpc", sent_bytes=back[0], received_bytes=there[1])
        replies: Mapping[str, pb.StatusReply] = {
            "a": pb.StatusReply(peers=[a]),
            "b": pb.StatusReply(peers=[b]),
        }
        self.prober.look(replies)


@pytest.fixture
async def stuck(monkeypatch: pytest.MonkeyPatch):
    made = Stuck(monkeypatch)
    running = asyncio.ensure_future(made.prober.run())
    await asyncio.wait_for(made.probing.wait(), 10)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_link_whose_probe_is_overdue_has_the_rate_at_which_bytes_arrive(stuck: Stuck):
    stuck.look(0.1, (1_100_000, 1_000_000))
    stuck.look(0.5, (1_700_000, 1_625_000))
    assert stuck.found[0] == (AB, LinkFigures(5.0, pytest.approx(10.0)))
    assert stuck.found[1:] == [(BA, LinkFigures(5.0, pytest.approx(5.0)))], "a tenth, as of the other way"


async def test_the_direction_in_which_more_is_under_way_is_judged(stuck: Stuck):
    stuck.look(0.1, (0, 0), (0, 0))
    stuck.look(0.5, (900_000, 900_000), (300_000, 0))
    assert stuck.found == []
    stuck.look(0.5, (2_000_000, 2_000_000), (300_000, 125_000))
    assert stuck.found[0] == (BA, LinkFigures(5.0, pytest.approx(1.0)))


async def test_a_probe_has_the_time_that_some_round_trips_take(stuck: Stuck):
    stuck.look(0.1, (0, 0))
    stuck.look(0.3, (2_000_000, 1_000_000))
    assert stuck.found == []


async def test_where_nothing_arrives_nothing_is_said(stuck: Stuck):
    stuck.look(0.1, (9, 7))
    stuck.look(9.0, (9, 7))
    assert stuck.found == []
