"""A disk in memory that loses power: what was not synced may be lost, torn, or kept in any order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from collab.updates.store.disk import Disk

MOST = 48
"""Outcomes that are tried at one cut; where more could be, as many are drawn."""


class PowerCut(BaseException):
    """The process is gone; no exception that anything catches."""


@dataclass(eq=False)
class Inode:
    """A file: what is safe of it, and what was written since."""

    safe: bytes = b""
    fresh: bytes = b""

    def outcomes(self) -> list[bytes]:
        """What may be found after a cut: nothing of it, all, a part, or a length with zeros in it."""
        if not self.fresh:
            return [self.safe]
        half = self.fresh[: len(self.fresh) // 2]
        return [
            self.safe,
            self.safe + self.fresh,
            self.safe + half,
            self.safe + bytes(len(self.fresh)),
            self.safe + half + bytes(len(self.fresh) - len(half)),
        ]


Names = dict[str, Inode]
Change = dict[str, "Inode | None"]


@dataclass(eq=False)
class Folder:
    """Names that are safe, and changes of names since; each is made or not."""

    safe: Names = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def now(self) -> Names:
        """As the process sees it."""
        return self.after(self.changes)

    def after(self, changes: Iterable[Change]) -> Names:
        """The safe names with some changes."""
        names = dict(self.safe)
        for change in changes:
            for name, inode in change.items():
                names.pop(name, None)
                if inode is not None:
                    names[name] = inode
        return names

    def outcomes(self, rng: random.Random) -> list[Names]:
        """Every subset of the changes, of many a draw: not every disk keeps their order."""
        if len(self.changes) > 8:
            return [self.after(c for c in self.changes if rng.random() < 0.5) for _ in range(MOST)]
        subsets = (
            subset
            for size in range(len(self.changes) + 1)
            for subset in itertools.combinations(self.changes, size)
        )
        return [self.after(subset) for subset in subsets]


class SimulatedDisk(Disk):
    """Folders one below the root, and the root.

    Args:
        before: called with the number and the name of each system call that changes something.
    """

    def __init__(self, before: Callable[[int, str], None] = lambda number, call: None) -> None:
        self.folders: dict[str, Folder] = {}
        self.before = before
        self.calls: list[str] = []
        self.lies_about = "nothing"
        """Syncs whose names begin so do nothing."""

    def _call(self, name: str) -> None:
        self.before(len(self.calls), name)
        self.calls.append(name)

    def _at(self, path: str) -> tuple[Folder, str]:
        folder, _, name = path.rpartition("/")
        if folder not in self.folders:
            raise FileNotFoundError(path)
        return self.folders[folder], name

    def _inode(self, path: str) -> Inode:
        folder, name = self._at(path)
        try:
            return folder.now()[name]
        except KeyError:
            raise FileNotFoundError(path) from None

    def read(self, path: str) -> Iterator[bytes]:
        inode = self._inode(path)
        yield inode.safe + inode.fresh

    def names(self, folder: str) -> list[str]:
        if folder not in self.folders:
            raise FileNotFoundError(folder)
        return list(self.folders[folder].now())

    def mkdir(self, path: str) -> None:
        if path not in self.folders:
            self._call(f"mkdir {path}")
            self.folders[path] = Folder()
            if path:
                self.folders[""].changes.append({f"{path}/": Inode()})

    def write(self, path: str, data: bytes) -> None:
        self._call(f"write {path}")
        folder, name = self._at(path)
        if name not in folder.now():
            folder.changes.append({name: Inode()})
        folder.now()[name].fresh += data

    def fsync(self, path: str) -> None:
        self._call(f"fsync {path}")
        inode = self._inode(path)
        if not f"fsync {path}".startswith(self.lies_about):
            inode.safe, inode.fresh = inode.safe + inode.fresh, b""

    def rename(self, old: str, new: str) -> None:
        self._call(f"rename {old} {new}")
        inode = self._inode(old)
        folder, name = self._at(old)
        target, new_name = self._at(new)
        assert folder is target, "a rename between folders is not atomic"
        folder.changes.append({name: None, new_name: inode})

    def unlink(self, path: str) -> None:
        inode = self._inode(path)
        self._call(f"unlink {path}")
        assert inode is not None
        folder, name = self._at(path)
        folder.changes.append({name: None})

    def fsync_dir(self, path: str) -> None:
        self._call(f"fsync_dir {path}")
        if path not in self.folders:
            raise FileNotFoundError(path)
        if not f"fsync_dir {path}".startswith(self.lies_about):
            folder = self.folders[path]
            folder.safe, folder.changes = folder.now(), []

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def after_a_cut(self, rng: random.Random) -> list[SimulatedDisk]:
        """Disks as they may be found: every outcome of names and content where they are few, else a draw."""
        paths = list(self.folders)
        inodes = list(
            {
                id(inode): inode
                for folder in self.folders.values()
                for names in [dict[str, Inode | None](folder.safe), *folder.changes]
                for inode in names.values()
                if inode is not None
            }.values()
        )
        choices: list[list[Any]] = [
            *(self.folders[path].outcomes(rng) for path in paths),
            *(inode.outcomes() for inode in inodes),
        ]
        total = 1
        for choice in choices:
            total *= len(choice)
        drawn = (
            itertools.product(*choices)
            if total <= MOST
            else (tuple(rng.choice(choice) for choice in choices) for _ in range(MOST))
        )
        return [self._found(paths, inodes, outcome) for outcome in drawn]

    def _found(self, paths: list[str], inodes: list[Inode], outcome: tuple) -> SimulatedDisk:
        contents = {id(inode): Inode(data) for inode, data in zip(inodes, outcome[len(paths) :], strict=True)}
        found = SimulatedDisk()
        found.lies_about = self.lies_about
        named = {f"{path}/" for path in paths}
        root = outcome[paths.index("")] if "" in paths else {}
        for path, names in zip(paths, outcome, strict=False):
            if path in ("",) or f"{path}/" in root:
                found.folders[path] = Folder(
                    {name: Inode() if name in named else contents[id(inode)] for name, inode in names.items()}
                )
        return found
