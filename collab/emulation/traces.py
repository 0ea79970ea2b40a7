"""Rates over time from users' files; pure, the caller reads the file.

Two columns of seconds and Mbit/s; mahimahi's delivery opportunities; CSVs of public 5G data
sets, by the names of their columns.  Errors are `InputError` and begin with file and line.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

from collab.emulation.profile import TraceFormat
from collab.errors import InputError

MAX_TRACE_BYTES: Final = 64 << 20
MAX_TRACE_LINES: Final = 2_000_000
_MOST_MBIT_S: Final = 1e6
_MOST_SECONDS: Final = 1e9

_SEPARATORS: Final = " \t\r\f\v,;"
Row = tuple[int, str]
"""A line's number, from 1, and its text."""

_RATES: Final[dict[str, dict[str, float]]] = {
    "down": {"dl_bitrate": 1e-3, "throughput": 1.0},
    "up": {"ul_bitrate": 1e-3},
}
"""Columns by direction and Mbit/s per unit: kbit/s in the Irish data sets, Mbit/s in Lumos5G."""
_TIMES: Final = ("timestamp", "seq_num", "seq_no")
_STAMP: Final = "%Y.%m.%d_%H.%M.%S"
"""Of the Irish data sets, as G-NetTrack writes it."""


class RateTrace(NamedTuple):
    """Rates at ascending times."""

    seconds: tuple[float, ...]
    mbit_s: tuple[float, ...]


class Opportunities(NamedTuple):
    """When 1,500 bytes may leave, in ms."""

    ms: tuple[int, ...]


Trace = RateTrace | Opportunities


def read_trace(
    data: bytes, file: str, kind: TraceFormat = "auto", direction: Literal["up", "down"] = "down"
) -> Trace:
    """A trace from a file's content.

    Args:
        data: the content, UTF-8.
        file: its name, for messages.
        kind: how it is written; ``auto`` looks at the first line that says something.
        direction: which column of a CSV that has one for each.

    Raises:
        InputError: the file is too large, malformed, or nothing could ever pass.
    """
    if len(data) > MAX_TRACE_BYTES:
        raise InputError(f"{file}: {len(data)} bytes; traces may have {MAX_TRACE_BYTES}, cut it")
    lines = data.count(b"\n")
    if lines > MAX_TRACE_LINES:
        raise InputError(f"{file}: {lines} lines; traces may have {MAX_TRACE_LINES}, cut it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}:{line}: not UTF-8 text; give a text file") from error
    rows = [(line, row.strip()) for line, row in enumerate(text.split("\n"), 1)]
    rows = [row for row in rows if row[1].strip(_SEPARATORS) and row[1][0] not in "#%"]
    if not rows:
        raise InputError(f"{file}: there is no line with a value; give seconds and Mbit/s, one pair a line")
    reader = _READERS[_detect(rows) if kind == "auto" else kind]
    return reader(rows, file, direction)


def _detect(rows: Sequence[Row]) -> str:
    """By the first line: names of columns, one number, or more."""
    first = rows[0][1]
    fields = re.split(r"\s*[,;\t]\s*", first) if re.search(r"[,;\t]", first) else first.split()
    if len(fields) > 2 or any(name.lower() in _named() for name in fields):
        return "csv"
    return "mahimahi" if len(fields) == 1 else "columns"


def _named() -> set[str]:
    return {name for names in _RATES.values() for name in names}


def _fields(text: str) -> list[str]:
    return [field for field in re.split(r"[,;\s]+", text.strip()) if field]


