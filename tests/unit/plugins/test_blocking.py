"""The plug-in that fails async tests in which a module blocks the loop."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _find_the_plugin(pytestconfig, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath))


def test_blocking_below_a_watched_module_fails_async_tests_only(pytester):
    pytester.makeini(
        "[pytest]\nasyncio_mode=auto\nasyncio_default_fixture_loop_scope=function\nblocking_modules=watched\n"
    )
    pytester.makepyfile(
        watched="""
        import time

        def block():
            time.sleep(0)
        """,
        test_it="""
        import asyncio, time
        import watched

        async def test_blocks():
            watched.block()

        async def test_blocks_in_a_thread():
            await asyncio.to_thread(watched.block)

        async def test_blocks_by_itself():
            time.sleep(0)

        def test_has_no_loop():
            watched.block()
        """,
    )
    pytester.syspathinsert()
    result = pytester.runpytest_subprocess("-p", "tests.plugins.blocking", "-q")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        ["E *BlockingError: Blocking call to time.sleep", "FAILED *::test_blocks - *"]
    )
