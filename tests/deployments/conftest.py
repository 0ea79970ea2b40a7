"""Wheels for a machine of Debian 12, made once and kept."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployments.machine import BUILD, ROOT


@pytest.fixture(scope="session")
def wheelhouse() -> Path:
    """For this processor and Python 3.11."""
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
