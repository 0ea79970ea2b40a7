"""Heavy suites run on demand."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _suites(pytester):
    pytester.makeini(
        "[pytest]\nmarkers = heavy\nasyncio_default_fixture_loop_scope=function\n"
        # Under xdist it keeps a socket of the inner run open.
        "addopts = -p no:rerunfailures\n"
    )
    pytester.makepyfile(
        """
        import pytest

        def test_light():
            pass

        @pytest.mark.heavy("arm")
        def test_arm():
            pass

        @pytest.mark.heavy("chaos")
        def test_chaos():
            pass
        """
    )


@pytest.mark.parametrize(
    ("option", "passed"), [("", 1), ("--heavy=arm", 2), ("--heavy=arm,chaos", 3), ("--heavy=all", 3)]
)
def test_only_the_named_suites_run(pytester, option, passed):
    result = pytester.runpytest_inprocess("-p", "tests.plugins.heavy", option)
    result.assert_outcomes(passed=passed, deselected=3 - passed)


def test_a_marker_that_names_no_suite_is_refused(pytester):
    pytester.makepyfile("import pytest\n\n@pytest.mark.heavy\ndef test_it(): pass\n")
    result = pytester.runpytest_inprocess("-p", "tests.plugins.heavy")
    result.stderr.fnmatch_lines(["ERROR: *the heavy marker names one suite"])
