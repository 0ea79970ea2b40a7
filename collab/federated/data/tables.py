"""Examples in a CSV file with a line of column names."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Final

import numpy as np

from collab.errors import InputError, LimitExceeded
from collab.federated.data.examples import Examples
from collab.federated.data.sources import Source, class_number
from collab.federated.trainable import Description

MAX_COLUMNS: Final = 100_000
MAX_FIELD: Final = 1 << 16
"""Characters of one field."""


def read_table(source: Source, description: Description, max_bytes: int) -> Examples:
    """Read a file: the last column is the label unless ``y`` says otherwise, the rest are inputs."""
    path = Path(source.place)
    inputs: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    labels: list[float] = []
    csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            columns, label = _columns(path, header, source)
            most = max_bytes // (4 * len(columns) + 8)
            for row in rows:
                if not row:
                    continue
                where = f"{path}, row {rows.line_num}"
                if len(row) != len(header):
                    raise InputError(f"{where}: {len(row)} values in {len(header)} columns")
                if len(labels) >= source.limit:
                    break
                if len(labels) >= most:
                    raise LimitExceeded(f"{where}: the table is over {max_bytes} bytes; give limit=…")
                numbers = [_number(row[k], header[k], where) for k in columns]
                inputs.append(np.array(numbers, np.float32))
                labels.append(_label(row[label], header[label], source, description, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({reason})") from error
    if not inputs:
        raise InputError(f"{path}: has no rows below its column names")
    x = np.stack(inputs)
    if description.loss == "cross_entropy":
        return Examples(x, np.array(labels, np.int32), source.scale or 1.0)
    return Examples(x, np.array(labels, np.float32)[:, None], source.scale or 1.0)


def _columns(path: Path, header: list[str], source: Source) -> tuple[list[int], int]:
    """Places of the inputs' columns, and of the label's."""
    if not 2 <= len(header) <= MAX_COLUMNS:
        raise InputError(
            f"{path}, row 1: {len(header)} columns; it must have 2 to {MAX_COLUMNS}, named in row 1"
        )
    if all(_is_number(name) for name in header):
        raise InputError(f"{path}, row 1: has numbers only; the first row must name the columns")

    def place(name: str) -> int:
        if name not in header:
            raise InputError(f"{path}: has no column {name!r}; it has {', '.join(header[:20])}")
        return header.index(name)

    label = place(source.y) if source.y else len(header) - 1
    if source.x:
        return [place(name) for name in source.x.split(",")], label
    return [k for k in range(len(header)) if k != label], label


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str, column: str, where: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: column {column!r} has {text[:40]!r}, which is not a finite number")
    return value


def _label(text: str, column: str, source: Source, description: Description, where: str) -> float:
    if description.loss != "cross_entropy":
        return _number(text, column, where)
    if not source.classes and _is_number(text) and float(text).is_integer():
        text = str(int(float(text)))
    return class_number(text.strip(), source, f"{where}: column {column!r}")
