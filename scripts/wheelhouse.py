"""Download the device lock's wheels for a platform and Python, to install where there is no network.

    python scripts/wheelhouse.py --arch aarch64 --python 3.11 --out build/wheelhouse
    python scripts/wheelhouse.py --arch aarch64 --python 3.11 --check

Writes OUT/collab-VERSION-cp311-aarch64 with the wheels, their pins with hashes, collab's own
wheel and `install-offline.sh`.  Where from is pip's own configuration.  Needs pip, setuptools
and packaging; run from the repository's root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ARCHITECTURES: Final = ("x86_64", "aarch64", "armv7l")
"""Of the last there is no LiteRT; it is here so that what lacks is said by name."""
PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13")
GLIBC: Final = 35
"""Newest 2.x that wheels may need: Ubuntu 22.04's; Debian 12 and Raspberry Pi OS have 2.36."""
LOCK: Final = Path("requirements/device.txt")
INSTALLER: Final = Path("deployments/wheelhouse/install-offline.sh")
PACKAGE: Final = ("LICENSE", "pyproject.toml", "collab")


def pins(lock: str) -> Iterator[tuple[str, str, str]]:
    """Requirement (``name==version``), marker ('' for none) and hash lines of each pin of a lock."""
    for entry in re.split(r"\n(?=\S)", lock):
        head, _, hashes = entry.partition(" \\\n")
        if head.startswith("#") or not head.strip():
            continue
        requirement, _, marker = head.partition(" ; ")
        yield requirement.strip(), marker.strip(), hashes.strip()


def pins_for(lock: str, arch: str, python: str) -> dict[str, str]:
    """Hash lines of each pin that a Linux machine with this processor and CPython needs."""
    environment = {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": arch,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    return {
        requirement: hashes
        for requirement, marker, hashes in pins(lock)
        if not marker or Marker(marker).evaluate(environment)
    }


def platforms(arch: str) -> list[str]:
    """Tags of wheels that run there, the newest C library first (PEP 600)."""
    tags = [f"manylinux_2_{minor}_{arch}" for minor in range(GLIBC, 4, -1)]
    return [*tags, f"manylinux2014_{arch}", f"manylinux2010_{arch}", f"manylinux1_{arch}", f"linux_{arch}"]


def options(arch: str, python: str) -> list[str]:
    """Options that have pip choose wheels for another machine."""
    tagged = [option for tag in platforms(arch) for option in ("--platform", tag)]
    version = python.replace(".", "")
    abis = ["--abi", f"cp{version}", "--abi", "abi3", "--abi", "none"]
    return ["--only-binary=:all:", "--no-deps", "--python-version", python, *tagged, *abis]


def take_over(last: Path, wanted: dict[str, str], to: Path) -> bool:
    """Take the wheels of the wheelhouse made before, if the lock has not changed since; their hashes hold."""
    pins_file = last / "pins.txt"
    if not pins_file.exists():
        return False
    before = {
        requirement: hashes
        for requirement, _, hashes in pins(pins_file.read_text("utf-8"))
        if not requirement.startswith("collab==")
    }
    kept = [wheel for wheel in (last / "wheels").glob("*.whl") if not wheel.name.startswith("collab-")]
    known = set(re.findall(r"sha256:([0-9a-f]{64})", render(wanted)))
    if before != wanted or len(kept) != len(wanted):
        return False
    if not all(hashlib.sha256(wheel.read_bytes()).hexdigest() in known for wheel in kept):
        return False
    for wheel in kept:
        shutil.copy(wheel, to)
    return True


