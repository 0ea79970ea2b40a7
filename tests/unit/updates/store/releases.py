"""Releases for tests of the store."""

from __future__ import annotations

import hashlib

from collab.updates.release import Release, ReleaseInfo


def content(version: int) -> bytes:
    """A model of that version."""
    return f"model {version} ".encode() * 8


def release(version: int, data: bytes | None = None, family: str = "digits") -> Release:
    """A release with that content."""
    data = content(version) if data is None else data
    return Release(
        name=f"{family}/stable/{version}.collab",
        version=version,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        custom=ReleaseInfo(family=family, version=version),
    )


def parts(version: int) -> list[bytes]:
    """Its content in three parts."""
    data = content(version)
    return [data[:10], data[10:30], data[30:]]
