"""One file with a channel's newest release and all metadata that proves it, to be carried by hand."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from collab.errors import InputError
from collab.updates.repository.publishing import Repository

_DATE: Final = (1980, 1, 1, 0, 0, 0)


def export(repository: Repository, family: str, channel: str, out: Path) -> list[str]:
    """Write the archive whole or not at all; returns the names in it.

    Raises:
        InputError: nothing is served there, or the archive cannot be written.
    """
    role = f"{family}.{channel}"
    metadatas = repository.metadatas
    current = metadatas.current(role) if role in repository.roles() else None
    served = set() if current is None else set(current.signed.targets)
    newest = next((file for file, _ in repository.releases(role) if file.path in served), None)
    if newest is None:
        raise InputError(f"{role}: has no release that is served; publish or sign one first")
    names = [f"{version}.root.json" for version in metadatas.versions("root")]
    names += [f"{metadatas.versions(each)[-1]}.{each}.json" for each in ("snapshot", "targets", role)]
    files = [repository.folder / "metadata" / name for name in (*names, "timestamp.json")]
    files.append(repository.file(newest))
    part = out.with_name(out.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                entry = zipfile.ZipInfo(file.relative_to(repository.folder).as_posix(), _DATE)
                with open(file, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    while data := source.read(1 << 20):
                        target.write(data)
        part.replace(out)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    return [file.relative_to(repository.folder).as_posix() for file in files]
