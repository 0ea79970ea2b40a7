from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deployments"
SCRIPTS = sorted(FOLDER.rglob("*.sh"))
FILES = sorted(file for file in FOLDER.rglob("*") if file.is_file())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_one_that_every_shell_reads(script):
    assert script.read_text("utf-8").startswith("#!/bin/sh\n")
    assert script.stat().st_mode & 0o111
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_says_what_it_does_and_stops_at_errors(script):
    text = script.read_text("utf-8")
    assert text.splitlines()[1].startswith("# ")
    assert re.search(r"^set -eu$", text, re.MULTILINE)


def test_no_file_names_an_index_of_packages_or_a_machine_of_ours():
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in FILES
        for line in file.read_text("utf-8").splitlines()
        if re.search(r"pypi[.]|pythonhosted|(extra-)?index-url|trusted-host|/tmp/|/root/|/home/\w", line)
    ]
    assert not found


def test_every_deployment_has_a_page_of_instructions():
    assert [folder.name for folder in sorted(FOLDER.iterdir()) if not (folder / "README.md").exists()] == []


def test_the_install_script_refuses_what_it_does_not_know():
    script = FOLDER / "systemd" / "install.sh"
    done = subprocess.run([script, "--frobnicate"], capture_output=True, text=True, timeout=10)
    assert done.returncode != 0
    assert "unknown option '--frobnicate'" in done.stderr
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=10)
    assert shown.stdout.startswith("Install collab as services")
    assert "--purge" in shown.stdout
    assert "never overwritten" in shown.stdout
