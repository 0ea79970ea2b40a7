"""The plug-in that fails tests which leave something behind."""

from __future__ import annotations

import pytest

from tests.plugins.leaks import OUR_THREADS

SETTINGS = "[pytest]\nasyncio_mode=auto\nleak_settle_ms=150\nasyncio_default_fixture_loop_scope=function\n"


def run(pytester: pytest.Pytester, code: str) -> pytest.RunResult:
    """Run tests in a process of their own, so that what they leak goes with it."""
    pytester.makeini(SETTINGS)
    pytester.makepyfile(code)
    return pytester.runpytest_subprocess("-p", "tests.plugins.leaks", "-p", "no:randomly", "-q")


@pytest.fixture(autouse=True)
def _find_the_plugin(pytestconfig, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath))


def test_everything_that_is_left_behind_fails_its_test_and_no_other(pytester):
    result = run(
        pytester,
        f"""
        import asyncio, os, socket, subprocess, threading

        kept = []

        def keep_thread(**kwargs):
            go = threading.Event()
            kept.append(go)
            threading.Thread(target=go.wait, **kwargs).start()

        def test_thread():
            keep_thread(name="worker-7")

        def test_thread_end():
            kept.pop().set()

        def test_our_daemon():
            keep_thread(name="{OUR_THREADS}stage", daemon=True)

        def test_foreign_daemon():
            keep_thread(name="poller", daemon=True)

        def test_child():
            kept.append(subprocess.Popen(["sleep", "5"]))

        def test_child_end():
            child = kept.pop()
            child.kill()
            child.wait()

        def test_socket():
            kept.append(socket.socket())

        def test_pipe():
            kept.append(os.pipe())

        def test_clean():
            pass

        async def test_task():
            kept.append(asyncio.ensure_future(asyncio.sleep(20)))
        """,
    )
    result.assert_outcomes(passed=10, errors=6)
    result.stdout.fnmatch_lines_random(
        [
            "*the test left behind: thread 'worker-7'",
            f"*the test left behind: thread '{OUR_THREADS}stage'",
            "*the test left behind: child process *: sleep 5",
            "*the test left behind: descriptor * -> socket:*",
            "*the test left behind: descriptor * -> pipe:*; descriptor * -> pipe:*",
            "*the test left tasks pending: <coroutine object sleep *",
        ]
    )
    for name in ("thread", "our_daemon", "child", "socket", "pipe", "task"):
        result.stdout.fnmatch_lines([f"*ERROR at teardown of test_{name} *"])


def test_what_ends_shortly_after_the_test_is_not_a_leak(pytester):
    result = run(
        pytester,
        """
        import asyncio, threading, time

        def test_thread():
            threading.Thread(target=time.sleep, args=(0.02,)).start()

        async def test_task():
            asyncio.ensure_future(asyncio.sleep(0.02))
        """,
    )
    result.assert_outcomes(passed=2)


def test_fixtures_own_what_they_open(pytester):
    result = run(
        pytester,
        """
        import asyncio, socket
        import pytest

        @pytest.fixture(scope="module")
        def shared():
            with socket.socket() as opened:
                yield opened

        @pytest.fixture
        async def background():
            task = asyncio.ensure_future(asyncio.sleep(20))
            yield
            task.cancel()

        def test_first(shared):
            pass

        def test_second(shared):
            pass

        async def test_third(background):
            pass
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_failed_test_is_not_blamed_twice(pytester):
    result = run(
        pytester,
        """
        import socket

        def test_fails():
            opened = socket.socket()
            assert opened is None
        """,
    )
    result.assert_outcomes(failed=1)
