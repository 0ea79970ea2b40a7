"""Means and rates of stages from the counters of their nodes; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

_MAX_STAGES: Final = 4_096
_STALE_S: Final = 5.0
"""A rate that nobody told for so long is none."""


class _Seen(NamedTuple):
    at_s: float
    total_us: int
    runs: int
    ms: float | None
    """Mean of the last time that it ran."""
    rate: float
    ran_s: float


class StageMeans:
    """Of each stage on each node: mean time and runs a second between two looks."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._looked: dict[str, float] = {}
        """When each node was last looked at."""

    def take(self, node: str, counters: Mapping[str, int], now_s: float) -> None:
        """What a node has counted since it started."""
        told, looked = set(), self._looked.get(node)
        self._looked[node] = now_s
        for name, total_us in counters.items():
            kind, _, where = name.partition(":")
            if kind != "stage_us":
                continue
            key = (node, where)
            told.add(key)
            runs, old = counters.get(f"stage_runs:{where}", 0), self._seen.get(key)
            if old is None and looked is not None:
                # Nothing is counted of a stage until it has run.
                old = _Seen(looked, 0, 0, None, 0.0, float("-inf"))
            if old is None:
                mean = total_us / runs / 1000 if runs else None
                found = _Seen(now_s, total_us, runs, mean, 0.0, float("-inf"))
                if len(self._seen) < _MAX_STAGES:
                    self._seen[key] = found
            elif now_s > old.at_s:
                self._seen[key] = _next(old, total_us, runs, now_s)
        for key in [key for key in self._seen if key[0] == node and key not in told]:
            del self._seen[key]

    def forget(self, node: str) -> None:
        """A node is lost: its counters begin anew."""
        self._looked.pop(node, None)
        for key in [key for key in self._seen if key[0] == node]:
            del self._seen[key]

    def ms(self, plan: str, epoch: int, stage: str) -> float | None:
        """Mean time of a stage, of its slowest replica; None where it has not run."""
        where = f"{plan}/{epoch}/{stage}"
        known = [s.ms for (_, at), s in self._seen.items() if at == where and s.ms is not None]
        return max(known, default=None)

    def rate(self, plan: str, epoch: int, stage: str, now_s: float) -> float:
        """Runs a second, over all replicas."""
        where = f"{plan}/{epoch}/{stage}"
        return sum(s.rate for (_, at), s in self._seen.items() if at == where and now_s - s.at_s < _STALE_S)

    def ran(self, plan: str, since_s: float) -> bool:
        """Whether any stage of a plan was seen to have run after a time."""
        prefix = f"{plan}/"
        return any(where.startswith(prefix) and s.ran_s > since_s for (_, where), s in self._seen.items())


def _next(old: _Seen, total_us: int, runs: int, now_s: float) -> _Seen:
    more, took_us = runs - old.runs, total_us - old.total_us
    if more < 0 or took_us < 0:  # it was started again
        return _Seen(now_s, total_us, runs, old.ms, 0.0, old.ran_s)
    ms = took_us / more / 1000 if more else old.ms
    return _Seen(now_s, total_us, runs, ms, more / (now_s - old.at_s), now_s if more else old.ran_s)
