"""Whether the machine kept up with what it emulated: a run that it did not is no fact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collab.emulation.counters import EmulatorCounts

LATE_US: Final = 500.0
"""What round trips may differ by; the emulator's own lateness has to stay below, in 99 of 100 packets."""
BUSY: Final = 0.9
"""Of one core, which is all that the emulator can use."""
HOST_BUSY: Final = 0.97
STOLEN: Final = 0.05


@dataclass(frozen=True)
class HostTimes:
    """CPU time of the whole machine since it started, in ticks of the kernel."""

    total: int
    idle: int
    stolen: int
    """Taken by other guests of the same hardware."""

    @classmethod
    def parse(cls, stat: str) -> HostTimes:
        """From /proc/stat."""
        # user, nice, system, idle, iowait, irq, softirq, steal; guests count as user.
        ticks = [int(word) for word in stat.split("\n", 1)[0].split()[1:9]]
        return cls(sum(ticks), ticks[3] + ticks[4], ticks[7])

    @classmethod
    def now(cls) -> HostTimes:
        """Of this machine."""
        return cls.parse(Path("/proc/stat").read_text(encoding="ascii"))


def overloaded(counts: EmulatorCounts, before: HostTimes, after: HostTimes) -> list[str]:
    """Why a run's figures are not to be trusted, a line each; empty if nothing speaks against them."""
    found = []
    if counts.late_p99_us > LATE_US:
        found.append(
            f"one packet in 100 left the emulator {counts.late_p99_us / 1000:.2g} ms late or more "
            f"({LATE_US / 1000:g} at most): lower the rates, or run less beside it"
        )
    if counts.given_up:
        found.append(f"{counts.given_up} packets were dropped that no link would have: lower the rates")
    if counts.busy > BUSY:
        found.append(f"the emulator used {counts.busy:.0%} of a core: lower the rates, or use larger packets")
    span = after.total - before.total
    if span > 0:
        busy = 1 - (after.idle - before.idle) / span
        stolen = (after.stolen - before.stolen) / span
        if busy > HOST_BUSY:
            found.append(f"all cores were busy for {busy:.0%} of the time: nodes waited for each other")
        if stolen > STOLEN:
            found.append(f"{stolen:.0%} of the machine's time went to other guests of its hardware")
    return found
