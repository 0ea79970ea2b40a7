"""Logs that strangers cannot flood."""

from __future__ import annotations

import json
import logging

from collab.cli.logs import BURST, MAX_KINDS, WINDOW_S, JsonLines, Throttle


def record(text: str, level: int = logging.WARNING, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("collab.link", level, "", 0, text, arguments, None)


def test_a_flood_of_one_kind_is_cut_and_counted_and_others_are_not():
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    flood = [throttle.filter(record("refused: %s", logging.WARNING, "m")) for n in range(BURST + 500)]
    assert sum(flood) == BURST
    assert throttle.filter(record("something else"))
    now[0] = WINDOW_S
    later = record("refused: %s", logging.WARNING, "m")
    assert throttle.filter(later)
    assert later.getMessage() == "refused: m (500 more like this were left out)"


def test_errors_are_never_left_out():
    throttle = Throttle(lambda: 0.0)
    assert all(throttle.filter(record("broken", logging.ERROR)) for _ in range(10 * BURST))


def test_the_kinds_that_are_remembered_are_bounded():
    throttle = Throttle(lambda: 0.0)
    for n in range(10 * MAX_KINDS):
        throttle.filter(record(f"kind {n}"))
    assert len(throttle._seen) <= 2 * MAX_KINDS


def test_with_too_many_peers_their_records_are_one_kind():
    throttle = Throttle(lambda: 0.0)
    let_through = sum(throttle.filter(record("refused: %s", logging.WARNING, str(n))) for n in range(5000))
    assert let_through <= MAX_KINDS + BURST


def test_a_json_record_is_one_line_with_what_it_is_about():
    made = record("it\nfailed: %s", logging.WARNING, "x")
    made.created, made.msecs = 1_700_000_000.25, 250.0
    made.__dict__ |= {"plan": "digits", "request": "00ff", "secret": "not a field"}
    line = JsonLines("pi-1").format(made)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "collab.link",
        "node": "pi-1",
        "message": "it\nfailed: x",
        "plan": "digits",
        "request": "00ff",
    }


def test_a_json_record_of_an_error_tells_where_it_was_raised():
    made = record("broken", logging.ERROR)
    try:
        raise ValueError("why")
    except ValueError as error:
        made.exc_info = (ValueError, error, error.__traceback__)
    said = json.loads(JsonLines().format(made))
    assert said["exception"].endswith("ValueError: why")
    assert "node" not in said
