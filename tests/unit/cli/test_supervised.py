from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from collab.cli.supervised import beat_s, notify, supervised

PID = 42


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A service manager's socket, and the environment that names it."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        channel.setblocking(False)
        yield channel, {"NOTIFY_SOCKET": path}


async def heard(channel: socket.socket) -> str:
    """The next state that the manager is told."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(channel, told.set)
    try:
        await asyncio.wait_for(told.wait(), 5)
    finally:
        loop.remove_reader(channel)
    return channel.recv(100).decode()


async def test_the_manager_hears_that_the_command_serves_and_then_that_it_lives(manager):
    channel, environment = manager
    environment |= {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    async with supervised(environment):
        assert [await heard(channel) for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


async def test_without_a_watchdog_it_hears_only_that_the_command_serves(manager):
    channel, environment = manager
    async with supervised(environment):
        assert await heard(channel) == "READY=1"
        notify("STOPPING=1", environment)
        assert await heard(channel) == "STOPPING=1"
    with pytest.raises(BlockingIOError):
        channel.recv(100)


async def test_a_socket_of_the_abstract_namespace_is_reached():
    name = f"collab-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.setblocking(False)
        notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert await heard(channel) == "READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "nowhere"}])
def test_without_a_manager_nothing_is_said(environment, caplog):
    notify("READY=1", environment)
    assert not caplog.records


def test_a_manager_that_is_gone_is_logged_and_ends_nothing(tmp_path, caplog):
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert "READY=1: No such file" in caplog.text


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(PID)}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_signs_of_life_come_twice_in_the_time_that_the_manager_waits(environment, seconds):
    assert beat_s(environment, PID) == seconds
