"""Names the extra of signed releases where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from collab.errors import BackendError


@contextmanager
def updates_extra() -> Iterator[None]:
    """Turn a missing package into one line with its remedy; raises `BackendError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendError(
            f"signed releases need {error.name}, which is missing: pip install 'collab[updates]'"
        ) from error
