"""Wheels for a machine of Debian 12, made once and kept; the image, made once for all tests."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.engine import Engine
from tests.deployments.machine import BUILD, ROOT


def _scripts() -> list[Path]:
    return [ROOT / "scripts/wheelhouse.py", *(ROOT / "deployments/wheelhouse").glob("*.sh")]


@pytest.fixture(scope="session")
def wheelhouse() -> Path:
    """For this processor and Python 3.11; made again when what it is made of is newer."""
    sources = [ROOT / "requirements/device.txt", *(ROOT / "collab").rglob("*.py"), *_scripts()]
    newest = max(file.stat().st_mtime for file in sources)
    for kept in (BUILD / "wheelhouse").glob(f"collab-*-cp311-{platform.machine()}"):
        if (kept / "pins.txt").stat().st_mtime > newest:
            return kept
    done = subprocess.run(
        [
            *(sys.executable, "scripts/wheelhouse.py", "--python", "3.11"),
            *("--arch", platform.machine(), "--out", str(BUILD / "wheelhouse")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode != 0:
        pytest.fail(f"no wheelhouse: {done.stderr[-500:]}", pytrace=False)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def engine(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """What runs containers, with the image built."""
    # podman takes no long path for what it keeps while containers run.
    with tempfile.TemporaryDirectory(prefix="ct-") as short:
        made = Engine(tmp_path_factory.mktemp("engine"), Path(short))
        try:
            made.build(wheelhouse / "wheels")
            yield made
        finally:
            made.close()
