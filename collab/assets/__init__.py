"""Files that ship with the package: the demo model, its digits and card; a detector of digits; devices."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from collab.errors import InputError

NAMES: Final = (
    *("devices.yaml", "digits.json", "digits.tflite", "digits_heldout.npz"),
    *("scene_detector.json", "scene_detector.tflite", "scene_pipeline.yaml"),
)


def path(name: str) -> Path:
    """Return where the shipped file `name`, one of `NAMES`, lies on disk.

    Raises:
        InputError: no such file ships, or the package lies in an archive.
    """
    if name not in NAMES:
        raise InputError(f"asset {name!r} does not ship; use one of {', '.join(NAMES)}")
    with as_file(files(__name__) / name) as found:
        if not found.is_file():
            raise InputError(f"asset {name!r} is missing from this installation; reinstall collab")
    # A file unpacked from an archive is gone once `as_file` ends.
    if not found.is_file():
        raise InputError(f"asset {name!r} lies in an archive; install collab unzipped")
    return found
