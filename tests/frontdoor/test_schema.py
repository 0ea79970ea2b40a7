"""schemathesis asks every operation of the description, rightly and wrongly, and finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import environment
from tests.integration.serving import ServeProcess

pytestmark = pytest.mark.heavy("frontdoor")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.mark.timeout(170)
def test_schemathesis_finds_nothing(door: ServeProcess, tmp_path: Path):
    (tmp_path / "schemathesis.toml").write_text('[parameters]\nname = "digits"\nversion = "1"\n', "utf-8")
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{door.rest}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--max-examples", "10", "--seed", "7", "--no-color"),
            *("--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all"),
            *("--exclude-path-regex", "repository/models"),
        ],
        capture_output=True,
        text=True,
        timeout=160,
        env=environment(),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in door.log.read_text("utf-8")
