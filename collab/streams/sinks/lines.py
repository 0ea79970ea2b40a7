"""Answers as lines of JSON, in a file or on standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from collab.errors import StoreError
from collab.streams.settings import LinesSettings
from collab.streams.sinks.base import Sink


class LinesSink(Sink):
    """Appends to a file that only its owner can read; at its most bytes it becomes ``PATH.1``."""

    batch = 256
    loses = False
    tries = 1

    def __init__(self, settings: LinesSettings) -> None:
        self._path = settings.path
        self._most = settings.most_bytes
        self._file: BinaryIO | None = None
        self._size = 0

    def open(self) -> None:
        """Raises `StoreError` where the file cannot be written."""
        try:
            number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = open(number, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
            about = os.fstat(number)
            # A pipe or a terminal has no size to keep to.
            self._size = about.st_size if stat.S_ISREG(about.st_mode) else -1
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error

    def write(self, answers: Sequence[bytes]) -> None:
        """Append whole lines."""
        assert self._file is not None, "open it first"
        data = b"".join(answer + b"\n" for answer in answers)
        try:
            if self._size > 0 and self._size + len(data) > self._most:
                self._turn()
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self._size += len(data) if self._size >= 0 else 0
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _turn(self) -> None:
        self.close()
        os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        self.open()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()


class OutputSink(Sink):
    """Standard output, for scripts."""

    batch = 256
    loses = False
    tries = 1

    def open(self) -> None:
        """Nothing to do."""

    def write(self, answers: Sequence[bytes]) -> None:
        """Raises `StoreError` where nobody reads any more."""
        try:
            sys.stdout.write("".join(answer.decode() + "\n" for answer in answers))
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            raise StoreError(f"standard output: {getattr(error, 'strerror', None) or error}") from error

    def close(self) -> None:
        """It is not ours."""
