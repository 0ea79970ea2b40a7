"""The tests of `keys_in_hardware.py`, in a process that has loaded nothing else.

SoftHSM2 brings the system's OpenSSL, which does not go together with those that other tests load.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tuf")
pytest.importorskip("pkcs11")


@pytest.mark.timeout(120)
def test_keys_in_hardware_sign_and_what_goes_wrong_is_one_line():
    tests = Path(__file__).with_name("keys_in_hardware.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "6 passed" in done.stdout
