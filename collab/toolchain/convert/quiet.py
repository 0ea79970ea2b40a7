"""Converters write progress and warnings to both streams; stdout is not for that."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Final

_LOGGERS: Final = ("tensorflow", "absl", "tf2onnx", "coremltools")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what foreign code prints, warns and logs to itself; what is wrong it raises."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            _sunk(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _sunk() -> Iterator[None]:
    """What native code writes to descriptors 1 and 2 goes to a file that is thrown away."""
    with tempfile.TemporaryFile() as sink:
        kept = [os.dup(1), os.dup(2)]
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            warnings.simplefilter("ignore")
            yield
        finally:
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
