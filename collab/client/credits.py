"""The credits that a requester has leased at a plan's entry, and how many are in use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from collab.core.ids import NodeName


@dataclass(slots=True)
class _Account:
    granted: int = 0
    expires_us: int = 0
    used: int = 0
    promised: int = 0
    """Most that was ever granted: so many requests their user may count on, if with patience."""


class Credits:
    """One account for each node on which attempts may enter."""

    def __init__(self, nodes: Iterable[NodeName]) -> None:
        self.doubted: set[NodeName] = set()
        """Nodes that refused what their lease allows."""
        self.short = False
        """Whether a request found no credit since the last lease."""
        self._accounts = {node: _Account() for node in nodes}

    def leased(self, granted: int, expires_us: int, node: NodeName | None = None) -> None:
        """A lease was given or renewed by one entry node, or by each of them if ``node`` is None."""
        for name, account in self._accounts.items():
            if node is None or name == node:
                account.granted, account.expires_us = granted, expires_us
                account.promised = max(account.promised, granted)
                self.doubted.discard(name)
        self.short = False

    def shrunk(self, node: NodeName, granted: int) -> None:
        """A node refused an attempt, since others need credits as well: it allows fewer now."""
        account = self._accounts[node]
        account.granted = min(account.granted, granted)
        self.short = True

    def missing(self, lost: Collection[NodeName], draining: Collection[NodeName], now_us: int) -> int:
        """Credits that went with entry nodes or to other requesters: so many requests may wait for one."""
        return sum(self._missing(node, lost, draining, now_us) for node in self._accounts)

    def _missing(
        self, node: NodeName, lost: Collection[NodeName], draining: Collection[NodeName], now_us: int
    ) -> int:
        account = self._accounts[node]
        if node in draining:
            return account.promised
        if account.expires_us <= now_us:
            return 0
        if node in lost:
            return account.granted
        return account.promised - account.granted if account.granted else 0

    def doubt(self, node: NodeName) -> None:
        """A node refused what its lease allows: ask again."""
        if node in self._accounts:
            self.doubted.add(node)

    def free_at(self, now_us: int) -> Callable[[NodeName], int]:
        """Credits left at each entry node at a time."""
        accounts = self._accounts

        def free(node: NodeName) -> int:
            account = accounts[node]
            left = account.granted - account.used
            return left if left > 0 and account.expires_us > now_us else 0

        return free

    def take(self, node: NodeName) -> None:
        """Use a credit."""
        self._accounts[node].used += 1

    def give_back(self, node: NodeName) -> None:
        """Use it no longer."""
        self._accounts[node].used -= 1

    def used(self) -> int:
        """Credits in use at all entry nodes."""
        return sum(account.used for account in self._accounts.values())

    def to_renew(self, by_us: int) -> tuple[NodeName, ...]:
        """Entry nodes whose lease ends by a time, or is in doubt."""
        return tuple(n for n, a in self._accounts.items() if a.expires_us <= by_us or n in self.doubted)
