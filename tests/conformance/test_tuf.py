"""The conformance suite of The Update Framework over our client; it is given from outside.

    COLLAB_TUF_CONFORMANCE=FOLDER pytest tests/conformance

``FOLDER`` is a checkout of theupdateframework/tuf-conformance.  It takes several minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = os.environ.get("COLLAB_TUF_CONFORMANCE", "")
ROOT = Path(__file__).parents[2]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(not SUITE, reason="COLLAB_TUF_CONFORMANCE names no folder with the suite")
@pytest.mark.timeout(1800)
def test_the_suite_passes_over_our_client(tmp_path):
    client = script(
        tmp_path / "client",
        f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m tests.conformance.tuf_client "$@"',
    )
    # Our client is told the time: nothing has to be preloaded for the suite's pretended one.
    script(
        tmp_path / "faketime", 'COLLAB_CONFORMANCE_NOW="$1"; export COLLAB_CONFORMANCE_NOW; shift; exec "$@"'
    )
    plugins = ("randomly", "cacheprovider", "asyncio", "timeout", "xdist", "rerunfailures")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tuf_conformance", "-q", "--entrypoint", str(client)),
            *(part for name in plugins for part in ("-p", f"no:{name}")),
        ],
        cwd=SUITE,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= 100
