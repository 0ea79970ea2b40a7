"""Hosts over emulated links: what they measure, what crosses, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from collab.cli.files import write_plan
from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.emulation.ability import machine_lacks, rootless_prefix
from collab.emulation.cgroups import PREFIX, machine_hierarchy
from collab.emulation.devices import Limits
from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.namespaces import CONGESTION_CONTROLS
from collab.emulation.netem import Netem
from collab.emulation.network import Network, mesh, multi_cell, star
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.errors import BackendError, ConfigError
from collab.security.broker import mosquitto_config
from tests.integration.processes import ROOT, NodeProcess, environment, running
from tests.mosquitto import program
from tests.realtime import FIRST
from tests.shaped import Shape, ShapedNetwork

LACKS = machine_lacks()
pytestmark = [
    pytest.mark.skipif(LACKS is not None, reason=f"this machine cannot emulate: {LACKS}"),
    pytest.mark.timeout(120),
    pytest.mark.timed,
]

LATE_MS = 4.0
"""By how much a busy machine may be late with the quickest of many packets."""

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("0.0.0.0", 7000))
    print("ready", flush=True)
    while True:
        s.sendto(*s.recvfrom(2048))
"""

NUMBERED = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 7000))
    s.settimeout(0.3)
    for i in range(200):
        s.send(b"%d" % i)
    try:
        while True:
            print(s.recv(2048).decode())
    except TimeoutError:
        pass
"""

ZEROS = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as s:
    s.sendall(bytes(1_000_000))
"""

ONES = """
import re, socket
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as s:
        got = b"".join(iter(lambda: s.recv(1 << 20), b""))
names, values = re.findall(r"^Tcp: (.*)", open("/proc/self/net/snmp").read(), re.M)
wrong = dict(zip(names.split(), values.split()))["InCsumErrors"]
print(len(got), int.from_bytes(got, "big").bit_count(), wrong, flush=True)
"""

LISTENER = """
import socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("0.0.0.0", 5354))
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton("0.0.0.0")
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    s.settimeout(20)
    print("ready", flush=True)
    print(s.recv(100).decode(), flush=True)
"""

TELL = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(b"hello", ("224.0.0.251", 5354))
"""

SPIN = """
import time
start, busy = time.perf_counter(), time.process_time()
while time.perf_counter() - start < 0.5:
    pass
