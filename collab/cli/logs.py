"""What a long-lived process logs, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Final

import typer

BURST: Final = 20
"""Records of one kind that are written within `WINDOW_S`; the rest are counted."""
WINDOW_S: Final = 10.0
MAX_KINDS: Final = 256
_MAX_TEXT: Final = 120


class LogForm(str, Enum):
    """How records are written."""

    TEXT = "text"
    JSON = "json"


LogFormat = Annotated[LogForm, typer.Option(help="How log records are written: text, or one JSON a line.")]

FIELDS: Final = ("plan", "epoch", "request", "attempt", "stage", "peer")
"""What a record may say beside its text, as ``extra``."""


def log_to_stderr(verbose: bool, form: LogForm = LogForm.TEXT, node: str = "") -> None:
    """Log warnings, and everything else that matters if asked to; strangers cannot flood it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Throttle())
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines(node) if form is LogForm.JSON else text)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


class JsonLines(logging.Formatter):
    """A record as one JSON object on one line."""

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self._node = {"node": node} if node else {}

    def format(self, record: logging.LogRecord) -> str:
        """Time (RFC 3339, UTC), level, logger, node, text, what it is about, and where it was raised."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._node,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


class Throttle(logging.Filter):
    """Lets a bounded number of records of one kind through, and says how many it has left out.

    A kind is a logger, a message and its first argument, such as the peer: one who is refused
    a thousand times a second is one kind.  With too many kinds the argument no longer counts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str, str], list[float]] = {}
        """Start of the window and records in it, by kind."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record."""
        if record.levelno >= logging.ERROR:
            return True
        now, kind = self._clock(), self._kind(record)
        window = self._seen.get(kind)
        if window is None or now - window[0] >= WINDOW_S:
            if window is not None and window[1] > BURST:
                record.msg = f"{record.msg} ({window[1] - BURST:.0f} more like this were left out)"
            if len(self._seen) >= 2 * MAX_KINDS:
                self._seen.clear()
            self._seen[kind] = [now, 1]
            return True
        window[1] += 1
        return window[1] <= BURST

    def _kind(self, record: logging.LogRecord) -> tuple[str, str, str]:
        first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        kind = (record.name, str(record.msg), str(first)[:_MAX_TEXT])
        return kind if kind in self._seen or len(self._seen) < MAX_KINDS else (*kind[:2], "")
