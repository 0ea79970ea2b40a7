"""A cluster's authority and identities for tests, made with the commands' own code."""

from __future__ import annotations

from pathlib import Path

from collab.security.authority import Authority, enrol_here
from collab.security.identity import Credentials


class Identities:
    """An authority in a folder, and identities of it by name."""

    def __init__(self, folder: Path, cluster: str = "home") -> None:
        self.folder = folder / cluster
        self.folder.mkdir(parents=True)
        self._loaded: dict[str, Credentials] = {}
        self.authority = Authority.create(self.folder / "authority", cluster)

    def directory(self, name: str, role: str = "node") -> Path:
        """The identity's directory; enrolled when it is first asked for."""
        directory = self.folder / name
        if not directory.exists():
            enrol_here(self.authority, directory, name, role)
        return directory

    def enrol(self, *names: str, role: str = "node") -> Identities:
        """Enrol and load now, as where an event loop runs nothing may read the disk."""
        for name in names:
            self.of(name, role)
        return self

    def of(self, name: str, role: str = "node") -> Credentials:
        """The identity, loaded when it is first asked for."""
        if name not in self._loaded:
            self._loaded[name] = Credentials.load(self.directory(name, role))
        return self._loaded[name]
