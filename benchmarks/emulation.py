"""How true emulated links are, by ping and iperf3: delays, jitter, rates, losses, and where they end.

Everything crosses the userspace back end, TUN devices between namespaces; a host's links lead
over a base station, so each packet meets two links.  The yardstick is what the profile says.
Differences are shares of what is allowed: 1 is the limit.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.figures import Figure, run
from collab.emulation.ability import machine_lacks
from collab.emulation.build import build_rate, shape_of
from collab.emulation.counters import EmulatorCounts
from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.expected import expected
from collab.emulation.network import star
from collab.emulation.overload import HostTimes, overloaded
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.emulation.profiles import profile_named
from tests.realtime import FIRST

ALLOWED_MS, ALLOWED_SHARE = 0.5, 0.03
"""A round trip may be off by the greater of the two."""
NAMED = (
    "ethernet",
    "wifi6",
    "5g-urllc",
    "5g-mmwave",
    "5g-sa-midband",
    "5g-nsa-lowband",
    "lte",
    "5g-sa-lowband",
)
RANKS = 500
"""Of a distribution, for sums of two."""
JITTER_LINKS = 5
RATES = (10.0, 100.0, 300.0)
USER_SHARE = 1448 / 1500
"""What TCP over IPv4 with time stamps leaves of an MTU of 1,500 bytes."""
CONFIDENT = statistics.NormalDist().inv_cdf(0.995)
"""Half the width of a 99 % interval in standard errors."""

NICE = ("nice", "-n", "-10")
"""Two tools and the emulator at their ceiling would leave nothing to others."""

NUMBERED = """
import select, socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    if len(sys.argv) == 1:
        # So much room (SO_RCVBUFFORCE) that what is lost was lost on the way.
        s.setsockopt(socket.SOL_SOCKET, 33, 1 << 28)
        s.bind(("0.0.0.0", 7000))
        print("ready", flush=True)
        got, ears = [], [s, sys.stdin]
        while ready := select.select(ears, [], [], 20.0 if sys.stdin in ears else 0.5)[0]:
            if s in ready:
                got.append(s.recv(64).decode())
            else:
                ears.remove(sys.stdin)  # all were sent
        print(",".join(got))
    else:
        for i in range(int(sys.argv[2])):
            s.sendto(b"%d" % i, (sys.argv[1], 7000))
            if i % 50 == 49:
                time.sleep(0.005)
"""


@dataclass(frozen=True)
class Seen:
    """What one measurement has, and how the emulator and the machine did meanwhile."""

    counts: EmulatorCounts
    flags: Sequence[str]

    @property
    def how(self) -> str:
        """For the figures."""
        late = (
            f"emulator late by {self.counts.late_p50_us:.0f} µs (p50), {self.counts.late_p99_us:.0f} µs (p99)"
        )
        return f"{late}, {self.counts.busy:.0%} of a core" + "".join(f"; FLAGGED: {f}" for f in self.flags)


class Watched:
    """A network whose counters, and the machine's, are read around each measurement."""

    def __init__(self, net: EmulatedNetwork) -> None:
        self.net = net
        self._before = HostTimes.now()

    def begin(self) -> None:
        """Count from 0."""
        self.net.restart()
        self._before = HostTimes.now()

    def end(self) -> Seen:
        """What there was since."""
        counts = self.net.counts()
        return Seen(counts, overloaded(counts, self._before, HostTimes.now()))


def symmetric(direction: DirectionProfile) -> LinkProfile:
    """A link that is alike both ways."""
    return LinkProfile(name="benchmark", up=direction, down=direction)


NOTHING = symmetric(DirectionProfile())
PLAIN = DirectionProfile(queue_packets=1000)


def say(what: str) -> None:
    """Progress, for people."""
    print(what, file=sys.stderr)


def pings_ms(net: EmulatedNetwork, source: str, target: str, count: int, every_s: float) -> list[float]:
    """Round trips by ping."""
    command = [*net.inside(source), *FIRST, "ping", "-c", str(count), "-i", f"{every_s:g}", "-W", "2"]
    done = subprocess.run([*command, net.address(target)], capture_output=True, text=True, check=False)
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", done.stdout)]


