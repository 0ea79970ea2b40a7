"""Names for the tensors that may travel: never empty, never twice, never too long."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from collab.core.tensor import MAX_NAME_BYTES


def unique_names(tensors: Iterable[tuple[int, bytes | None]]) -> dict[int, str]:
    """Name every tensor of ``(index, name in the file)`` so that no two names are equal.

    The first tensor of a name keeps it; later ones get ``name#2``, ``name#3`` and so on in
    the order given, so that the same file always gets the same names.
    """
    tensors = list(tensors)
    wanted = {index: _printable(raw) or f"tensor_{index}" for index, raw in tensors}
    taken = set(wanted.values())
    names: dict[int, str] = {}
    given: dict[str, int] = {}
    for index, name in wanted.items():
        if name not in given:
            given[name] = 1
            names[index] = name
            continue
        candidate = name
        while candidate in taken:
            given[name] += 1
            candidate = f"{name}#{given[name]}"
        taken.add(candidate)
        names[index] = candidate
    return names


def _printable(raw: bytes | None) -> str:
    """The name as text; a NUL would end it inside LiteRT, and a long one could not travel."""
    name = (raw or b"").decode("utf-8", "replace").replace("\0", "_")
    room = MAX_NAME_BYTES - 32  # for a digest and a number behind it
    if len(name.encode()) <= room:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[: room - 17].decode('utf-8', 'ignore')}~{digest}"
