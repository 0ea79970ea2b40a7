"""Fail a test that leaves threads, child processes, descriptors or asyncio tasks behind.

What a test holds is compared before its set-up and after its tear-down; what fixtures
of a wider scope open in between belongs to them.  Threads count unless they are
daemons of somebody else (ours are named ``collab-…``).  Things that are on their way
out get ``leak_settle_ms`` to go.  A test that failed by itself is not examined: its
traceback keeps things alive.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from pytest_asyncio import is_async_test

OUR_THREADS = "collab-"
_POLL_S = 0.005
_TASKS_FIXTURE = "_leaves_no_task"


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread] = frozenset()
    children: frozenset[psutil.Process] = frozenset()
    descriptors: frozenset[tuple[int, str]] = frozenset()
    """Number and target; the target of a socket or a pipe is unique while it is open."""

    @classmethod
    def now(cls) -> Held:
        """Look at this process; descriptors are seen on Linux only."""
        return cls(
            frozenset(t for t in threading.enumerate() if not t.daemon or t.name.startswith(OUR_THREADS)),
            frozenset(psutil.Process().children(recursive=True)),
            frozenset(_descriptors()),
        )

    def __sub__(self, other: Held) -> Held:
        return Held(
            self.threads - other.threads,
            self.children - other.children,
            self.descriptors - other.descriptors,
        )

    def __or__(self, other: Held) -> Held:
        return Held(
            self.threads | other.threads,
            self.children | other.children,
            self.descriptors | other.descriptors,
        )

    def lines(self) -> list[str]:
        """One line for each thing."""
        return [
            *(f"thread {thread.name!r}" for thread in self.threads),
            *(f"child process {_command(child)}" for child in self.children),
            *(f"descriptor {number} -> {target}" for number, target in sorted(self.descriptors)),
        ]


def _descriptors() -> Generator[tuple[int, str]]:
    here = Path("/proc/self/fd")
    if not here.exists():
        return
    for name in os.listdir(here):
        try:
            target = os.readlink(here / name)
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        # Matplotlib keeps fonts open once they were used.
        if not target.startswith("/dev/") and "/mpl-data/fonts/" not in target:
            yield int(name), target


def _command(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        return str(process.pid)


class Watch:
    """Compares what is held around each test."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._allowed = Held()
        self._call_failed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        self._allowed = Held.now()
        self._call_failed = False
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = Held.now()
        try:
            return (yield)
        finally:
            self._allowed |= Held.now() - before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._call_failed |= call.when != "teardown" and report.outcome == "failed"
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        yield
        if not self._call_failed and (left := self._left()):
            pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)

    def _left(self) -> list[str]:
        """What is still there when everything had its time to go."""
        deadline = time.monotonic() + self._settle_s
        collected = False
        while left := (Held.now() - self._allowed).lines():
            if not collected:
                gc.collect()
                collected = True
            elif time.monotonic() > deadline:
                return left
            else:
                time.sleep(_POLL_S)
        return []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("leak_settle_ms", "time for things to go away after a test", default="2000")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Watch(int(config.getini("leak_settle_ms")) / 1000), "collab-leaks")


def pytest_itemcollected(item: pytest.Item) -> None:
    # First in, so last out: after the test's own fixtures and before the loop closes.
    if is_async_test(item) and not _shares_a_loop(item):
        item.fixturenames.insert(0, _TASKS_FIXTURE)


def _shares_a_loop(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("asyncio")
    return mark is not None and mark.kwargs.get("loop_scope", "function") != "function"


@pytest_asyncio.fixture(name=_TASKS_FIXTURE)
async def leaves_no_task(request: pytest.FixtureRequest) -> AsyncGenerator[None]:
    """Fails when tasks are pending that nobody awaits any more."""
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + int(request.config.getini("leak_settle_ms")) / 1000
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        if loop.time() > deadline:
            names = "; ".join(sorted(repr(task.get_coro()) for task in left))
            pytest.fail(f"the test left tasks pending: {names}", pytrace=False)
        await asyncio.sleep(_POLL_S)
