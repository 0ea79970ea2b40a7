"""Tokens of enrolment: used again, stolen, altered, used by two at once, told to somebody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import collab, environment
from tests.integration.test_enrolment import started

pytestmark = pytest.mark.timeout(120)


def _home(folder: Path, name: str) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(folder / name)}


def test_of_two_that_use_a_token_at_once_one_is_enrolled_and_nobody_later(tmp_path: Path):
    own = _home(tmp_path, "own")
    collab("cluster", "init", "lab", env=own)
    with started("controller", "--listen", "127.0.0.1:0", "--json", env=own) as (_, ready):
        invite = ("cluster", "invite", "edge", "--no-serve", "--address", ready["address"], "--json")
        token = collab(*invite, env=own).json["token"]
        altered = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
        assert collab("cluster", "join", altered, env=_home(tmp_path, "t0"), code=None).code != 0
        join = [sys.executable, "-m", "collab", "cluster", "join", token]
        racing = [
            subprocess.Popen(
                join,
                env=environment(**_home(tmp_path, name)),
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
            )
            for name in ("d1", "d2")
        ]
        said = [process.communicate(timeout=60)[1].decode() for process in racing]
        codes = sorted(process.returncode for process in racing)
        assert codes == [0, 4], said
        thief = collab("cluster", "join", token, env=_home(tmp_path, "t1"), code=4)
        assert thief.errors
        assert not (tmp_path / "t1").exists() or not list((tmp_path / "t1").rglob("certificate.pem"))
        certified = [name for name in ("d1", "d2") if list((tmp_path / name).rglob("certificate.pem"))]
        assert len(certified) == 1


def test_a_server_of_another_authority_learns_no_secret(tmp_path: Path):
    own, fake = _home(tmp_path, "own"), _home(tmp_path, "fake")
    collab("cluster", "init", "lab", env=own)
    collab("cluster", "init", "lab", env=fake)
    with started("controller", "--listen", "127.0.0.1:0", "--json", env=fake) as (_, ready):
        invite = ("cluster", "invite", "edge", "--no-serve", "--address", ready["address"], "--json")
        token = collab(*invite, env=own).json["token"]
        collab("cluster", "invite", "edge", "--no-serve", "--address", ready["address"], env=fake)
        refused = collab("cluster", "join", token, env=_home(tmp_path, "device"), code=None)
        assert refused.code != 0
        assert refused.errors
    # The token was not spent: with the right server it still counts.
    with started("controller", "--listen", ready["address"], "--json", env=own):
        collab("cluster", "join", token, env=_home(tmp_path, "device"))
