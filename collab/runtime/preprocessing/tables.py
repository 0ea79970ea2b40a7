"""Rows of CSV files to a model's inputs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import MAX_COLUMNS, MAX_TEXT, Category, Number, TableSteps
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing.scaling import Floats

MAX_FILE_BYTES: Final = 1 << 30
MAX_ROWS: Final = 10_000_000
MAX_FIELD: Final = 1 << 16
"""Characters of one field."""
MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for no value, whatever its case."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file's columns as text, without blanks around it.

    Attributes:
        columns: values by the column's name.
        lines: the file's line of each row, for messages.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """A row's place, for people."""
        return f"{self.path}, line {self.lines[row]}"

    def column(self, name: str) -> Sequence[str]:
        """One column; raises `InputError`."""
        if name not in self.columns:
            known = ", ".join(list(self.columns)[:20])
            raise InputError(f"{self.path}: has no column {name!r}; it has {known}")
        return self.columns[name]


def is_missing(text: str) -> bool:
    """Whether a value stands for none."""
    return text.lower() in MISSING


def read_table(path: Path) -> Table:
    """Read a CSV file in UTF-8 with a line of column names.

    Raises:
        InputError: it is no such file; names the line.
        LimitExceeded: it is too large.
    """
    csv.field_size_limit(MAX_FIELD)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise LimitExceeded(f"{path}: {size} bytes are over {MAX_FILE_BYTES}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(row)} values in {len(header)} columns"
                    )
                if len(rows) >= MAX_ROWS:
                    raise LimitExceeded(f"{path}: has over {MAX_ROWS} rows")
                rows.append(row)
                lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({reason})") from error
    if not rows:
        raise InputError(f"{path}: has no rows below its column names")
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}
    return Table(path, columns, lines)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not 1 <= len(header) <= MAX_COLUMNS:
        raise InputError(f"{path}, line 1: {len(header)} columns; it must name 1 to {MAX_COLUMNS}")
    if all(_parsed(name) is not None for name in header):
        raise InputError(f"{path}, line 1: has numbers only; the first line must name the columns")
    for name in header:
        if not 1 <= len(name) <= MAX_TEXT:
            raise InputError(f"{path}, line 1: a column's name must have 1 to {MAX_TEXT} characters")
        if header.count(name) > 1:
            raise InputError(f"{path}, line 1: column {name!r} stands there twice")


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def number(text: str) -> float | None:
    """A finite number that a float32 can be, or None."""
    value = _parsed(text)
    return value if value is not None and math.isfinite(value) and abs(value) < 3e38 else None


def numbers(table: Table, name: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where a value is missing; raises `InputError` for what is no number."""
    values = np.empty(len(table))
    for row, text in enumerate(table.column(name)):
        value = math.nan if is_missing(text) else number(text)
        if value is None:
            raise InputError(
                f"{table.where(row)}: column {name!r} has {text[:40]!r}, which is not a finite number"
            )
        values[row] = value
    return values


def table_inputs(table: Table, steps: TableSteps) -> Floats:
    """All rows as the model takes them, ``[rows, places]``; raises `InputError` that names the line."""
    made = np.zeros((len(table), steps.input_shape[0]), np.float32)
    place = 0
    for column in steps.columns:
        if isinstance(column, Number):
            made[:, place] = _scaled(numbers(table, column.name), column, table)
        else:
            _encode(made[:, place : place + column.places], column, table)
        place += column.places
    return made


def _scaled(values: NDArray[np.float64], column: Number, table: Table) -> NDArray[np.float64]:
    missing = np.isnan(values)
    if missing.any():
        if column.fill is None:
            raise InputError(
                f"{table.where(int(missing.argmax()))}: column {column.name!r} is missing; "
                "give a value, or prepare the data with --missing fill"
            )
        values = np.where(missing, column.fill, values)
    if column.low is not None or column.high is not None:
        values = np.clip(values, column.low, column.high)
    # In float64: a mean may be much larger than what is left after it is taken away.
    return (values - column.shift) / column.width


def _encode(made: Floats, column: Category, table: Table) -> None:
    places = {value: place for place, value in enumerate(column.values)}
    for row, text in enumerate(table.column(column.name)):
        if is_missing(text) and text not in places:
            if column.fill is None:
                raise InputError(
                    f"{table.where(row)}: column {column.name!r} is missing; "
                    "give a value, or prepare the data with --missing fill"
                )
            text = column.fill
        place = places.get(text)
        if place is None and column.unknown == "refuse":
            raise InputError(
                f"{table.where(row)}: column {column.name!r} has {text[:40]!r}, which was not trained on"
            )
        if column.encoding == "ordinal":
            made[row, 0] = -1 if place is None else place
        elif place is not None:
            made[row, place] = 1.0
