"""Trusted metadata of a repository: The Update Framework's client over our sources.

What python-tuf raises leaves here as errors of this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from collab.errors import CollabError, LimitExceeded, PeerError, Refused, StoreError
from collab.updates.extra import updates_extra
from collab.updates.fetch.base import NotOffered, Source

with updates_extra():
    from tuf.api import exceptions
    from tuf.api.metadata import Metadata, TargetFile
    from tuf.ngclient import Updater
    from tuf.ngclient.fetcher import FetcherInterface

__all__ = ["Trusted"]

MAX_ROOT_BYTES: Final = 512_000


class _Fetcher(FetcherInterface):
    """Gives python-tuf the bytes of our source; it bounds them by what is signed."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with self._source.open(url.lstrip("/")) as opened:
                yield from opened.chunks
        except NotOffered as error:
            raise exceptions.DownloadHTTPError(str(error), 404) from error


class Trusted:
    """The metadata that a device trusts, kept in a folder of its own.

    One object is for one look at the repository: make another for the next.

    Raises:
        Refused: the root is not one, or metadata is not signed, expired or older than what was seen.
        PeerError: the source does not give it.
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path, source: Source, root: bytes | None, now: datetime) -> None:
        """Take up what is in ``folder``; ``root`` came with the device, None stands for the kept one."""
        self._folder = folder
        with _translated():
            folder.mkdir(parents=True, exist_ok=True)
            self._updater = Updater(str(folder), "", fetcher=_Fetcher(source), bootstrap=root)
            # The library asks the system's clock, which a device may not have.
            self._updater._trusted_set.reference_time = now

    def refresh(self) -> None:
        """Follow root, timestamp, snapshot and targets to the newest; raises as the class says."""
        with _translated():
            try:
                self._updater.refresh()
            finally:
                _sync(self._folder)

    def target(self, path: str) -> TargetFile | None:
        """What is signed about a file; None if nobody who may has signed it."""
        with _translated():
            return self._updater.get_targetinfo(path)

    def path_of(self, target: TargetFile) -> str:
        """Where a repository with consistent snapshots keeps a file, and where any other does."""
        if not self._signed("root").consistent_snapshot:
            return str(target.path)
        folder, slash, name = str(target.path).rpartition("/")
        return f"{folder}{slash}{next(iter(target.hashes.values()))}.{name}"

    def targets_of(self, role: str, below: str) -> Mapping[str, TargetFile]:
        """All files that a role directly below the targets role has signed; ``below`` is a folder of its."""
        with _translated():
            # Asking for a file that is not there makes the library load and verify the role.
            self._updater.get_targetinfo(f"{below}/?")
            delegations = self._signed("targets").delegations
            if delegations is None or role not in (delegations.roles or {}):
                return {}
            found: dict[str, TargetFile] = self._signed(role).targets
            return {path: target for path, target in found.items() if path.startswith(f"{below}/")}

    def timestamp(self) -> tuple[int, object]:
        """Version of the newest timestamp, and when it says that it was made."""
        from collab.updates.fetch.clock import ISSUED

        signed = self._signed("timestamp")
        return int(signed.version), signed.unrecognized_fields.get(ISSUED)

    def _signed(self, role: str) -> Any:
        """A role's content as the library verified and kept it."""
        return Metadata.from_file(str(self._folder / f"{role}.json")).signed


def _sync(folder: Path) -> None:
    """Keep what was learnt over a power cut: without it an older repository would be believed."""
    for path in (
        *folder.glob("*.json"),
        *folder.glob("root_history/*.json"),
        folder / "root_history",
        folder,
    ):
        if path.exists():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except CollabError:
        raise
    except exceptions.ExpiredMetadataError as error:
        raise Refused(f"releases: {error}: an old copy, or this device's clock is wrong") from error
    except exceptions.BadVersionNumberError as error:
        raise Refused(f"releases: older than what was seen before: {error}") from error
    except exceptions.UnsignedMetadataError as error:
        raise Refused(f"releases: not signed by enough of the right keys: {error}") from error
    except exceptions.LengthOrHashMismatchError as error:
        raise Refused(f"releases: metadata that does not belong together: {error}") from error
    except exceptions.RepositoryError as error:
        raise Refused(f"releases: {error}") from error
    except exceptions.DownloadLengthMismatchError as error:
        raise LimitExceeded(f"releases: {error}") from error
    except exceptions.DownloadError as error:
        raise PeerError(f"releases: {error}; is this the address of a repository?") from error
    except OSError as error:
        raise StoreError(f"releases: {error.filename}: {error.strerror}") from error
