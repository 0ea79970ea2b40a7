"""Packets meet every link of their way, in the order of time."""

from __future__ import annotations

from math import inf

import pytest

from collab.emulation import forward
from collab.emulation.assembled import AssembledLinks
from collab.emulation.forward import Forwarder
from collab.emulation.network import Cell, Network, mesh, multi_cell, star
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.emulation.segments import HEADER_BYTES
from collab.errors import ConfigError
from tests.unit.emulation.packets import has_right_sums, tcp, udp


def profile(delay_ms: float = 0.0, mbit_s: float | None = None, **more) -> LinkProfile:
    way = DirectionProfile(delay_ms=delay_ms, rate_mbit_s=mbit_s, **more)
    return LinkProfile(name="test", up=way, down=way)


class Rig:
    """A forwarder with what it has delivered: (µs, host, bytes)."""

    def __init__(self, network: Network, seed: int = 1, *, offload: bool = False) -> None:
        self.network = network
        self.header = bytes(HEADER_BYTES if offload else 0)
        self.links = AssembledLinks(network, seed, {})
        self.got: list[tuple[float, str, bytes]] = []
        self.forwarder = Forwarder(
            network, self.links.models(), self.links.fair_cells(), self._deliver, offload=offload
        )

    def _deliver(self, host: int, packet: bytes, due_us: float) -> None:
        self.got.append((due_us, self.network.hosts[host], packet))

    def send(self, source: str, target: str, now_us: float, size: int = 100) -> bytes:
        packet = self.header + udp(self.address(source), self.address(target), (1, 2), bytes(size - 28))
        self.forwarder.take(self.network.hosts.index(source), packet, now_us)
        return packet

    def address(self, host: str) -> str:
        return str(self.network.outside(host)) if host in self.network.hosts else host

    def times(self) -> list[tuple[float, str]]:
        self.forwarder.advance(1e12)
        return [(round(at, 3), host) for at, host, _ in self.got]


def test_delays_and_serialisation_of_all_links_add_up():
    rig = Rig(star({"a": profile(1.0, 8.0), "b": profile(2.0, 4.0)}))
    packet = rig.send("a", "b", 1000.0)
    # 100 bytes take 100 µs at 8 Mbit/s and 200 µs at 4 Mbit/s.
    assert rig.times() == [(1000 + 100 + 1000 + 200 + 2000, "b")]
    assert rig.got[0][2] == packet
    assert rig.forwarder.due_us == inf


def test_nothing_arrives_before_it_is_due():
    rig = Rig(star({"a": profile(1.0), "b": profile(2.0)}))
    rig.send("a", "b", 0.0)
    assert rig.forwarder.due_us == 1000.0
    rig.forwarder.advance(2999.0)
    assert rig.got == []
    assert rig.forwarder.due_us == 3000.0
    rig.forwarder.advance(3000.0)
    assert len(rig.got) == 1


def test_a_backhaul_is_one_bottleneck_for_all_of_its_cell():
    network = multi_cell(
        {"n": {"a": profile(), "b": profile()}, "s": {"c": profile()}},
        {"n": profile(0.0, 8.0), "s": profile()},
    )
    rig = Rig(network)
    rig.send("a", "c", 0.0)
    rig.send("b", "c", 0.0)
    rig.send("a", "b", 0.0)
    assert rig.times() == [(0.0, "b"), (100.0, "c"), (200.0, "c")]


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("share", ["fair", "fifo"])
def test_hosts_of_a_cell_share_its_rate(share, offload):
    access = {"a": profile(1.0, 1000.0), "b": profile(0.0, 1000.0), "c": profile()}
    rig = Rig(star(access, cell=Cell(up_mbit_s=120.0, down_mbit_s=1e5, share=share)), offload=offload)
    for _ in range(20):
        if not offload:
            rig.send("a", "c", 0.0, 1500)
        rig.send("b", "c", 0.0, 1500)
        rig.send("b", "c", 0.0, 1500)
    if offload:
        # Twenty segments of 1,460 bytes with headers of 40.
        large = tcp(rig.address("a"), rig.address("c"), bytes(20 * 1460), segment_bytes=1460)
        rig.forwarder.take(0, large, 0.0)
    # 60 packets of 1,500 bytes take 6 ms, and what a sends takes one more on its way.
    arrived = rig.times()
    assert max(at for at, _ in arrived) == pytest.approx(6000 if share == "fair" else 7000, rel=0.05)
    assert rig.forwarder.due_us == inf
    assert rig.forwarder.counts["a → base"].copies == 20


