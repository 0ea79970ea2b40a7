"""The credits that a requester has leased at a plan's entry, and how many are in use."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from collab.core.ids import NodeName


@dataclass(slots=True)
class _Account:
    granted: int = 0
    expires_us: int = 0
    used: int = 0


class Credits:
    """One account for each node on which attempts may enter."""

    def __init__(self, nodes: Iterable[NodeName]) -> None:
        self.doubted: set[NodeName] = set()
        """Nodes that refused what their lease allows."""
        self._accounts = {node: _Account() for node in nodes}

    def leased(self, granted: int, expires_us: int, node: NodeName | None = None) -> None:
        """A lease was given or renewed by one entry node, or by each of them if ``node`` is None."""
        for name, account in self._accounts.items():
            if node is None or name == node:
                account.granted, account.expires_us = granted, expires_us
                self.doubted.discard(name)

    def leased_by(self, nodes: Collection[NodeName], now_us: int) -> int:
        """Credits that some entry nodes have leased, in use or not."""
        return sum(
            account.granted
            for node, account in self._accounts.items()
            if node in nodes and account.expires_us > now_us
        )

    def doubt(self, node: NodeName) -> None:
        """A node refused what its lease allows: ask again."""
        if node in self._accounts:
            self.doubted.add(node)

    def free(self, node: NodeName, now_us: int) -> int:
        """Credits left at an entry node."""
        account = self._accounts[node]
        left = account.granted - account.used
        return left if left > 0 and account.expires_us > now_us else 0

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
