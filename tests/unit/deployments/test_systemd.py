from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "deployments" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
NAMES = [unit.stem for unit in UNITS]
MOST_EXPOSURE = 1.5
"""Of 10, by systemd's own count; what is left is the network, which a node is for."""

analyse = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def service(unit: Path) -> dict[str, str]:
    """The last value of each setting of the service."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return dict(parser["Service"])


@analyse
@pytest.mark.parametrize("unit", UNITS, ids=NAMES)
def test_systemd_finds_nothing_wrong_with_a_unit(unit, tmp_path):
    # The program is not installed here; everything else is checked.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace("/opt/collab/venv/bin/collab", "/bin/true"), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@analyse
@pytest.mark.parametrize("unit", UNITS, ids=NAMES)
def test_a_unit_gives_up_what_it_does_not_need(unit):
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE * 10:.0f}", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout[-2000:]
    assert float(re.findall(r"level for \S+: ([\d.]+)", done.stdout)[0]) <= MOST_EXPOSURE


@pytest.mark.parametrize("unit", UNITS, ids=NAMES)
def test_each_service_has_a_user_and_a_state_directory_of_its_own(unit):
    settings = service(unit)
    user = settings["User"]
    assert settings["StateDirectory"] == settings["Group"] == user
    assert re.search(
        rf"^u {user} .* /var/lib/{user} ", (FOLDER / "collab.sysusers").read_text(), re.MULTILINE
    )
    assert re.search(
        rf"^d /var/lib/{user} +0700 {user} ", (FOLDER / "collab.tmpfiles").read_text(), re.MULTILINE
    )


def test_users_differ():
    assert len({service(unit)["User"] for unit in UNITS}) == len(UNITS) == 3


@pytest.mark.parametrize("unit", UNITS, ids=NAMES)
def test_a_unit_waits_longer_than_requests_may_finish_and_gives_up_on_wrong_settings(unit):
    from collab.node.config import NodeConfig

    settings = service(unit)
    assert float(settings["TimeoutStopSec"]) > NodeConfig().drain_s
    assert settings["RestartPreventExitStatus"] == "2 4"


def test_the_settings_that_come_along_are_a_node_s():
    from collab.cli.settings import gather
    from collab.node.config import NodeConfig

    assert gather(NodeConfig, {}, FOLDER / "node.toml", "node").listen == ("0.0.0.0:7070",)
