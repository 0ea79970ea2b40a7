"""A Debian machine in a folder: made by debootstrap, booted by systemd-nspawn, thrown away."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TRIALS: Final = Path(__file__).parent
BUILD: Final = ROOT / "build" / "deployments"
PACKAGES: Final = "systemd-sysv,dbus,python3-venv,sudo,openssh-server,pipx"
BASE: Final = BUILD / f"bookworm-{zlib.crc32(PACKAGES.encode()):08x}-{platform.machine()}"
"""Kept, as making it takes minutes; another one for other packages."""
SUITE: Final = "bookworm"
MAKE_S: Final = 900.0
TRIAL_S: Final = 600.0

UNIT: Final = """\
[Unit]
After=multi-user.target network.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c '(sh /trial/{trial}; echo $? >/out/code) >/out/log 2>&1; systemctl poweroff --no-block'
TimeoutStartSec=infinity
"""


def needs(*programs: str) -> None:
    """Skip the test where it cannot run, with the reason."""
    missing = [name for name in programs if shutil.which(name, path=f"{os.defpath}:/usr/sbin:/sbin") is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (scripts/setup deployments)")
    if os.geteuid() != 0:
        pytest.skip("machines in folders are root's to make")


def mirror() -> str:
    """Where this machine takes Debian's packages from; debootstrap's own idea elsewhere."""
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
            for word in line.split():
                if (
                    not line.startswith("#")
                    and word.startswith("http")
                    and word.rstrip("/").endswith("debian")
                ):
                    return word
    return ""


def base() -> Path:
    """A machine that nobody has changed."""
    needs("debootstrap", "systemd-nspawn")
    if not BASE.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        made = BASE.with_suffix(".new")
        shutil.rmtree(made, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(made), mirror()]
        done = subprocess.run(
            [part for part in command if part], capture_output=True, text=True, timeout=MAKE_S
        )
        if done.returncode != 0:
            pytest.skip(f"debootstrap cannot make a machine: {done.stdout[-300:]}{done.stderr[-300:]}")
        made.rename(BASE)
    return BASE


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    code: int
    log: str


def copy_of_base(to: Path) -> Path:
    """A machine to change."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(base()), str(to)], check=True)
    return to


def boot_and_try(machine: Path, trial: str, out: Path, seen: Mapping[Path, str]) -> Outcome:
    """Boot the machine, without a network, let it run a script of this folder as root, and halt it."""
    (machine / "etc/systemd/system/trial.service").write_text(UNIT.format(trial=trial), "utf-8")
    wants = machine / "etc/systemd/system/default.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "trial.service").symlink_to("../trial.service")
    out.mkdir()
    places = {TRIALS: "/trial", ROOT: "/source", **seen}
    console = subprocess.run(
        nspawn(machine, places, f"--bind={out}:/out", "--private-network", "--boot"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TRIAL_S,
    )
    code = out / "code"
    if not code.exists():
        log = (out / "log").read_text("utf-8") if (out / "log").exists() else ""
        return Outcome(-1, f"{log}\nthe machine did not run the trial:\n{console.stdout[-2000:]}")
    return Outcome(int(code.read_text("ascii")), (out / "log").read_text("utf-8", errors="replace"))


def nspawn(machine: Path, seen: Mapping[Path, str], *options: str) -> list[str]:
    """A command that runs a machine."""
    # Neither a service manager nor a register of machines is needed outside.
    quiet = ["--quiet", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off"]
    return [
        "systemd-nspawn",
        *quiet,
        f"--directory={machine}",
        *(f"--bind-ro={place}:{inside}" for place, inside in seen.items()),
        *options,
    ]