def _number(text: str, file: str, line: int, what: str, most: float) -> float:
    """A number from 0 to ``most``; NaN is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise InputError(f"{file}:{line}: {what} is {text!r:.40}; give a number from 0 to {most:g}")
    return value


def _mahimahi(rows: Sequence[Row], file: str, direction: str) -> Opportunities:
    found: list[int] = []
    for line, text in rows:
        word = text.strip()
        if not (word.isascii() and word.isdigit()) or len(word) > 12:
            raise InputError(f"{file}:{line}: {word!r:.40} is not a time in whole ms; give one a line")
        found.append(int(word))
        if len(found) > 1 and found[-1] < found[-2]:
            raise InputError(f"{file}:{line}: {found[-1]} after {found[-2]}; sort the times")
    if found[-1] == 0:
        raise InputError(f"{file}:{rows[-1][0]}: the trace ends at 0 ms; its last time has to be later")
    return Opportunities(tuple(found))


def _columns(rows: Sequence[Row], file: str, direction: str) -> RateTrace:
    if not _is_number(_fields(rows[0][1])[0]):
        rows = rows[1:]

    def pairs() -> Iterator[tuple[int, float, float]]:
        for line, text in rows:
            fields = _fields(text)
            if len(fields) != 2:
                raise InputError(f"{file}:{line}: {len(fields)} columns; give two, seconds and Mbit/s")
            at = _number(fields[0], file, line, "the time", _MOST_SECONDS)
            yield line, at, _number(fields[1], file, line, "the rate", _MOST_MBIT_S)

    return _gather(pairs(), file)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv(rows: Sequence[Row], file: str, direction: str) -> RateTrace:
    head = [name.strip().lower() for name in _cells(rows[0][1], file, rows[0][0])]
    rates = {name: factor for name, factor in _RATES[direction].items() if name in head}
    if not rates:
        known = ", ".join(_RATES[direction])
        raise InputError(f"{file}:{rows[0][0]}: no column with rates {direction}; name one of: {known}")
    (name, factor), *_ = rates.items()
    rate_at = head.index(name)
    time_at = next((head.index(name) for name in _TIMES if name in head), None)
    run_at = head.index("run_num") if "run_num" in head else None
    clock = _Clock(file, runs=run_at is not None)

    def pairs() -> Iterator[tuple[int, float, float]]:
        for line, row in rows[1:]:
            fields = _cells(row, file, line)
            if len(fields) < len(head):
                raise InputError(f"{file}:{line}: {len(fields)} columns, the first line has {len(head)}")
            run = fields[run_at] if run_at is not None else ""
            at = clock.seconds(fields[time_at] if time_at is not None else "", run, line)
            text = fields[rate_at].strip()
            yield line, at, _number(text, file, line, f"column {name}", _MOST_MBIT_S / factor) * factor

    return _gather(pairs(), file)


def _cells(text: str, file: str, line: int) -> list[str]:
    """A line of a CSV, in which fields may be quoted but not broken."""
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise InputError(f"{file}:{line}: not a line of a CSV: {error}") from error


class _Clock:
    """Seconds of a data set's rows; runs that follow each other are one trace, a second apart."""

    def __init__(self, file: str, *, runs: bool) -> None:
        self._file = file
        self._runs = runs
        self._run = ""
        self._start: float | None = None
        self._shift = 0.0
        self._last = -1.0

    def seconds(self, text: str, run: str, line: int) -> float:
        """The time of a row; without a column of times rows are a second apart."""
        if not text:
            self._last += 1.0
            return self._last
        at = self._parse(text.strip(), line)
        if self._start is None or run != self._run:
            self._start, self._run, self._shift = at, run, self._last + 1.0
        self._last = at - self._start + self._shift
        return self._last

    def _parse(self, text: str, line: int) -> float:
        if _is_number(text):
            return _number(text, self._file, line, "the time", 1e13)
        try:
            return (datetime.strptime(text, _STAMP) - datetime(1970, 1, 1)).total_seconds()
        except ValueError as error:
            raise InputError(
                f"{self._file}:{line}: the time is {text!r:.40}; give seconds, or YYYY.MM.DD_HH.MM.SS"
            ) from error


def _gather(pairs: Iterator[tuple[int, float, float]], file: str) -> RateTrace:
    """One value for each time: the mean where a logger wrote several rows in a second."""
    seconds: list[float] = []
    rates: list[float] = []
    count = 0
    for line, at, rate in pairs:
        if seconds and at < seconds[-1]:
            raise InputError(f"{file}:{line}: {at:g} s after {seconds[-1]:g} s; sort the lines by time")
        if seconds and at == seconds[-1]:
            count += 1
            rates[-1] += (rate - rates[-1]) / count
        else:
            seconds.append(at)
            rates.append(rate)
            count = 1
    if not any(rates):
        raise InputError(
            f"{file}: no rate is above 0, so nothing would ever pass; check the column and its unit"
        )
    return RateTrace(tuple(seconds), tuple(rates))


_READERS: Final[dict[str, Callable[[Sequence[Row], str, str], Trace]]] = {
    "columns": _columns,
    "mahimahi": _mahimahi,
    "csv": _csv,
}