def test_a_group_is_reached_over_each_link_once():
    network = multi_cell(
        {"n": {"a": profile(1.0), "b": profile(2.0)}, "s": {"c": profile(4.0), "d": profile(8.0)}},
        {"n": profile(16.0), "s": profile(32.0)},
    )
    rig = Rig(network)
    rig.send("a", "224.0.0.251", 0.0)
    assert rig.times() == [(3000.0, "b"), (1000.0 * (1 + 48 + 4), "c"), (1000.0 * (1 + 48 + 8), "d")]
    counts = rig.forwarder.counts
    assert counts["a → n"].packets == counts["n → core"].packets == counts["core → s"].packets == 1
    assert counts["n → a"].packets == 0


def test_the_broadcast_address_reaches_those_that_have_a_way():
    rig = Rig(mesh(["a", "b", "c"], {("a", "b"): profile(), ("b", "c"): profile()}))
    rig.send("a", "10.77.255.255", 0.0)
    rig.send("b", "255.255.255.255", 0.0)
    assert sorted(host for _, host in rig.times()) == ["a", "b", "c"]


def test_what_leads_nowhere_is_stray():
    rig = Rig(mesh(["a", "b", "c"], {("a", "b"): profile(), ("b", "c"): profile()}))
    rig.send("a", "c", 0.0)
    rig.send("a", "8.8.8.8", 0.0)
    assert rig.times() == []
    assert rig.forwarder.stray == 2


@pytest.mark.parametrize("packet", [b"", b"E", b"\x60" + bytes(60)])
def test_what_is_no_ipv4_is_ignored(packet):
    rig = Rig(star({"a": profile(), "b": profile()}))
    rig.forwarder.take(0, packet, 0.0)
    assert rig.times() == []
    assert rig.forwarder.stray == 0


def test_a_nat_lets_answers_in_and_groups_neither_out_nor_in():
    rig = Rig(star({"a": profile(), "b": profile(), "c": profile()}, nat=["a"]))
    rig.send("b", "a", 0.0)
    assert rig.times() == []
    inside = udp("10.78.0.1", rig.address("b"), (5, 6))
    rig.forwarder.take(0, inside, 1.0)
    rig.forwarder.take(1, udp(rig.address("b"), rig.address("a"), (6, 5)), 2.0)
    rig.send("b", "224.0.0.251", 3.0)
    rig.forwarder.take(0, udp("10.78.0.1", "224.0.0.251", (5, 6)), 4.0)
    assert rig.times() == [(1.0, "b"), (2.0, "a"), (3.0, "c")]
    assert rig.got[0][2] == udp(rig.address("a"), rig.address("b"), (5, 6))
    assert rig.got[1][2] == udp(rig.address("b"), "10.78.0.1", (6, 5))
    assert rig.forwarder.refused_by_nat == 1


def fates(seed: int) -> list[tuple[float, str]]:
    lossy = profile(5.0, 50.0, jitter="normal", jitter_ms=1.0, loss=0.2, duplicate=0.1)
    rig = Rig(star({"a": lossy, "b": lossy}), seed)
    for i in range(200):
        rig.send("ab"[i % 2], "ba"[i % 2], 100.0 * i)
    return rig.times()


def test_the_same_seed_gives_the_same_fates_and_another_does_not():
    assert fates(7) == fates(7)
    assert fates(7) != fates(8)
    assert 200 * 0.3 < len(fates(7)) < 200 * 0.95


@pytest.mark.parametrize("share", ["fair", "fifo", None])
def test_corrupted_packets_have_one_other_bit_and_are_counted_where_it_was_turned(share):
    cell = Cell(up_mbit_s=100.0, down_mbit_s=100.0, share=share) if share else None

    def carried(seed: int) -> tuple[Rig, list[bytes]]:
        rig = Rig(star({"a": profile(corrupt=0.1), "b": profile()}, cell=cell), seed)
        sent = [rig.send("a", "b", 1000.0 * i) for i in range(300)]
        rig.times()
        got = [packet for _, _, packet in rig.got]
        assert all(map(has_right_sums, got))
        turned = [different_bits(one[28:], other[28:]) for one, other in zip(sent, got, strict=True)]
        counts = rig.forwarder.counts
        assert sum(turned) == turned.count(1) == counts["a → base"].corrupted
        assert counts["base → b"].corrupted == 0
        return rig, got

    rig, got = carried(1)
    assert 15 <= rig.forwarder.counts["a → base"].corrupted <= 50
    assert carried(1)[1] == got != carried(2)[1]


