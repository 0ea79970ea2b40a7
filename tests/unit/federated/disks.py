"""A disk in memory that knows what is durable, and that ends the world at a chosen moment."""

from __future__ import annotations

from dataclasses import dataclass


class Killed(BaseException):
    """The process was killed, or the power went."""


@dataclass
class _File:
    data: bytes
    durable: bytes = b""


class MemoryDisk:
    """A `Disk`; shares its fuse with others of the same process."""

    def __init__(self, fuse: Fuse | None = None) -> None:
        self._files: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self.fuse = fuse or Fuse()
        self.fuse.disks.append(self)

    def read(self, name: str) -> bytes | None:
        file = self._files.get(name)
        return file.data if file is not None else None

    def write(self, name: str, data: bytes) -> None:
        file = self._files[name] = _File(data[: len(data) // 2])
        self.fuse.burn()
        file.data = data

    def append(self, name: str, data: bytes) -> None:
        file = self._files.setdefault(name, _File(b""))
        whole = file.data + data
        file.data += data[: len(data) // 2]
        self.fuse.burn()
        file.data = whole

    def truncate(self, name: str, size: int) -> None:
        self.fuse.burn()
        self._files[name].data = self._files[name].data[:size]

    def sync(self, name: str) -> None:
        self.fuse.burn()
        self._files[name].durable = self._files[name].data

    def rename(self, old: str, new: str) -> None:
        self.fuse.burn()
        self._files[new] = self._files.pop(old)

    def sync_names(self) -> None:
        self.fuse.burn()
        self._durable = dict(self._files)

    def remove(self, name: str) -> None:
        self.fuse.burn()
        self._files.pop(name, None)

    def names(self) -> list[str]:
        return sorted(self._files)

    def lose_power(self) -> None:
        """What is not durable is gone; a file that was not synced may have kept a part."""
        self._files = dict(self._durable)
        for file in self._files.values():
            if file.data.startswith(file.durable):
                more = len(file.data) - len(file.durable)
                file.data = file.data[: len(file.durable) + more // 3]
            else:
                file.data = file.durable


class Fuse:
    """Ends the world at the n-th operation on any of its disks, just before it has its effect."""

    def __init__(self) -> None:
        self.disks: list[MemoryDisk] = []
        self.burnt = 0
        self.at: set[int] = set()
        self.power = False

    def burn(self) -> None:
        self.burnt += 1
        if self.burnt in self.at:
            if self.power:
                for disk in self.disks:
                    disk.lose_power()
            raise Killed
