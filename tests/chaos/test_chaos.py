"""Everything that goes wrong at the edge, for minutes, and every answer is the whole model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import leaks, run

pytestmark = [pytest.mark.heavy("chaos"), pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("scheme", "share"), [("grpc", 0.6), ("coaps+tcp", 0.2), ("mqtts", 0.2)])
async def test_whatever_fails_while_every_stage_keeps_a_replica_no_answer_is_wrong_lost_or_given_twice(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    scheme: str,
    share: float,
):
    seed = request.config.getoption("chaos_seed")
    seconds = request.config.getoption("chaos_seconds")

    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)  # noqa: T201

    outcome = await run(tmp_path, seed, share * seconds, say, scheme=scheme)
    for line in outcome.lines():
        say(line)
    report, replay = outcome.report, f"replay with --chaos-seed {seed} --chaos-seconds {seconds:g}"
    assert not report["errors"], (report["first_errors"], replay)
    assert (report["wrong"], report["lost"], report["twice"]) == (0, 0, 0), replay
    assert report["answers"] == report["asked"] > 0, replay
    assert report["availability"] == 1.0, replay
    assert not leaks(outcome.before, outcome.after), replay
