"""Spools for robust aggregation: a nameless file, and a list for tests and small models."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from collab.errors import StoreError

Row = NDArray[np.floating]


class MemorySpool:
    """Rows in memory."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def append(self, row: Row) -> None:
        """Keep a copy."""
        self._rows.append(row.copy())

    def read(self, index: int, start: int, stop: int) -> Row:
        """A view of a part."""
        return self._rows[index][start:stop]


class DiskSpool:
    """Rows in a file of a folder, which has no name and goes with the process.  Blocking.

    What it held before a crash is not missed: the updates are blobs in the store and are spooled anew.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise StoreError(f"spool: cannot write to {folder} ({error.strerror}); name another") from error
        self._dtype: np.dtype[np.floating] | None = None
        self._row_bytes = 0
        self._rows = 0

    def __enter__(self) -> DiskSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        """Write one row behind the others."""
        plain = np.ascontiguousarray(row)
        if self._dtype is None:
            self._dtype, self._row_bytes = plain.dtype, plain.nbytes
        elif (plain.dtype, plain.nbytes) != (self._dtype, self._row_bytes):
            raise StoreError("spool: rows of different lengths or dtypes; begin a new one for another model")
        data, at = plain.reshape(-1).view(np.uint8).data, self._rows * self._row_bytes
        try:
            while data:
                written = os.pwrite(self._file.fileno(), data, at)
                data, at = data[written:], at + written
        except OSError as error:
            raise StoreError(f"spool: {error.strerror}; make room on its disk") from error
        self._rows += 1

    def read(self, index: int, start: int, stop: int) -> Row:
        """Read a part of one row."""
        if self._dtype is None or not 0 <= index < self._rows:
            raise StoreError(f"spool: row {index} of {self._rows}")
        width = self._dtype.itemsize
        at = index * self._row_bytes + start * width
        try:
            data = os.pread(self._file.fileno(), (stop - start) * width, at)
        except OSError as error:
            raise StoreError(f"spool: {error.strerror}") from error
        if len(data) != (stop - start) * width:
            raise StoreError("spool: its file is shorter than what was written")
        return np.frombuffer(data, self._dtype)
