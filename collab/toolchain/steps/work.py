"""What a step is given, in its own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Work:
    """Settings, a folder for files in and out, and whom to tell how it goes."""

    settings: Mapping[str, Any]
    folder: Path
    progress: Progress


def echo(work: Work) -> Mapping[str, Any]:
    """Give the settings back: the step that proves that steps run."""
    work.progress("echo", 1, 1)
    return {"settings": dict(work.settings)}
