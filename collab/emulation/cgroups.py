"""CPU quotas and memory limits of hosts, by control groups of our own, version 1 or 2.

A quota is a budget, not a speed: see `collab.emulation.devices`.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collab.emulation.devices import Limits, settings
from collab.errors import BackendError

PREFIX: Final = "collab-emulation"
REMEDY: Final = (
    "run it as root where /sys/fs/cgroup is writable (a container: --privileged, or its own cgroup "
    "namespace), or leave cpu and memory away and slow devices by `stretch` alone"
)
_GONE_S: Final = 2.0


@dataclass(frozen=True)
class Hierarchy:
    """Where groups can be made."""

    version: int
    roots: Mapping[str, Path]
    """For each controller the group beneath which ours stand; one and the same in version 2."""


def find_hierarchy(mounts: str, own: str, controllers: str) -> Hierarchy:
    """Where this process may make groups; pure.

    Args:
        mounts: /proc/self/mounts.
        own: /proc/self/cgroup.
        controllers: cgroup.controllers of the version 2 tree's root, empty without one.
    """
    paths = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    roots: dict[str, Path] = {}
    unified: Path | None = None
    for line in mounts.splitlines():
        _, place, kind, options, *_ = line.split()
        # /proc/self/mounts writes spaces in octal.
        where = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place))
        if kind == "cgroup2":
            unified = where
        elif kind == "cgroup":
            for name in {"cpu", "memory"} & set(options.split(",")):
                roots[name] = _beneath(where, paths.get(name, "/"))
    if roots or unified is None:
        return Hierarchy(1, roots)
    # Version 2 lets no group have both processes and limited groups, so ours stand beside our own.
    beside = _beneath(unified, str(Path(paths.get("", "/")).parent))
    return Hierarchy(2, {name: beside for name in ("cpu", "memory") if name in controllers.split()})


def _beneath(root: Path, path: str) -> Path:
    # A path that begins with .. is outside of what is mounted here.
    relative = path.lstrip("/")
    return root if relative.startswith("..") else root / relative


def machine_hierarchy() -> Hierarchy:
    """That of this machine; empty where there is none."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return Hierarchy(2, {})
    root = next((line.split()[1] for line in mounts.splitlines() if line.split()[2] == "cgroup2"), "")
    controllers = ""
    if root:
        with suppress(OSError):
            controllers = (Path(root) / "cgroup.controllers").read_text(encoding="ascii")
    return find_hierarchy(mounts, own, controllers)


class Groups:
    """Groups of one emulator, named by its process so that those of dead ones can be told."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        # Ids of processes mean something within one namespace of them only.
        self._prefix = f"{PREFIX}-{os.stat('/proc/self/ns/pid').st_ino}"
        self._made: list[Path] = []

    def make(self, number: int, limits: Limits) -> list[str]:
        """A group for a host; the files that take the ids of its processes.

        Raises BackendError with the remedy where the machine does not allow it.
        """
        version, roots = self._hierarchy.version, self._hierarchy.roots
        wanted = limits.controllers
        missing = [name for name in wanted if name not in roots]
        if missing:
            raise BackendError(f"{missing[0]} limit: no cgroup controller of that name here; {REMEDY}")
        name = f"{self._prefix}-{os.getpid()}-{number}"
        try:
            for root in {roots[controller] for controller in wanted}:
                if version == 2:
                    _enable(root, wanted)
                self._made.append(root / name)
                (root / name).mkdir()
            for controller, file, value, needed in settings(version, limits):
                place = roots[controller] / name / file
                if needed or place.exists():
                    place.write_text(value, encoding="ascii")
        except OSError as error:
            raise BackendError(f"cgroup: {error.filename}: {error.strerror}; {REMEDY}") from error
        return sorted({str(roots[controller] / name / "cgroup.procs") for controller in wanted})

    def remove(self) -> None:
        """End what is in them, and remove them."""
        for group in reversed(self._made):
            remove_group(group)
        self._made.clear()

    def sweep(self) -> None:
        """Remove groups whose emulator has ended without, and what still runs in them."""
        for root in set(self._hierarchy.roots.values()):
            for group in root.glob(f"{self._prefix}-*-*"):
                process = group.name.split("-")[-2]
                if process.isdigit() and not Path("/proc", process).exists():
                    remove_group(group)


def _enable(root: Path, controllers: list[str]) -> None:
    place = root / "cgroup.subtree_control"
    lacking = [name for name in controllers if name not in place.read_text(encoding="ascii").split()]
    if lacking:
        place.write_text(" ".join(f"+{name}" for name in lacking), encoding="ascii")


def remove_group(group: Path) -> None:
    """End the processes of a group of ours and remove it; what cannot be removed stays."""
    deadline = time.monotonic() + _GONE_S
    while group.exists():
        with suppress(OSError):
            for process in map(int, (group / "cgroup.procs").read_text(encoding="ascii").split()):
                # 0 stands for one that is not to be seen from here, and would be our own group to kill.
                with suppress(ProcessLookupError):
                    if process > 0:
                        os.kill(process, signal.SIGKILL)
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)
