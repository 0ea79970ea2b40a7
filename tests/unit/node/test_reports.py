"""The queue of reports: bounded, numbered once, and whole again whatever a crash left of its file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.errors import StoreError
from collab.node.reports import Record, ReportLog, ReportQueue, Summary, read_lines, write_line

BYTES = 1 << 20
START = 1_000


def record(number: int = 0, outcome: str = "ok") -> Record:
    return Record(
        number=number,
        plan="digits.alone.a",
        epoch=3,
        request="00" * 16,
        at_ms=1,
        compute_us=2,
        outcome=outcome,
        digest="ab" * 32,
        alone=True,
    )


def opened(folder: Path, most: int = 100, most_bytes: int = BYTES, now_ms: int = START) -> ReportLog:
    return ReportLog(folder / "reports.log", most, most_bytes, now_ms)


def numbers(log: ReportLog) -> list[int]:
    return [r.number for r in log.take(0, 10_000, acknowledge=False)]


def test_reports_survive_a_restart_and_are_there_until_they_are_acknowledged(tmp_path):
    log = opened(tmp_path)
    log.add([record(), record(outcome="deadline")])
    log.add([record()])
    again = opened(tmp_path, now_ms=9)
    assert numbers(again) == [START, START + 1, START + 2]
    assert again.take(START, 1, acknowledge=True)[0].outcome == "deadline"
    assert numbers(opened(tmp_path)) == [START + 1, START + 2]
    assert again.take(START + 2, 10, acknowledge=True) == []
    last = opened(tmp_path, now_ms=9)
    last.add([record()])
    assert numbers(last) == [START + 3]


def test_the_oldest_make_room_and_are_counted_over_restarts(tmp_path):
    log = opened(tmp_path, most=3)
    log.add([record() for _ in range(5)])
    log.add([record()], missed=2)
    assert log.state == (3, 5)
    assert opened(tmp_path, most=3).state == (3, 5)
    size = len(write_line(record(START)))
    small = opened(tmp_path, most=3, most_bytes=2 * size)
    assert small.state == (2, 6)


def test_the_file_is_bounded_however_much_goes_through_it(tmp_path):
    log = opened(tmp_path, most=10)
    for _ in range(600):
        log.add([record() for _ in range(3)])
    assert (tmp_path / "reports.log").stat().st_size < 128 * 1024
    assert log.state == (10, 1790)
    assert opened(tmp_path, most=10).state == (10, 1790)


def test_a_new_file_numbers_from_the_time_so_that_a_lost_one_is_not_repeated(tmp_path):
    opened(tmp_path).add([record()])
    (tmp_path / "reports.log").write_bytes(b"nothing of ours\n")
    log = opened(tmp_path, now_ms=5_000)
    log.add([record()])
    assert numbers(log) == [5_000]


def test_a_directory_in_its_place_is_said(tmp_path):
    (tmp_path / "reports.log").mkdir()
    with pytest.raises(StoreError, match=r"cannot read reports\.log"):
        opened(tmp_path)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 6),
    st.floats(0, 1),
)
def test_a_file_that_is_torn_anywhere_loses_its_end_alone(steps, most, where):
    with TemporaryDirectory() as place:
        folder = Path(place)
        file, states = folder / "reports.log", []
        log = opened(folder, most)
        for count, acknowledge in steps:
            log.add([record() for _ in range(count)])
            if acknowledge:
                log.take(numbers(log)[0], 0, acknowledge=True)
            states.append((file.stat().st_size, numbers(log)))
        data = file.read_bytes()
        cut = int(len(data) * where)
        file.write_bytes(data[:cut])
        torn = opened(folder, most, now_ms=10**6)
        found = numbers(torn)
        complete = [kept for size, kept in states if size <= cut]
        # Whatever was on the disk before the tear is there, or made room for what came later.
        kept = complete[-1] if complete else []
        assert not found or not kept or found[-1] >= kept[-1]
        assert found or not kept
        assert found == sorted(set(found))
        torn.add([record()])
        after = numbers(opened(folder, most))
        assert after[-1] > max(found, default=0)
        assert len(after) <= most


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, 40))
def test_bytes_that_are_not_ours_are_no_events(noise, at):
    whole = write_line(Summary(next=7, dropped=1)) + write_line(record(7)) + write_line(record(8))
    spoilt = whole[:at] + noise + b"\n" + whole[at:]
    events = list(read_lines(spoilt))
    assert record(8) in events
    assert all(event in (Summary(next=7, dropped=1), record(7), record(8)) for event in events)
    queue = ReportQueue(10, BYTES)
    queue.replay(events)
    assert queue.next == 9
