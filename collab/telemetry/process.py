"""What the operating system says of this process and its device.  Reads files: not for event loops."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from collab.telemetry.catalogue import CPU, MEMORY, TEMPERATURE, Value

ZONES: Final = Path("/sys/class/thermal")
STATM: Final = Path("/proc/self/statm")
MAX_ZONES: Final = 16


def process_values(zones: Path = ZONES, statm: Path = STATM) -> list[Value]:
    """Memory, processor time and temperatures, as far as they are known here."""
    found = [CPU.at(value=time.process_time())]
    try:
        pages = int(statm.read_text(encoding="ascii").split()[1])
        found.append(MEMORY.at(value=pages * os.sysconf("SC_PAGE_SIZE")))
    except (OSError, ValueError, IndexError):
        pass
    for folder in sorted(zones.glob("thermal_zone*"))[:MAX_ZONES]:
        try:
            milli = int((folder / "temp").read_text(encoding="ascii"))
            name = (folder / "type").read_text(encoding="utf-8", errors="replace").strip()[:80]
        except (OSError, ValueError):
            continue  # a sensor that is switched off has no value
        found.append(TEMPERATURE.at(f"{folder.name.removeprefix('thermal_zone')}:{name}", value=milli / 1000))
    return found
