"""How often a client may ask: a token bucket for each.  No I/O; the caller reads the clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from collab.errors import RateLimited, UsageError

MAX_CLIENTS: Final = 10_000
"""Buckets that are kept; the one that was longest unused goes first, and begins full again."""
MAX_RATE: Final = 1e6


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class RateLimit:
    """``per_s`` requests a second for each client, and a second's worth at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str, now_s: float) -> None:
        """Count one request; raises `RateLimited` where there were too many."""
        bucket = self._buckets.pop(client, None) or _Bucket(self._most, now_s)
        bucket.tokens = min(self._most, bucket.tokens + max(0.0, now_s - bucket.at_s) * self._per_s)
        bucket.at_s = now_s
        self._buckets[client] = bucket
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            raise RateLimited(f"over {self._per_s:g} requests a second; ask again in a moment")
        bucket.tokens -= 1


def parse_rate(text: str) -> float:
    """Requests a second of ``20/s``; raises `UsageError`."""
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = 0.0
    if not 0 < rate <= MAX_RATE:
        raise UsageError(f"--rate {text[:40]!r}: give requests a second, as 20/s")
    return rate
