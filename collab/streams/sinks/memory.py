"""Answers kept in this process."""

from __future__ import annotations

from collections.abc import Sequence

from collab.streams.sinks.base import Sink


class MemorySink(Sink):
    """Keeps all answers in a list."""

    batch = 64
    loses = False

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def open(self) -> None:
        """Nothing to do."""

    def write(self, answers: Sequence[bytes]) -> None:
        """Keep them."""
        self.answers += answers

    def close(self) -> None:
        """The answers stay."""
