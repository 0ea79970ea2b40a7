"""What carries packets between namespaces: the interface of the emulator's back ends."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Protocol

from collab.emulation.counters import EmulatorCounts
from collab.emulation.profile import LinkProfile


class Control(Protocol):
    """Commands from whoever started the emulator."""

    def fileno(self) -> int:
        """Readable when there is something to serve."""
        ...

    def serve(self, backend: Backend) -> bool:
        """Answer what has come; False when nobody will ask any more."""
        ...


class Backend(ABC):
    """A network that runs.

    It is made, used and closed in one thread of the emulator's own process.  Making it raises
    BackendError with a remedy where the machine cannot, and leaves nothing then.
    """

    namespaces: dict[str, int]
    """A descriptor of every host's network namespace."""

    @abstractmethod
    def run(self, control: Control) -> None:
        """Carry packets and serve commands until ``control`` ends."""

    @abstractmethod
    def change(self, one: str, other: str, profile: LinkProfile) -> None:
        """Another profile for what is sent from now on; raises ConfigError and changes nothing."""

    @abstractmethod
    def restart(self, seed: int | None = None) -> None:
        """Count time, packets and random numbers from 0 again, with the profiles of now.

        ``seed`` is that of random numbers from then on; None keeps the one before.
        """

    @abstractmethod
    def counts(self) -> EmulatorCounts:
        """What has happened since the start, or since `restart`."""

    @property
    def inodes(self) -> set[int]:
        """The namespaces by what /proc shows of them."""
        return {os.fstat(namespace).st_ino for namespace in self.namespaces.values()}

    def close(self) -> None:
        """Give the namespaces back; idempotent."""
        for namespace in self.namespaces.values():
            os.close(namespace)
        self.namespaces.clear()
