"""What the device is going through: power, heat, memory, disk, processors, network, time zone.

Every value is None, or empty, where nothing on the device tells it.  Files of the kernel are read, so call
it off the event loop.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_SUPPLIES: Final = 32
MAX_SENSORS: Final = 128
MAX_FILE_BYTES: Final = 64 << 10
_UP: Final = 0x1
"""Flag of a usable route (RTF_UP of linux/route.h)."""
_COLDEST_C: Final = -60.0
_HOTTEST_C: Final = 200.0
"""What is outside is a sensor without a value."""
_PAUSE_S: Final = 1.0
"""Idle shares over less are chance."""
_METERED_S: Final = 60.0
_ASK_S: Final = 2.0
_METERED: Final = {"1": True, "3": True, "2": False, "4": False}
"""NetworkManager's NMMetered: yes, guessed yes, no, guessed no; 0 is unknown."""

Ask = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Readings:
    """The device at one moment; see `collab.updates.policies.condition.Condition` for the fields."""

    uptime_s: float | None
    battery: float | None
    charging: bool | None
    metered: bool | None
    idle: float | None
    free_memory_bytes: float | None
    free_disk_bytes: float | None
    temperature_c: float | None
    time_zone: str


class Surroundings:
    """Reads the device; keeps what shares are taken from.  Not for several threads.

    Args:
        disk: a folder on the file system whose free space counts.
        root: where ``sys``, ``proc``, ``etc`` and ``run`` are.
        ask: prints NetworkManager's ``Metered`` property.
    """

    def __init__(
        self,
        disk: Path,
        *,
        metered_devices: tuple[str, ...],
        root: Path = Path("/"),
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk = disk
        self._root = root
        self._metered_devices = metered_devices
        self._ask = ask or ask_network_manager
        self._clock = clock
        self._metered: tuple[float, bool | None] | None = None
        self._looked_s: float | None = None
        self._ticks: tuple[int, int] | None = (0, 0)
        self._idle: float | None = None

    def read(self) -> Readings:
        """Look at everything."""
        sys, proc = self._root / "sys/class", self._root / "proc"
        return Readings(
            uptime_s=_first_number(proc / "uptime"),
            battery=battery_share(sys / "power_supply"),
            charging=charging(sys / "power_supply"),
            metered=self._is_metered(),
            idle=self._idle_share(),
            free_memory_bytes=free_memory_bytes(proc / "meminfo"),
            free_disk_bytes=free_disk_bytes(self._disk),
            temperature_c=temperature_c(sys),
            time_zone=time_zone(self._root),
        )

    def _idle_share(self) -> float | None:
        """Since the last look, at first since the device started; as before where the last was just now."""
        now_s = self._clock()
        if self._looked_s is not None and now_s - self._looked_s < _PAUSE_S:
            return self._idle
        ticks = processor_ticks(self._root / "proc/stat")
        if ticks is not None and self._ticks is not None:
            idle, total = ticks[0] - self._ticks[0], ticks[1] - self._ticks[1]
            self._idle = min(1.0, max(0.0, idle / total)) if total > 0 else self._idle
        self._looked_s, self._ticks = now_s, ticks
        return self._idle

    def _is_metered(self) -> bool | None:
        """What NetworkManager says, asked once a minute; else by the name of the default route's device."""
        now_s = self._clock()
        if self._metered is None or now_s - self._metered[0] >= _METERED_S:
            told = None
            if (self._root / "run/NetworkManager").is_dir():
                told = _METERED.get(self._ask().removeprefix("u ").strip())
            self._metered = now_s, told
        if self._metered[1] is not None:
            return self._metered[1]
        device = default_device(self._root / "proc/net/route")
        return device.startswith(self._metered_devices) if device else None


def ask_network_manager() -> str:
    """NetworkManager's ``Metered`` as ``busctl`` prints it; empty where that does not work."""
    name = "org.freedesktop.NetworkManager"
    place = "/org/freedesktop/NetworkManager"
    try:
        done = subprocess.run(
            ["busctl", "--system", "get-property", name, place, name, "Metered"],
            capture_output=True,
            timeout=_ASK_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("ascii", "replace") if done.returncode == 0 else ""


def charging(power: Path) -> bool | None:
    """Whether mains are online, else whether no battery discharges."""
    told: bool | None = None
    for supply in _sorted(power.glob("*"), MAX_SUPPLIES):
        kind = _text(supply / "type")
        if kind in ("Mains", "USB") and _text(supply / "online") == "1":
            return True
        if kind == "Battery" and _text(supply / "scope") != "Device":
            told = _text(supply / "status") in ("Charging", "Full", "Not charging")
    return told


def battery_share(power: Path) -> float | None:
    """Charge of all batteries of the device together, 0 to 1; those of a mouse do not count."""
    shares: list[tuple[float, float]] = []
    for supply in _sorted(power.glob("*"), MAX_SUPPLIES):
        if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":
            continue
        percent = _first_number(supply / "capacity")
        for unit in ("energy", "charge"):
            now, full = _first_number(supply / f"{unit}_now"), _first_number(supply / f"{unit}_full")
            if now is not None and full:
                shares.append((now / full, full))
                break
        else:
            if percent is not None:
                shares.append((percent / 100, 0.0))
    if not shares:
        return None
    sized = all(size > 0 for _, size in shares)
    weights = [size if sized else 1.0 for _, size in shares]
    mean = sum(share * weight for (share, _), weight in zip(shares, weights, strict=True)) / sum(weights)
    return min(1.0, max(0.0, mean))


def temperature_c(sys: Path) -> float | None:
    """The hottest thermal zone; the hottest sensor where there are no zones."""
    for found in (sys.glob("thermal/thermal_zone*/temp"), sys.glob("hwmon/hwmon*/temp*_input")):
        values = [milli / 1000 for file in _sorted(found, MAX_SENSORS) if (milli := _first_number(file))]
        values = [value for value in values if _COLDEST_C < value < _HOTTEST_C]
        if values:
            return max(values)
    return None


def free_memory_bytes(meminfo: Path) -> float | None:
    """Memory that programs can have without swapping."""
    for line in _text(meminfo).splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and len(words) > 1 and words[1].isdigit():
            return int(words[1]) * 1024.0
    return None


def free_disk_bytes(folder: Path) -> float | None:
    """Space on a folder's file system that is not kept for the administrator."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return None
    return float(state.f_bavail * state.f_frsize)


def processor_ticks(stat: Path) -> tuple[int, int] | None:
    """Idle and total time of all processors since the start, in ticks; proc(5)."""
    words = _text(stat).partition("\n")[0].split()
    if len(words) < 6 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:]):
        return None
    # user nice system idle iowait irq softirq steal; guests are in user already.
    ticks = [int(word) for word in words[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def default_device(routes: Path) -> str:
    """Network device of the default route; empty where there is none."""
    best: tuple[int, str] | None = None
    for line in _text(routes).splitlines()[1:]:
        # Iface Destination Gateway Flags RefCnt Use Metric Mask …, numbers in hexadecimal but the metric.
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000" and int(words[3], 16) & _UP:
            best = min(best or (1 << 32, ""), (int(words[6]), words[0]))
    return best[1] if best else ""


def time_zone(root: Path) -> str:
    """IANA name by ``TZ``, else by ``/etc/localtime`` or ``/etc/timezone``; UTC where none tells."""
    name = os.environ.get("TZ", "").removeprefix(":")
    # It may also hold rules (POSIX 8.3), which have no name.
    if _is_zone(name):
        return name
    try:
        link = os.readlink(root / "etc/localtime")
    except OSError:
        link = ""
    return (link.partition("zoneinfo/")[2] or _text(root / "etc/timezone") or "UTC")[:64]


def _is_zone(name: str) -> bool:
    if not name:
        return False
    # It takes memory, and few devices set the variable.
    from zoneinfo import ZoneInfo

    try:
        return bool(ZoneInfo(name))
    except (KeyError, ValueError, OSError):
        return False


def _sorted(files: Iterable[Path], most: int) -> list[Path]:
    return sorted(files)[:most]


def _first_number(file: Path) -> float | None:
    try:
        value = float(_text(file).split()[0])
    except (ValueError, IndexError):
        return None
    return value if abs(value) < float("inf") else None


def _text(file: Path) -> str:
    try:
        with open(file, encoding="ascii", errors="replace") as opened:
            return opened.read(MAX_FILE_BYTES).strip()
    except OSError:
        return ""