def download(wanted: dict[str, str], to: Path, arch: str, python: str) -> list[str]:
    """Fetch the wheels; the requirements that have none for this platform."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "pins.txt"
        lines.write_text(render(wanted), "utf-8")
        done = _pip(
            *("download", "--require-hashes", "--dest", str(to)),
            *(*options(arch, python), "--requirement", str(lines)),
        )
    if done.returncode == 0:
        return []
    missing = lacking(wanted, arch, python)
    if not missing:
        sys.exit(f"wheelhouse: pip download failed: {_complaint(done)}")
    return missing


def lacking(wanted: dict[str, str], arch: str, python: str) -> list[str]:
    """The requirements without a wheel of the lock's for this platform, by what the index says of each.

    No wheel is fetched.  Ends the program if the index cannot be asked.
    """
    left, missing = dict(wanted), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        lines, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        while left:
            lines.write_text("".join(f"{requirement}\n" for requirement in left), "utf-8")
            done = _pip(
                *("install", "--dry-run", "--ignore-installed", "--report", str(report)),
                "--ignore-requires-python",  # install compares with the Python that runs it; tags decide
                *("--target", f"{folder}/nowhere", *options(arch, python), "--requirement", str(lines)),
            )
            if done.returncode == 0:
                return sorted([*missing, *_strangers(left, json.loads(report.read_text("utf-8")))])
            named = re.search(r"No matching distribution found for (\S+)", done.stderr)
            if named is None or left.pop(named[1], None) is None or len(missing) + 1 == len(wanted):
                sys.exit(f"wheelhouse: pip finds nothing at all: {_complaint(done)}")
            missing.append(named[1])
    return sorted(missing)


def _strangers(wanted: dict[str, str], report: dict[str, Any]) -> list[str]:
    """Requirements whose wheel is none that the lock knows."""
    found = {
        f"{canonicalize_name(each['metadata']['name'])}=={each['metadata']['version']}": each[
            "download_info"
        ]["archive_info"]["hashes"]["sha256"]
        for each in report["install"]
    }
    return [name for name, hashes in wanted.items() if found.get(name.partition("[")[0], "?") not in hashes]


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip()[-300:] or "no reason given"


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def own_wheel(to: Path) -> Path:
    """Build collab's wheel from a copy, so that nothing is left in the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in PACKAGE:
            if Path(name).is_dir():
                shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(name, copy / name)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(to), folder),
            ],
            check=True,
        )
    (wheel,) = to.glob("collab-*.whl")
    return wheel


def render(wanted: dict[str, str]) -> str:
    """Pins as pip reads them."""
    return "".join(f"{requirement} \\\n    {hashes}\n" for requirement, hashes in wanted.items())


def version() -> str:
    """Of this package, without importing it."""
    found = re.search(r'__version__\s*=\s*"([^"]+)"', Path("collab/__init__.py").read_text("utf-8"))
    if found is None:
        sys.exit("wheelhouse: collab/__init__.py has no __version__")
    return found[1]


def build(arch: str, python: str, out: Path) -> Path:
    """Make the folder beside its place and move it there when all is in it."""
    target = out / f"collab-{version()}-cp{python.replace('.', '')}-{arch}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        made = Path(folder) / "made"
        wheels = made / "wheels"
        wheels.mkdir(parents=True)
        wanted = pins_for(LOCK.read_text("utf-8"), arch, python)
        missing = [] if take_over(target, wanted, wheels) else download(wanted, wheels, arch, python)
        if missing:
            sys.exit(f"wheelhouse: no wheel for Python {python} on {arch}: {', '.join(missing)}")
        own = own_wheel(wheels)
        digest = hashlib.sha256(own.read_bytes()).hexdigest()
        (made / "pins.txt").write_text(
            render({**wanted, f"collab=={version()}": f"--hash=sha256:{digest}"}), "utf-8"
        )
        (made / "python").write_text(f"{python}\n", "utf-8")
        shutil.copy(INSTALLER, made / INSTALLER.name)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    return target


def main() -> None:
    """Make one wheelhouse and print where it is."""
    parser = argparse.ArgumentParser(description="Wheels of the device lock for machines without a network.")
    parser.add_argument("--arch", choices=ARCHITECTURES, required=True)
    parser.add_argument("--python", choices=PYTHONS, default="3.11")
    parser.add_argument("--out", type=Path, default=Path("build/wheelhouse"))
    parser.add_argument("--check", action="store_true", help="ask the index alone; fetch and write nothing")
    given = parser.parse_args()
    if given.check:
        wanted = pins_for(LOCK.read_text("utf-8"), given.arch, given.python)
        missing = lacking(wanted, given.arch, given.python)
        print(f"{given.arch}, Python {given.python}: {len(wanted) - len(missing)} of {len(wanted)} wheels")
        sys.exit(f"wheelhouse: no wheel for: {', '.join(missing)}" if missing else 0)
    print(build(given.arch, given.python, given.out))


if __name__ == "__main__":
    main()
