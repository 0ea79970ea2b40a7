"""Raw files and folders to inputs, with the name of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from collab.core.preprocessing import ImageSteps, Preprocessing, TableSteps
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing.images import SUFFIXES, read_pixels
from collab.runtime.preprocessing.scaling import Floats, pixels_to_floats
from collab.runtime.preprocessing.tables import read_table, table_inputs
from collab.runtime.preprocessing.windows import read_samples, window_inputs, window_starts

MAX_FILES: Final = 1_000_000


def raw_inputs(place: Path, preprocessing: Preprocessing) -> Iterator[tuple[str, Floats]]:
    """Each example of a file or of a folder's files, in the order of their names.

    Yields:
        What it is called, and float32 of `Preprocessing.input_shape`.

    Raises:
        InputError: a file is missing or wrong; names it, and the line.
        LimitExceeded: a file or their number is over a bound.
        BackendError: Pillow is missing.
    """
    steps = preprocessing.steps
    suffixes = SUFFIXES if isinstance(steps, ImageSteps) else frozenset({".csv"})
    for file in raw_files(place, suffixes):
        if isinstance(steps, ImageSteps):
            yield str(file), pixels_to_floats(read_pixels(file, steps), steps)
        elif isinstance(steps, TableSteps):
            table = read_table(file)
            for row, x in enumerate(table_inputs(table, steps)):
                yield table.where(row), x
        else:
            table = read_table(file)
            samples = read_samples(table, steps)
            made = window_inputs(samples, steps, str(file))
            for at, x in zip(window_starts(len(samples), steps), made, strict=True):
                yield f"{file}, samples {at}..{at + steps.length}", x


def raw_files(place: Path, suffixes: frozenset[str]) -> list[Path]:
    """One file, or those below a folder with one of the endings, by name."""
    if place.is_file():
        return [place]
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder")
    found: list[Path] = []
    for file in place.rglob("*"):
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file():
            found.append(file)
        if len(found) > MAX_FILES:
            raise LimitExceeded(f"{place}: has over {MAX_FILES} files; give fewer")
    if not found:
        raise InputError(f"{place}: has no files that end in {', '.join(sorted(suffixes))}")
    return sorted(found)
