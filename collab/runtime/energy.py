"""Energy of the processor, where the kernel counts it (RAPL, under ``/sys/class/powercap``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")
_ZONES: Final = "intel-rapl:*"
"""AMD's counters have the same name."""


class EnergyMeter:
    """Counts what all packages use from when it was made.

    Counters turn over at ``max_energy_range_uj``, after a minute at the earliest; one
    turn between two readings is seen.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        # Zones within a package, such as its cores, have a second colon.
        zones = sorted(zone for zone in root.glob(_ZONES) if zone.name.count(":") == 1)
        self._zones = {zone: begun for zone in zones if (begun := _micro(zone / "energy_uj")) is not None}

    def used_j(self) -> float | None:
        """Energy in J until now; None where nothing counts it, or only an administrator may look."""
        total = 0
        for zone, begun in self._zones.items():
            now = _micro(zone / "energy_uj")
            if now is None:
                return None
            total += (
                now - begun if now >= begun else now - begun + (_micro(zone / "max_energy_range_uj") or 0)
            )
        return total / 1e6 if self._zones and total >= 0 else None


def _micro(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
