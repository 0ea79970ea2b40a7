"""Errors of the disk, as they leave a node's store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from collab.errors import StoreError


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Let errors of the disk leave as `StoreError`: that one cannot do ``what``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"store: cannot {what}: {error.strerror or error}") from error
