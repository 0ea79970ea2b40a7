"""Everything that goes wrong at the edge, for minutes, and every answer is the whole model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import leaks, run

pytestmark = [pytest.mark.heavy("chaos"), pytest.mark.timeout(1800), pytest.mark.timed]


async def test_whatever_fails_while_every_stage_keeps_a_replica_no_answer_is_wrong_lost_or_given_twice(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
):
    seed, seconds, transports = (
        request.config.getoption(name) for name in ("chaos_seed", "chaos_seconds", "chaos_transports")
    )
    schemes = transports.split(",")
    replay = f"replay with --chaos-seed {seed} --chaos-seconds {seconds:g} --chaos-transports {transports}"

    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)  # noqa: T201

    for scheme in schemes:
        outcome = await run(tmp_path / scheme, seed, seconds / len(schemes), say, scheme=scheme)
        for line in outcome.lines():
            say(line)
        report, where = outcome.report, f"{scheme}: {replay}"
        assert not report["errors"], (report["first_errors"], where)
        assert (report["wrong"], report["lost"], report["twice"]) == (0, 0, 0), where
        assert report["answers"] == report["asked"] > 0, where
        assert report["availability"] == 1.0, where
        assert not leaks(outcome.before, outcome.after), where