def test_both_copies_of_a_packet_are_corrupted_alike():
    rig = Rig(mesh(["a", "b"], {("a", "b"): profile(corrupt=1.0, duplicate=1.0)}))
    sent = rig.send("a", "b", 0.0)
    rig.times()
    (_, _, first), (_, _, second) = rig.got
    assert first == second != sent
    assert rig.forwarder.counts["a → b"].corrupted == 1


@pytest.mark.parametrize("share", ["fair", None])
def test_segments_of_a_large_packet_are_corrupted_one_by_one_and_travel_on_together(share):
    cell = Cell(up_mbit_s=1000.0, down_mbit_s=1000.0, share=share) if share else None
    network = star({"a": profile(corrupt=0.3), "b": profile()}, cell=cell)
    rig = Rig(network, offload=True)
    rig.forwarder.take(0, tcp(rig.address("a"), rig.address("b"), bytes(4000), segment_bytes=100), 0.0)
    rig.times()
    packets = [packet[HEADER_BYTES:] for _, _, packet in rig.got]
    assert all(has_right_sums(packet, partial=True) for packet in packets)
    assert len(packets) == (40 if share else 1)
    data = b"".join(packet[40:] for packet in packets)
    segments = [data[at : at + 100] for at in range(0, 4000, 100)]
    turned = [different_bits(segment, bytes(100)) for segment in segments]
    assert len(data) == 4000
    assert set(turned) == {0, 1}
    assert sum(turned) == rig.forwarder.counts["a → base"].corrupted


def different_bits(one: bytes, other: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


def test_counters_say_what_became_of_each_packet():
    full = profile(0.0, 8.0, queue_packets=3)
    rig = Rig(star({"a": full, "b": profile()}))
    for _ in range(5):
        rig.send("a", "b", 0.0)
    rig.times()
    counts = rig.forwarder.counts["a → base"]
    assert (counts.packets, counts.bytes, counts.copies, counts.drops) == (5, 500, 3, {"queue": 2})
    assert counts.dropped == 2
    assert rig.forwarder.counts["base → b"].packets == 3


def test_a_changed_link_holds_for_what_comes_and_lets_nothing_overtake():
    rig = Rig(star({"a": profile(50.0), "b": profile()}))
    rig.send("a", "b", 0.0)
    rig.links.change("base", "a", profile(1.0))
    for leg, model in rig.links.models().items():
        rig.forwarder.replace(leg, model)
    rig.send("a", "b", 1000.0)
    rig.send("a", "b", 100_000.0)
    assert rig.times() == [(50_000.0, "b"), (50_000.0, "b"), (101_000.0, "b")]
    with pytest.raises(ConfigError, match="'a' and 'b' have none"):
        rig.links.change("a", "b", profile())


def test_no_more_than_a_bounded_number_of_packets_is_held(monkeypatch):
    monkeypatch.setattr(forward, "MAX_HELD", 3)
    rig = Rig(star({"a": profile(1000.0), "b": profile()}))
    for _ in range(5):
        rig.send("a", "b", 0.0)
    assert len(rig.times()) == 3
    assert rig.forwarder.given_up == 2


def test_the_segments_of_a_large_packet_are_counted_and_lost_one_by_one():
    network = star({"a": profile(0.0, 11.2, queue_packets=3), "b": profile()})
    rig = Rig(network, offload=True)
    rig.forwarder.take(0, tcp(rig.address("a"), rig.address("b"), bytes(500), segment_bytes=100), 0.0)
    # 140 bytes take 100 µs, the queue holds three, and those travel on together.
    assert rig.times() == [(300.0, "b")]
    counts = rig.forwarder.counts
    assert (counts["a → base"].packets, counts["a → base"].bytes) == (5, 700)
    assert counts["a → base"].drops == {"queue": 2}
    assert counts["base → b"].packets == 3
    assert sum(len(packet) - 50 for _, _, packet in rig.got) == 300