def iperf(
    net: EmulatedNetwork, source: str, target: str, seconds: float, *options: str, first: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What iperf3 sums up at the end of a run."""
    with subprocess.Popen(
        [*net.inside(target), *first, "iperf3", "--server", "--one-off", "--forceflush"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        while "listening" not in (line := server.stdout.readline()):
            if not line:
                raise RuntimeError("iperf3 --server did not start")
        asked = ("--client", net.address(target), "--time", f"{seconds:g}", "--json", *options)
        done = subprocess.run(
            [*net.inside(source), *first, "iperf3", *asked], capture_output=True, text=True, check=False
        )
        server.kill()
    if done.returncode:
        raise RuntimeError(f"iperf3: {done.stdout[-500:]} {done.stderr[-500:]}")
    end: dict[str, dict[str, float]] = json.loads(done.stdout)["end"]
    return end


def tcp_mbit_s(
    net: EmulatedNetwork, source: str, target: str, seconds: float, first: Sequence[str] = FIRST
) -> float:
    """TCP's throughput once it has found the rate."""
    omitted = f"{min(1.0, seconds / 4):g}"
    end = iperf(net, source, target, seconds, "--omit", omitted, first=first)
    return end["sum_received"]["bits_per_second"] / 1e6


def datagrams(net: EmulatedNetwork, source: str, target: str, count: int) -> list[int]:
    """Numbered ones that have come, in their order."""
    python = (*FIRST, sys.executable, "-I", "-S", "-c", NUMBERED)
    with subprocess.Popen(
        [*net.inside(target), *python], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as listening:
        assert listening.stdin is not None
        assert listening.stdout is not None
        listening.stdout.readline()
        subprocess.run([*net.inside(source), *python, net.address(target), str(count)], check=True)
        listening.stdin.close()
        return [int(word) for word in listening.stdout.read().split(",")]


def round_trip_ms(profile: LinkProfile, shares: Sequence[float]) -> list[float]:
    """Quantiles of the round trip of a ping's 84 bytes: of all sums of a delay up and one down."""
    up, down = (
        [shape_of(way)((i + 0.5) / RANKS) / 1000 for i in range(RANKS if way.jitter != "none" else 1)]
        for way in (profile.up, profile.down)
    )
    sums = sorted(there + back for there in up for back in down)
    bits = sum(
        (84 + way.overhead_bytes) * 8 / (build_rate(way).mean_mbit_s * 1000)
        for way in (profile.up, profile.down)
    )
    return [sums[min(int(share * len(sums)), len(sums) - 1)] + bits for share in shares]


def round_trips(count: int) -> list[Figure]:
    """Constant delays and named profiles, all hosts at once, from a host without delay."""
    profiles = {f"{ms:g} ms each way": symmetric(DirectionProfile(delay_ms=ms)) for ms in (0.25, 2, 10, 50)}
    profiles |= {name: profile_named(name) for name in NAMED}
    figures = []
    with EmulatedNetwork(star({"here": NOTHING, **profiles}), backend="userspace", seed=1) as net:
        watched = Watched(net)
        watched.begin()
        say(f"{count} pings to each of {len(profiles)} hosts")
        with ThreadPoolExecutor(len(profiles)) as pool:
            each = [pool.submit(pings_ms, net, "here", name, count, 0.04) for name in profiles]
            found = dict(zip(profiles, (future.result() for future in each), strict=True))
        seen = watched.end()
    # What chance does to a median: delays of named profiles are drawn, and neighbours are a little alike.
    chance = CONFIDENT * 0.5 / math.sqrt(0.75 * count)
    for name, profile in profiles.items():
        low, wanted, high = round_trip_ms(profile, (0.5 - chance, 0.5, 0.5 + chance))
        measured = statistics.median(found[name])
        off = max(low - measured, measured - high, 0.0) / max(ALLOWED_MS, ALLOWED_SHARE * wanted)
        how = f"median of {len(found[name])} pings {measured:.3f} ms, by chance {low:.3f} to {high:.3f}; "
        how += seen.how
        figures.append(Figure(f"round trip, {name}: difference", off, "of allowed", "<= 1", wanted, how))
    return figures


def jitter(count: int) -> list[Figure]:
    """Quantiles of the delay around its median, by distribution; several links of each kind."""
    base = DirectionProfile(delay_ms=20.0)
    kinds = {
        "normal": DirectionProfile(delay_ms=20.0, jitter="normal", jitter_ms=3.0),
        "pareto": DirectionProfile(delay_ms=15.0, jitter="pareto", jitter_ms=3.0),
        "quantiles": DirectionProfile(
            delay_ms=15.0,
            jitter="quantiles",
            jitter_quantiles_ms=((0, 0), (0.1, 1), (0.5, 4), (0.9, 9), (0.99, 12), (1, 14)),
        ),
    }
    hosts = {
        f"{name} {i}": LinkProfile(name=name, up=way, down=base)
        for name, way in kinds.items()
        for i in range(JITTER_LINKS)
    }
    figures = []
    with EmulatedNetwork(star({"here": NOTHING, **hosts}), backend="userspace", seed=2) as net:
        watched = Watched(net)
        watched.begin()
        say(f"{count} pings over each of {len(hosts)} links with jitter")
        with ThreadPoolExecutor(len(hosts)) as pool:
            each = [pool.submit(pings_ms, net, "here", name, count, 0.015) for name in hosts]
            found = dict(zip(hosts, (future.result() for future in each), strict=True))
        seen = watched.end()
    for name, way in kinds.items():
        times = [ms for host in hosts if host.startswith(name) for ms in found[host]]
        wanted = expected(hosts[f"{name} 0"], way, (0.1, 0.25, 0.5, 0.75, 0.9)).delay_ms
        cut = statistics.quantiles(times, n=20)
        measured = {0.1: cut[1], 0.25: cut[4], 0.5: cut[9], 0.75: cut[14], 0.9: cut[17]}
        # Pareto's lower side is steep: 10 % of next to nothing is below what a clock shows.
        off = {
            share: abs((measured[share] - measured[0.5]) / (wanted[share] - wanted[0.5]) - 1)
            for share in ((0.75, 0.9) if name == "pareto" else (0.1, 0.25, 0.75, 0.9))
        }
        worst = max(off, key=lambda share: off[share])
        how = f"worst of quantiles to the median, at {worst:g}, of {len(times)} pings; {seen.how}"
        figures.append(Figure(f"jitter, {name}: difference", off[worst], "", "<= 0.1", None, how))
    return figures


def throughput(seconds: float) -> list[Figure]:
    """TCP at rates of the access link, hosts sending large packets or not."""
    figures = []
    for offload in (True, False):
        kind = "large packets" if offload else "single packets"
        profiles = {
            f"{rate:g}": symmetric(
                DirectionProfile(rate_mbit_s=rate, delay_ms=2.0, queue_bytes=max(30_000, int(rate * 2000)))
            )
            for rate in RATES
        }
        network = star({"here": NOTHING, **profiles})
        with EmulatedNetwork(network, backend="userspace", offload=offload) as net:
            watched = Watched(net)
            for rate in RATES:
                say(f"TCP at {rate:g} Mbit/s, {kind}")
                watched.begin()
                measured = tcp_mbit_s(net, f"{rate:g}", "here", seconds)
                seen = watched.end()
                wanted = rate * USER_SHARE
                how = f"iperf3 {measured:.1f} Mbit/s; {seen.how}"
                name = f"TCP at {rate:g} Mbit/s, {kind}: difference"
                figures.append(Figure(name, abs(measured / wanted - 1), "", "<= 0.05", wanted, how))
                if rate == RATES[-1]:
                    name = f"emulator's lateness at {rate:g} Mbit/s, {kind}, p99"
                    late_ms = seen.counts.late_p99_us / 1000
                    figures.append(Figure(name, late_ms, "ms", "<= 0.5", None, seen.how))
    return figures


def ceilings(seconds: float) -> list[Figure]:
    """TCP where no link has a rate: what the back end can carry over two links."""
    figures = []
    for name, mtu, offload in (
        ("large packets, MTU 1500", 1500, True),
        ("single packets, MTU 1500", 1500, False),
        ("large packets, MTU 9000", 9000, True),
    ):
        say(f"ceiling with {name}")
        network = star({"a": NOTHING, "b": NOTHING})
        with EmulatedNetwork(network, backend="userspace", offload=offload, mtu=mtu) as net:
            watched = Watched(net)
            watched.begin()
            measured = tcp_mbit_s(net, "a", "b", seconds, first=NICE)
            seen = watched.end()
        packets = sum(counts.packets for counts in seen.counts.directions.values())
        how = f"{packets / seen.counts.elapsed_s / 1000:.0f} thousand packets on links a second; {seen.how}"
        target = ">= 300" if mtu == 1500 else ""
        figures.append(Figure(f"ceiling, {name}", measured, "Mbit/s", target, None, how))
    return figures


def losses(count: int) -> list[Figure]:
    """Shares of datagrams that are gone, in standard errors from the profile's."""
    ways = {
        "1 %": DirectionProfile(delay_ms=1.0, loss=0.01),
        "10 %": DirectionProfile(delay_ms=1.0, loss=0.1),
        "1 % in bursts of 3": DirectionProfile(delay_ms=1.0, loss=0.01, loss_burst=3.0),
    }
    plain = DirectionProfile(delay_ms=1.0)
    hosts = {name: LinkProfile(name=name, up=way, down=plain) for name, way in ways.items()}
    figures = []
    with EmulatedNetwork(star({"here": NOTHING, **hosts}), backend="userspace", seed=3) as net:
        watched = Watched(net)
        for name, way in ways.items():
            say(f"{count} datagrams over a loss of {name}")
            watched.begin()
            lost = count - len(datagrams(net, name, "here", count))
            seen = watched.end()
            variance = way.loss * (1 - way.loss) / count
            if way.loss_burst is not None:
                # Losses of a Markov chain are alike by r from one packet to the next.
                r = 1 - 1 / way.loss_burst - way.loss / (way.loss_burst * (1 - way.loss))
                variance *= (1 + r) / (1 - r)
            off = abs(lost / count - way.loss) / math.sqrt(variance)
            counted = seen.counts.directions[f"{name} → base"].drops.get("loss", 0)
            how = f"{lost} of {count} gone, {counted} by the emulator's count; {seen.how}"
            target = f"<= {CONFIDENT:.3f}"
            figures.append(Figure(f"loss of {name}: difference", off, "std. errors", target, way.loss, how))
    return figures


def same_fates(count: int) -> list[Figure]:
    """The same datagrams twice with one seed, and once with another."""
    way = DirectionProfile(delay_ms=5.0, loss=0.2, loss_burst=2.0, duplicate=0.1, rate_mbit_s=50.0)
    got = []
    say(f"{count} datagrams thrice")
    for seed in (7, 7, 8):
        network = star({"a": symmetric(way), "b": NOTHING})
        with EmulatedNetwork(network, backend="userspace", seed=seed) as net:
            got.append(datagrams(net, "a", "b", count))
    first, again, other = got
    differing = sum(a != b for a, b in zip(first, again, strict=False)) + abs(len(first) - len(again))
    how = f"{len(first)} of {count} came, with another seed {len(other)} others"
    return [Figure("fates that differ under one seed", differing, "packets", "<= 0", None, how)]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All of it."""
    missing = machine_lacks()
    if missing:
        raise SystemExit(f"error: {missing}")
    quick = options.quick
    return [
        *round_trips(100 if quick else 1000),
        *jitter(400 if quick else 3000),
        *throughput(1.5 if quick else 10),
        *ceilings(1.5 if quick else 5),
        *losses(10_000 if quick else 100_000),
        *same_fates(300),
    ]


if __name__ == "__main__":
    run(measure, __doc__)
