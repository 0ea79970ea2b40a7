"""Rounds that a policy asks for: commands of this program, to their end or until nobody waits."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from collab.coordinator.release_rounds import run_round
from collab.errors import BackendError

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)}


async def test_a_command_that_ends_well_is_done():
    assert await run_round(["--version"], 1, ENVIRONMENT) == "done"


async def test_one_that_fails_says_its_last_line():
    with pytest.raises(
        BackendError, match=r"collab fed status no-run-7: ended with 2: error: .*no such folder"
    ):
        await run_round(["fed", "status", "no-run-{n}"], 7, ENVIRONMENT)


async def test_one_that_nobody_waits_for_is_ended(tmp_path, monkeypatch):
    started = tmp_path / "started"
    stand_in = tmp_path / "collab"
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("")
    (stand_in / "__main__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(60)\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    monkeypatch.chdir(tmp_path)
    task = asyncio.ensure_future(run_round(["fed"], 1, environment))
    while not started.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_that_cannot_be_started_is_said_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(BackendError, match="cannot be started"):
        await run_round(["fed"], 1, ENVIRONMENT)
