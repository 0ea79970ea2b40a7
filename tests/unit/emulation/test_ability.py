"""Which back end is taken, what netem is told, and what a machine lacks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from collab.emulation.ability import choose_backend, lacking
from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.netem import MOST_PACKETS, Netem, inexpressible, netem_parameters
from collab.emulation.network import Cell, Network, NetworkLink, mesh, multi_cell, star
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.errors import BackendError, ConfigError

WAY = DirectionProfile(delay_ms=10.0, rate_mbit_s=12.0, queue_packets=50, loss=0.01)
PLAIN = LinkProfile(name="plain", up=WAY, down=WAY)


@pytest.mark.parametrize(
    ("wanted", "has_netem", "missing", "backend", "why"),
    [
        ("auto", True, [], "netem", "has netem"),
        ("auto", True, ["nat"], "userspace", "netem cannot do nat"),
        ("auto", False, [], "userspace", "no netem"),
        ("netem", True, [], "netem", "asked for"),
        ("userspace", True, [], "userspace", "asked for"),
    ],
)
def test_netem_is_taken_where_it_is_and_can_do_the_network(wanted, has_netem, missing, backend, why):
    choice = choose_backend(wanted, has_netem, missing)
    assert choice.backend == backend
    assert why in choice.why


@pytest.mark.parametrize(
    ("has_netem", "missing", "said"), [(False, [], "no netem"), (True, ["nat", "x"], "cannot do nat, x")]
)
def test_a_wanted_netem_that_is_not_there_or_cannot_is_refused(has_netem, missing, said):
    with pytest.raises(ConfigError, match=f"backend: .*{said}.*userspace"):
        choose_backend("netem", has_netem, missing)


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ((1000, True, True, True), "unshare --user"),
        ((1000, True, True, False), "user namespaces are not allowed"),
        ((0, False, True, False), "modprobe tun"),
        ((0, True, False, False), "util-linux"),
    ],
)
def test_what_is_missing_is_said_with_the_remedy(machine, said):
    line = lacking(*machine)
    assert line is not None
    assert said in line


def test_root_with_all_of_it_lacks_nothing():
    assert lacking(0, True, True, False) is None


def test_netem_gets_a_profile_in_its_own_units():
    assert netem_parameters(replace(WAY, duplicate=0.5, overhead_bytes=38), 1500) == {
        "delay": 10_000,
        "loss": 1.0,
        "duplicate": 50.0,
        "rate": 1_500_000,
        "packet_overhead": 24,
        # 10 ms at 12 Mbit/s are ten packets of 1500 bytes, which count too.
        "limit": 60,
    }
    assert netem_parameters(DirectionProfile(rate_mbit_s=8.0, queue_bytes=15_000), 1500)["limit"] == 10
    assert netem_parameters(DirectionProfile(), 1500)["limit"] == MOST_PACKETS


@pytest.mark.parametrize(
    ("network", "missing"),
    [
        (star({"a": PLAIN, "b": PLAIN}), []),
        (multi_cell({"n": {"a": PLAIN}, "s": {"b": PLAIN}}, {"n": PLAIN, "s": PLAIN}), []),
        (star({"a": PLAIN, "b": PLAIN}, nat=["a"]), ["nat"]),
        (
            star({"a": PLAIN, "b": PLAIN}, cell=Cell(up_mbit_s=1, down_mbit_s=1)),
            ["cells that share a rate"],
        ),
        (mesh(["a", "b"], {}, PLAIN), ["links from host to host"]),
        (
            Network(("a",), (NetworkLink("a", "x", PLAIN), NetworkLink("a", "y", PLAIN)), ("x", "y")),
            ["hosts with several links"],
        ),
        (
            Network(
                ("a",),
                tuple(NetworkLink(*pair, PLAIN) for pair in (("a", "x"), ("x", "y"), ("y", "z"), ("z", "x"))),
                ("x", "y", "z"),
            ),
            ["rings of junctions"],
        ),
        (
            star({"a": replace(PLAIN, up=replace(WAY, jitter="normal", jitter_ms=1.0, queue="codel"))}),
            ["a – base: up.jitter: normal", "a – base: up.queue: codel"],
        ),
        (
            star({"a": replace(PLAIN, outage_every_s=9.0, outage_ms=1.0, idle_after_ms=1.0)}),
            ["a – base: idle_after_ms", "a – base: outages"],
        ),
        (star({"a": replace(PLAIN, down=replace(WAY, corrupt=0.1))}), ["a – base: down.corrupt"]),
    ],
)
def test_what_netem_cannot_do_is_listed(network, missing):
    assert inexpressible(network) == missing
    if missing:
        with pytest.raises(ConfigError, match="netem cannot do"):
            Netem(network, 1500)


def test_wrong_arguments_of_a_network_are_refused_before_anything_starts():
    network = star({"a": PLAIN})
    with pytest.raises(ConfigError, match="mtu: 100"):
        EmulatedNetwork(network, mtu=100)
    with pytest.raises(ConfigError, match="'b': is not in the network"):
        EmulatedNetwork(network, limits={"b": None})
    broken = replace(PLAIN, up=replace(WAY, rate_mbit_s=-1.0))
    with pytest.raises(ConfigError, match=r"up\.rate_mbit_s"):
        EmulatedNetwork(star({"a": broken}))
    with pytest.raises(BackendError, match="enter it first"):
        EmulatedNetwork(network).counts()