print((time.process_time() - busy) / (time.perf_counter() - start))
"""


def profile(delay_ms: float, mbit_s: float | None = None, down: Any = None, **more: Any) -> LinkProfile:
    up = DirectionProfile(delay_ms=delay_ms, rate_mbit_s=mbit_s, **more)
    return LinkProfile(name="test", up=up, down=replace(up, **(down or {})))


def python(net: EmulatedNetwork, host: str, code: str, *arguments: str) -> list[str]:
    return [*net.inside(host), sys.executable, "-I", "-S", "-c", code, *arguments]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready, and is killed in the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def ping_ms(net: EmulatedNetwork, source: str, target: str, count: int = 15) -> tuple[float, int]:
    """Least round trip, and how many were answered."""
    command = [*net.inside(source), "ping", "-q", "-c", str(count), "-i", "0.01", "-W", "1"]
    done = subprocess.run([*command, net.address(target)], capture_output=True, text=True, check=False)
    received = int(done.stdout.split(" received")[0].split()[-1])
    least = float(done.stdout.split("mdev = ")[1].split("/")[0]) if received else float("nan")
    return least, received


def iperf_mbit_s(net: EmulatedNetwork, source: str, target: str, seconds: float = 1.0) -> float:
    """TCP's throughput once it has found the rate."""
    with subprocess.Popen(
        [*net.inside(target), *FIRST, "iperf3", "--server", "--one-off", "--forceflush"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            while "listening" not in (line := server.stdout.readline()):
                assert line
            options = ("--time", str(seconds), "--omit", "0.4", "--json")
            report = run(*net.inside(source), *FIRST, "iperf3", "--client", net.address(target), *options)
        finally:
            server.kill()
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_a_ping_takes_the_delays_of_both_hops_and_links_change_meanwhile():
    network = star({"a": profile(5, 100, down={"delay_ms": 3.0}), "b": profile(2), "c": profile(1)})
    with EmulatedNetwork(network, backend="userspace") as net:
        assert net.choice is not None
        assert net.choice.backend == "userspace"
        least, received = ping_ms(net, "a", "b")
        assert 5 + 2 + 2 + 3 <= least <= 12 + LATE_MS
        assert received == 15
        net.restart()
        net.change("base", "b", profile(10))
        assert 28 <= ping_ms(net, "a", "b")[0] <= 28 + LATE_MS
        counts = net.counts()
        assert counts.directions["a → base"].packets == counts.directions["base → b"].copies == 15
        assert counts.delivered == 30
        assert counts.late_p50_us <= counts.late_p99_us <= counts.late_longest_us
        with pytest.raises(ConfigError, match="'a' and 'b' have none"):
            net.change("a", "b", profile(1))
        net.cut("b", "base")
        assert ping_ms(net, "b", "c", 2)[1] == 0
        assert net.counts().directions["b → base"].drops == {"loss": 2}
        net.mend("base", "b")
        assert 22 <= ping_ms(net, "b", "c", 3)[0] <= 22 + LATE_MS


def test_tcp_of_a_host_reacts_to_losses_whatever_the_machine_does():
    with EmulatedNetwork(star({"a": profile(1)})) as net:
        place = "/proc/sys/net/ipv4/tcp_congestion_control"
        done = subprocess.run([*net.inside("a"), "cat", place], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in CONGESTION_CONTROLS


@pytest.mark.parametrize("offload", [True, False], ids=["large", "single"])
def test_tcp_gets_the_rate_of_each_direction(offload):
    link = profile(4, 30, down={"rate_mbit_s": 12.0}, queue_packets=200)
    with EmulatedNetwork(mesh(["a", "b"], {("a", "b"): link}), offload=offload) as net:
        for source, target, mbit_s in (("a", "b", 30), ("b", "a", 12)):
            # Of 1,500 bytes 1,448 are the user's.
            wanted = mbit_s * 1448 / 1500
            found: list[float] = []
            while len(found) < 3 and not (found and 0.92 * wanted < found[-1] < 1.05 * wanted):
                found.append(iperf_mbit_s(net, source, target))
            # The link lets no more through; on a busy machine TCP's two ends may be slower than it.
            assert 0.6 * wanted < max(found) < 1.15 * wanted, found


def test_a_group_reaches_everybody_but_who_is_behind_a_nat():
    cells = {"n": {"a": profile(1), "b": profile(1)}, "s": {"c": profile(1), "d": profile(1)}}
    network = multi_cell(cells, {"n": profile(1), "s": profile(1)}, nat=["d"])
    with EmulatedNetwork(network) as net:
        listen = [python(net, host, LISTENER) for host in "bcd"]
        with started(*listen[0]) as b, started(*listen[1]) as c, started(*listen[2]) as d:
            run(*python(net, "a", TELL))
            assert b.stdout.readline() == c.stdout.readline() == "hello\n"
            assert d.stdout is not None
            assert not select.select([d.stdout], [], [], 0.1)[0]
        assert ping_ms(net, "a", "d", 2)[1] == 0
        least, received = ping_ms(net, "d", "a", 2)
        assert received == 2
        assert 8 <= least <= 8 + LATE_MS


def test_the_same_seed_and_packets_give_the_same_fates():
    network = star({"a": profile(1, loss=0.2), "b": profile(1, duplicate=0.1)})
    seen = []
    with EmulatedNetwork(network, seed=5) as net, started(*python(net, "b", ECHO)):
        for _ in range(2):
            net.restart()
            seen.append(run(*python(net, "a", NUMBERED, net.address("b"))).split())
        net.restart(6)
        seen.append(run(*python(net, "a", NUMBERED, net.address("b"))).split())
    assert seen[0] == seen[1] != seen[2]
    assert 100 < len(set(seen[0])) < 190
    assert len(seen[0]) > len(set(seen[0]))


def test_each_direction_of_a_shaped_link_has_its_own_delay_and_rate_and_changes_by_itself():
    links = {("b", "a"): Shape(10, 100), ("a", "b"): Shape(5, 100), ("c", "a"): Shape(1, 100)}
    with ShapedNetwork(["b", "a", "c"], links) as net:
        assert 15 <= ping_ms(net, "a", "b")[0] <= 15 + LATE_MS
        assert 2 <= ping_ms(net, "a", "c")[0] <= 2 + LATE_MS
        assert ping_ms(net, "b", "c", 1)[1] == 0
        net.shape("b", "a", delay_ms=2)
        assert 7 <= ping_ms(net, "a", "b")[0] <= 7 + LATE_MS
        # 84 bytes at 16 kbit/s are 42 ms.
        net.shape("a", "b", mbit_s=0.016)
        assert ping_ms(net, "b", "a", 1)[0] >= 49
        net.restart()
        net.shape("b", "a", loss=1.0)
        assert ping_ms(net, "b", "a", 2)[1] == 0
        counts = net.counts().directions
        assert counts["b → a"].drops == {"loss": 2}
        assert counts["a → b"].packets == 0


@pytest.mark.parametrize("offload", [True, False], ids=["large", "single"])
def test_a_stream_over_a_link_that_corrupts_comes_whole_with_other_bits_in_it(offload):
    network = mesh(["a", "b"], {("a", "b"): profile(1, 100, corrupt=0.05, down={"corrupt": 0.0})})
    with (
        EmulatedNetwork(network, backend="userspace", offload=offload, seed=3) as net,
        started(*python(net, "b", ONES)) as sink,
    ):
        run(*python(net, "a", ZEROS, net.address("b")))
        size, ones, wrong = map(int, sink.stdout.readline().split())
        corrupted = net.counts().directions["a → b"].corrupted
    assert (size, wrong) == (1_000_000, 0)
    # What was sent again needlessly may have been corrupted too.
    assert 10 <= ones <= corrupted


def answered(net: EmulatedNetwork, folder: Path, *arguments: object) -> Any:
    """A command of the requester's host; its JSON."""
    done = subprocess.run(
        [*net.inside("r"), sys.executable, "-m", "collab", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_every_transport_crosses_a_link_that_loses_and_reorders(tmp_path, digits):
    bad = profile(2, 50, loss=0.01, reorder=0.05, reorder_ms=3.0, duplicate=0.01)
    trust = ("--insecure", "--insecure-network")
    with EmulatedNetwork(star({"r": profile(1), "a": bad, "b": profile(1)}), seed=1) as net:
        here = net.address("r")
        (tmp_path / "mosquitto.conf").write_text("user root\n" + mosquitto_config(host=here, port=1883))
        broker = [*net.inside("r"), program(), "-c", str(tmp_path / "mosquitto.conf")]
        nodes = []
        for name in "ab":
            at = net.address(name)
            places = f"{at}:7070,coap+tcp://{at}:7071,coap+udp://{at}:7072,mqtt://{here}:1883"
            nodes.append(NodeProcess(name, tmp_path, "--listen", places, *trust, wrapper=net.inside(name)))
        given, expected, file = (tmp_path / name for name in ("in.npz", "out.npz", "plan.yaml"))
        few = replace_requests(digits, 4)
        few.write(given, expected)
        with subprocess.Popen(broker, stderr=subprocess.DEVNULL) as process:
            try:
                with running(nodes):
                    plan, _ = digits.chain([6, 12], list("aba"), {n.name: n.endpoint for n in nodes})
                    refs = tuple(
                        NodeRef(name=NodeName(n.name), endpoints=tuple(n.events[0]["endpoints"]))
                        for n in nodes
                    )
                    kinds = ("mqtt", "coap+udp", "coap+tcp", "grpc")
                    edges = tuple(
                        msgspec.structs.replace(edge, transport=kind)
                        for edge, kind in zip(plan.edges, kinds, strict=True)
                    )
                    write_plan(file, plan.replace(nodes=refs, edges=edges))
                    answered(net, tmp_path, "deploy", file, *trust, "--json")
                    report = answered(
                        net, tmp_path, "run", file, "--input", given, "--expect", expected, *trust, "--json"
                    )
            finally:
                process.terminate()
        assert (report["requests"], report["failed"], report["wrong"]) == (4, 0, 0)
        counts = net.counts().directions
        assert counts["a → base"].drops["loss"] > 0
        assert counts["a → base"].bytes > 100_000


def replace_requests(reference: Any, count: int) -> Any:
    """The first few requests of a reference."""
    return type(reference)(
        reference.path, reference.graph, reference.requests[:count], reference.expected[:count]
    )


NEEDS_CGROUPS = pytest.mark.skipif(
    not all(os.access(root, os.W_OK) for root in machine_hierarchy().roots.values())
    or set(machine_hierarchy().roots) != {"cpu", "memory"},
    reason="control groups cannot be made here",
)


def groups_of(process: int) -> list[Path]:
    roots = set(machine_hierarchy().roots.values())
    return [path for root in roots for path in root.glob(f"{PREFIX}-*-{process}-*")]


@NEEDS_CGROUPS
def test_a_host_gets_no_more_than_its_quota_and_its_memory():
    limits = {"a": Limits(cpu=0.25, memory_bytes=64 << 20)}
    with EmulatedNetwork(star({"a": profile(1), "b": profile(1)}), limits=limits) as net:
        assert float(run(*python(net, "a", SPIN))) < 0.35
        large = python(net, "a", "bytearray(200 << 20)")
        assert subprocess.run(large, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
        run(*python(net, "b", "bytearray(200 << 20)"))
        groups = groups_of(net.process_id)
        assert groups
    assert not any(group.exists() for group in groups)


OWNER = """
import subprocess, sys
from collab.emulation.devices import Limits
from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.network import star
from collab.emulation.profile import DirectionProfile, LinkProfile
way = DirectionProfile(delay_ms=1.0)
one = LinkProfile(name="test", up=way, down=way)
limits = {"a": Limits(cpu=0.5)} if sys.argv[1] == "limits" else {}
with EmulatedNetwork(star({"a": one, "b": one}), limits=limits) as net:
    with subprocess.Popen([*net.inside("a"), "sleep", "1000"]) as sleeping:
        ping = [*net.inside("b"), "ping", "-q", "-c", "1", net.address("a")]
        subprocess.run(ping, stdout=subprocess.DEVNULL, check=True)
        print(net.process_id, sleeping.pid, flush=True)
        sys.stdin.read()
"""


def wait_for_end(descriptor: int) -> None:
    # A descriptor of a process becomes readable when it ends.
    assert select.select([descriptor], [], [], 20.0)[0]


def devices() -> Mapping[str, str]:
    """This machine's own."""
    return {path.name: (path / "ifindex").read_text() for path in Path("/sys/class/net").iterdir()}


@pytest.mark.parametrize("limits", [pytest.param("limits", marks=NEEDS_CGROUPS), "no limits"])
def test_nothing_is_left_when_whoever_made_it_is_killed(limits):
    before = devices()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, limits],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as owner:
        keeper, sleeping = (int(word) for word in owner.stdout.readline().split())
        ends = [os.pidfd_open(pid) for pid in (keeper, sleeping)]
        groups = groups_of(keeper)
        assert bool(groups) == (limits == "limits")
        owner.kill()
        try:
            for end in ends:
                wait_for_end(end)
        finally:
            for end in ends:
                os.close(end)
    assert owner.returncode == -signal.SIGKILL
    assert not any(group.exists() for group in groups)
    assert devices() == before


@NEEDS_CGROUPS
def test_a_killed_emulator_is_named_and_its_starter_cleans_up():
    with EmulatedNetwork(star({"a": profile(1)}), limits={"a": Limits(cpu=0.5)}) as net:
        groups = groups_of(net.process_id)
        with subprocess.Popen([*net.inside("a"), "sleep", "1000"]) as sleeping:
            # The shell in front joins the group before it becomes the command.
            os.kill(net.process_id, signal.SIGKILL)
            with pytest.raises(BackendError, match="does not answer; start the network again"):
                net.counts()
            net.__exit__(None, None, None)
            assert sleeping.wait(20) != 0
        assert not any(group.exists() for group in groups)


def test_root_of_a_user_namespace_suffices():
    prefix = rootless_prefix()
    if prefix is None:
        pytest.skip("user namespaces are not allowed here")
    code = OWNER.replace("sys.stdin.read()", "sleeping.kill()")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, "no limits"],
        capture_output=True,
        text=True,
        timeout=30,
        env=environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


class TokenBuckets(Netem):
    """The same cables with a queueing discipline that kernels without netem have too."""

    kind = "tbf"

    def parameters(self, profile: DirectionProfile) -> dict[str, Any]:
        assert profile.rate_mbit_s is not None
        return {"rate": int(profile.rate_mbit_s * 125_000), "burst": 20_000, "latency": "100ms"}


def test_bridges_and_cables_lead_packets_through_a_discipline_for_each_leg():
    network: Network = multi_cell(
        {"n": {"a": profile(0, 10)}, "s": {"b": profile(0, 20)}}, {"n": profile(0, 30), "s": profile(0, 40)}
    )
    before = devices()
    backend = TokenBuckets(network, 1500)
    try:
        place = f"--net=/proc/{os.getpid()}/fd/{backend.namespaces['a']}"
        run("nsenter", place, "ping", "-q", "-c", "3", "-i", "0.01", str(network.outside("b")))
        counts = backend.counts().directions
        assert len(counts) == 8
        assert min(counts[leg].packets for leg in ("a → n", "n → core", "core → s", "s → b")) >= 3
        backend.change("a", "n", profile(0, 1))
        assert "rate 1Mbit" in run("nsenter", place, "tc", "qdisc")
        backend.restart()
        assert backend.counts().delivered < 3
        with pytest.raises(ConfigError, match=r"netem cannot do up\.queue: codel"):
            backend.change("a", "n", profile(0, 1, queue="codel"))
    finally:
        backend.close()
    assert devices() == before
